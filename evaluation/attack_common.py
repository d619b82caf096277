"""What the attacks share: the net held still, gradients of the image, margins, other classes and random draws."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

__all__ = ["Setting", "device_of", "frozen", "gradient", "logits_of", "margin", "other_class"]

Setting = float | int | bool


@contextmanager
def frozen(net: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients of the weights inside (an attack needs those of the image); restored after."""
    training = {module: module.training for module in net.modules()}
    wanted = {parameter: parameter.requires_grad for parameter in net.parameters()}
    net.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
        for parameter, want in wanted.items():
            parameter.requires_grad_(want)


def device_of(net: torch.nn.Module) -> torch.device:
    """Where the net's weights are; the CPU for a net without weights."""
    first = next(net.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def logits_of(net: torch.nn.Module, images: torch.Tensor, *, batch: int = 1024) -> torch.Tensor:
    """The net's logits (N, classes) of the images, `batch` at a time, without gradients."""
    with torch.no_grad():
        return torch.cat([net(part) for part in torch.split(images, batch)])


def gradient(loss: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The values (N,) of `loss` for images (N, C, H, W), and their gradient with respect to the images."""
    given = images.detach().requires_grad_(True)
    values = loss(given)
    (found,) = torch.autograd.grad(values.sum(), given)
    return values.detach(), found


def margin(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Best other logit minus that of the label, (N,): positive where the label is not the net's."""
    own = torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
    return logits.masked_fill(own, -torch.inf).amax(dim=1) - logits[own]


def other_class(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """A random class other than the label for each of `labels` (N,), drawn from torch's random state."""
    drawn = torch.randint(classes - 1, labels.shape).to(labels.device)
    return drawn + (drawn >= labels)
