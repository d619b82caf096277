"""How many channels go, and which: random channel pruning and L1 norm pruning."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from pdtool.compress import l1_norm, random_channel
from pdtool.compress.channels import Select
from pdtool.compress.models import ModelSpec, build
from pdtool.compress.prune import Unit, find_units
from pdtool.compress.rates import preset_rates, random_counts, rounding_leaves_whole
from pdtool.errors import UsageError


def unit(channels: int, layers: int = 1, blocks: int = 1, name: str = "u") -> Unit:
    names = tuple(f"{name}.{i}" for i in range(layers))
    return Unit(name=name, channels=channels, layers=names, filters=channels * layers, blocks=blocks)


@st.composite
def some_units(draw: st.DrawFn) -> list[Unit]:
    made = []
    for i in range(draw(st.integers(1, 8))):
        blocks = draw(st.sampled_from([1, 1, 1, 2, 4]))
        made.append(unit(blocks * draw(st.integers(2, 64)), draw(st.integers(1, 3)), blocks, f"u{i}"))
    return made


@settings(deadline=None, max_examples=300)
@given(some_units(), st.floats(0, 0.99), st.integers(0, 2**32 - 1))
@example([unit(48, 3, 4), unit(38)], 0.046875, 0)  # one filter more after twelve were exchanged for eight
def test_the_total_is_the_rate_as_near_as_whole_channels_allow(units: list[Unit], rate: float, seed: int) -> None:
    counts = random_counts(units, rate, np.random.default_rng(seed))
    step = [u.filters / (u.channels // u.blocks) for u in units]
    assert all(0 <= n < u.channels // u.blocks for n, u in zip(counts, units, strict=True))
    removed = sum(n * s for n, s in zip(counts, step, strict=True))
    goal = rate * sum(u.filters for u in units)
    free = [s for n, s, u in zip(counts, step, units, strict=True) if n + 1 < u.channels // u.blocks]
    if removed < goal:  # one more anywhere would not be nearer
        assert all(abs(removed + s - goal) >= goal - removed - 1e-6 for s in free)
    else:
        taken = [s for n, s in zip(counts, step, strict=True) if n > 0]
        assert all(abs(removed - s - goal) >= removed - goal - 1e-6 for s in taken)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(st.integers(2, 7), st.integers(1, 6)), min_size=1, max_size=4),
    st.floats(0, 0.99),
    st.integers(0, 2**32 - 1),
)
def test_no_other_counts_come_nearer_to_the_rate(sizes: list[tuple[int, int]], rate: float, seed: int) -> None:
    units = [unit(channels, layers, name=f"u{i}") for i, (channels, layers) in enumerate(sizes)]
    goal = rate * sum(u.filters for u in units)
    counts = random_counts(units, rate, np.random.default_rng(seed))
    removed = sum(n * len(u.layers) for n, u in zip(counts, units, strict=True))
    every = np.zeros(1)  # every total there is
    for u in units:
        every = np.unique((every[:, None] + np.arange(u.channels) * len(u.layers)).ravel())
    assert abs(removed - goal) == pytest.approx(np.abs(every - goal).min(), abs=1e-6)
    assert all(0 <= n < u.channels for n, u in zip(counts, units, strict=True))


def test_units_of_several_layers_reach_totals_together() -> None:
    units = [unit(10, layers=3), unit(10, layers=2)]
    for seed in range(300):
        threes, twos = random_counts(units, 0.5, np.random.default_rng(seed))
        assert 3 * threes + 2 * twos == 25


def test_layers_get_different_rates_with_the_group_s_mean() -> None:
    # the papers' example: a group at 50 % whose two layers lose 60 % and 40 % ("30 % and 20 %" of the group)
    units = [unit(100), unit(100)]
    drawn = [random_counts(units, 0.5, np.random.default_rng(seed)) for seed in range(200)]
    assert {sum(counts) for counts in drawn} == {100}
    shares = np.array(drawn)[:, 0] / 100
    assert shares.min() < 0.2 and shares.max() > 0.8 and 0.45 < shares.mean() < 0.55
    assert shares.min() >= 0.1 - 0.005 and shares.max() <= 0.9 + 0.005  # a fifth of what the rate leaves stays


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
def test_a_rate_outside_0_to_1_is_refused(rate: float) -> None:
    with pytest.raises(UsageError, match=r"share of channels to remove in \[0, 1\)"):
        random_counts([unit(8)], rate, np.random.default_rng(0))


@pytest.fixture(scope="module")
def resnet() -> tuple[nn.Module, tuple[Unit, ...]]:
    spec = ModelSpec.parse("resnet18:width=16,classes=5")
    net = build(spec)
    return net, find_units(net, spec.input)[0]


def removed_by_group(units: tuple[Unit, ...], chosen: dict[str, tuple[int, ...]]) -> dict[int, float]:
    totals: dict[int, list[int]] = {}
    for u in units:
        entry = totals.setdefault(u.channels, [0, 0])
        entry[0] += len(chosen[u.name]) * len(u.layers)
        entry[1] += u.filters
    return {channels: gone / total for channels, (gone, total) in totals.items()}


def test_random_channel_keeps_each_group_s_rate(resnet: tuple[nn.Module, tuple[Unit, ...]]) -> None:
    net, units = resnet
    rates = {16: 0.5, 32: 0.6, 64: 0.7, 128: 0.8}  # Chen et al. 2021, Table 1, a quarter as wide
    for seed in range(10):
        chosen = random_channel.select(units, net, 0.0, rates, np.random.default_rng(seed))
        for channels, achieved in removed_by_group(units, chosen).items():
            assert achieved == pytest.approx(rates[channels], abs=0.5 / (3 * channels))


def test_random_channel_differs_between_seeds_and_not_within(resnet: tuple[nn.Module, tuple[Unit, ...]]) -> None:
    net, units = resnet
    one, same, other = (random_channel.select(units, net, 0.5, {}, np.random.default_rng(s)) for s in (1, 1, 2))
    assert one == same != other
    assert all(list(indices) == sorted(set(indices)) for indices in one.values())
    assert len({len(indices) for name, indices in one.items() if name.startswith("layer1")}) > 1


def test_an_unknown_group_is_refused_with_the_groups_there_are(resnet: tuple[nn.Module, tuple[Unit, ...]]) -> None:
    net, units = resnet
    with pytest.raises(UsageError, match="no prunable layer has 48 channels; this model's groups are 16, 32, 64, 128"):
        random_channel.select(units, net, 0.5, {48: 0.5}, np.random.default_rng(0))
    with pytest.raises(UsageError, match="group rate of 16 channels"):
        random_channel.select(units, net, 0.5, {16: 1.0}, np.random.default_rng(0))


def test_l1_norm_removes_the_smallest_filters(resnet: tuple[nn.Module, tuple[Unit, ...]]) -> None:
    net, units = resnet
    chosen = l1_norm.select(units, net, 0.5, {}, np.random.default_rng(3))
    gone = sum(len(chosen[u.name]) * len(u.layers) for u in units)
    assert gone / sum(u.filters for u in units) == pytest.approx(0.5, abs=1e-3)
    for u in units:
        weights = [net.get_submodule(layer).weight for layer in u.layers]
        sums = sum(w.detach().abs().sum(dim=(1, 2, 3)) for w in weights if isinstance(w, torch.Tensor))
        assert isinstance(sums, torch.Tensor)
        kept = [i for i in range(u.channels) if i not in chosen[u.name]]
        assert not chosen[u.name] or sums[list(chosen[u.name])].max() <= sums[kept].min()
    assert len({round(len(chosen[u.name]) / u.channels, 2) for u in units}) > 3  # each layer has its own rate


def test_l1_norm_keeps_named_groups_and_the_rest_each_at_their_rate(
    resnet: tuple[nn.Module, tuple[Unit, ...]],
) -> None:
    net, units = resnet
    for seed in range(10):
        chosen = l1_norm.select(units, net, 0.25, {16: 0.5, 128: 0.75}, np.random.default_rng(seed))
        by_group = removed_by_group(units, chosen)
        assert by_group[16] == pytest.approx(0.5, abs=0.5 / 48)
        assert by_group[128] == pytest.approx(0.75, abs=0.5 / 384)
        rest = [u for u in units if u.channels in (32, 64)]
        gone = sum(len(chosen[u.name]) * len(u.layers) for u in rest)
        assert gone / sum(u.filters for u in rest) == pytest.approx(0.25, abs=1e-3)
    with pytest.raises(UsageError, match="no prunable layer has 48 channels"):
        l1_norm.select(units, net, 0.5, {48: 0.5}, np.random.default_rng(0))


@pytest.mark.parametrize("select", [random_channel.select, l1_norm.select])
def test_rounded_layers_keep_multiples_and_the_rate_is_as_near_as_they_allow(select: Select) -> None:
    spec = ModelSpec.parse("resnet18:width=32,classes=5")
    net = build(spec)
    units = find_units(net, spec.input)[0]
    lost = set()
    for seed in range(5):
        chosen = select(units, net, 0.5, {}, np.random.default_rng(seed), round_to=8)
        left = {u.name: u.channels - len(chosen[u.name]) for u in units}
        assert all(count % 8 == 0 and count > 0 for count in left.values())
        lost.add(tuple(left.values()))
        gone = sum(len(chosen[u.name]) * len(u.layers) for u in units)
        assert gone / sum(u.filters for u in units) == pytest.approx(0.5, abs=4 * 3 / 2400)
    assert len(lost) == 5


def test_rounding_keeps_narrow_layers_whole_and_blocks_equal() -> None:
    units = [unit(6), unit(84), unit(8), Unit(name="g", channels=48, layers=("g",), filters=48, blocks=4)]
    for rate in (0.0, 0.3, 0.6):
        six, odd, eight, four = random_counts(units, rate, np.random.default_rng(1), round_to=8)
        assert six == eight == 0  # nothing smaller is a multiple of 8
        assert (84 - odd) % 8 == 0 and 0 < odd < 84
        assert (4 * (12 - four)) % 8 == 0 and four < 12
    assert [u.channels for u in rounding_leaves_whole(units, 8)] == [6, 8]
    assert rounding_leaves_whole(units, 1) == []


def test_presets_are_the_papers_tables(resnet: tuple[nn.Module, tuple[Unit, ...]]) -> None:
    net, units = resnet
    chen = preset_rates("chen-2021", units)
    assert chen == {16: 0.5, 32: 0.6, 64: 0.7, 128: 0.8}
    layers = [u.channels for u in units for _ in u.layers]
    assert np.mean([chen[channels] for channels in layers]) == pytest.approx(0.65)  # "overall, 65 % for ResNet18"
    vgg = ModelSpec.parse("vgg16:width=8,classes=5")
    units_of_vgg = find_units(build(vgg), vgg.input)[0]
    rates = preset_rates("chen-2021", units_of_vgg)
    assert np.mean([rates[u.channels] for u in units_of_vgg]) == pytest.approx(0.70)  # "and 70 % for VGGNet16"
    assert preset_rates("wang-2021", units) == {16: 0.5, 32: 0.5, 64: 0.5, 128: 0.5}
    with pytest.raises(UsageError, match="unknown preset 'chen'; expected one of chen-2021, wang-2021"):
        preset_rates("chen", units)
    with pytest.raises(UsageError, match=r"is for layers of c, 2c, 4c and 8c channels .* 6, 16: give .*--group-rate"):
        preset_rates("chen-2021", [unit(6), unit(16)])


def test_blocks_lose_the_same_positions() -> None:
    net = nn.ModuleDict({"u": nn.Conv2d(1, 12, 1)})
    block = Unit(name="u", channels=12, layers=("u",), filters=12, blocks=3)
    for select in (random_channel.select, l1_norm.select):
        indices = np.array(select([block], net, 0.5, {}, np.random.default_rng(0))["u"])
        assert len(indices) == 6
        positions = indices.reshape(3, 2) % 4
        assert (positions == positions[0]).all()
