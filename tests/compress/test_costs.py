import torch
from torch import Tensor, nn

from pdtool.compress.costs import count, count_nonzero


class Odd(nn.Module):
    """A layer used twice, one never used, a bare parameter, a matrix product outside any layer, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.unused = nn.Linear(7, 7)
        self.mix = nn.Parameter(torch.ones(4, 5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(torch.relu(self.conv(x)))
        mixed: Tensor = y.mean((2, 3)) @ self.mix
        return mixed


def test_layers_are_counted_by_hand() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5))
    costs = count(net, (3, 8, 8))
    conv, relu, _, linear = costs.layers
    assert (conv.macs, conv.parameters, conv.output_bytes) == (8 * 16 * 27, 216, 4 * 8 * 16)
    assert (relu.macs, relu.parameters, relu.output_bytes) == (0, 0, 512)
    assert (linear.macs, linear.parameters, linear.output_bytes) == (640, 645, 20)
    assert costs.macs == 8 * 16 * 27 + 640
    assert torch.__version__ in costs.counted_by


def test_an_odd_net_is_counted_whole() -> None:
    net = Odd()
    costs = count(net, (4, 6, 6))
    layers = {layer.name: layer for layer in costs.layers}
    once = 36 * 4 * 4 * 9
    assert layers["conv"].macs == 2 * once
    assert layers["conv"].output_bytes == 2 * 4 * 4 * 36
    assert layers["unused"].macs == 0
    assert (layers["Odd"].macs, layers["Odd"].parameters) == (20, 20)
    assert costs.macs == 2 * once + 20
    assert costs.parameters == sum(parameter.numel() for parameter in net.parameters())


def test_grouped_and_tied_layers_are_counted_once() -> None:
    net = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(), nn.Linear(4, 4), nn.Linear(4, 4))
    net[3].weight = net[2].weight
    costs = count(net, (4, 3, 3))
    assert costs.macs == 4 * 9 + 16 + 16
    assert costs.parameters == sum(parameter.numel() for parameter in net.parameters())


def test_counting_leaves_mode_and_statistics_alone() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten())
    net[2].eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    count(net, (1, 5, 5))
    assert [module.training for module in net] == [True, True, False, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())


def test_what_is_not_zero_is_counted_by_hand() -> None:
    conv, linear = nn.Conv2d(4, 8, 3, groups=2, bias=False), nn.Linear(8 * 16, 5)
    net = nn.Sequential(conv, nn.BatchNorm2d(8), nn.Flatten(), linear)
    with torch.no_grad():
        conv.weight.copy_(torch.arange(8 * 2 * 9).reshape(8, 2, 3, 3) % 3)  # a third is zero
        linear.weight[:, :100] = 0
        linear.bias.zero_()
    costs = count(net, (4, 6, 6))
    left = count_nonzero(net, costs)
    assert left.weights == {"0": 96, "3": 5 * 28}
    assert left.macs == 16 * 96 + 5 * 28 and costs.macs == 16 * 144 + 5 * 128
    assert left.parameters == 96 + 8 + 5 * 28  # batch norm's shifts and the biases are zero
    odd = Odd()
    dense = count(odd, (4, 6, 6))
    assert count_nonzero(odd, dense).macs == dense.macs
    with torch.no_grad():
        odd.conv.weight[0] = 0
    assert count_nonzero(odd, dense).macs == dense.macs - 2 * 36 * 4 * 9
