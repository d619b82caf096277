"""The roofline: the larger of arithmetic and traffic, labelled as the estimate it is."""

import pytest

from pdtool.artifacts import LayerCost, ModelCosts
from pdtool.devices.catalogue import PRECISIONS, DeviceProfile, all_devices, find
from pdtool.devices.roofline import ITEM_BYTES, estimate, fits
from pdtool.errors import UsageError


def costs(macs: int, output_bytes: int) -> ModelCosts:
    convolution = LayerCost(name="conv", kind="Conv2d", macs=macs, parameters=100, output_bytes=output_bytes)
    relu = LayerCost(name="relu", kind="ReLU", macs=0, parameters=0, output_bytes=output_bytes)
    return ModelCosts(macs=macs, parameters=100, counted_by="hand", layers=(convolution, relu))


def test_compute_bound_is_flops_over_peak() -> None:
    board = find("rtx-3090")
    answer = estimate(costs(10**9, 0), 0, board)
    assert answer.ms == answer.compute_ms == pytest.approx(1e3 * 2e9 / 35.6e12)
    assert (answer.bound, answer.label) == ("compute", "estimate")
    assert "ten times this or more" in answer.caveat


def test_bandwidth_bound_counts_weights_once_and_outputs_twice_a_picture() -> None:
    board = find("rtx-3090")
    answer = estimate(costs(1, 10**6), 5 * 10**6, board, batch=4)
    assert answer.ms == answer.memory_ms == pytest.approx(1e3 * (5e6 + 4 * 2 * 1e6) / 936e9)
    assert answer.bound == "bandwidth"
    half = estimate(costs(1, 10**6), 0, board, "fp16", batch=4)
    assert half.memory_ms == pytest.approx(1e3 * 4 * 2 * 0.5e6 / 936e9)


@pytest.mark.parametrize("device", all_devices(), ids=lambda device: device.id)
def test_lower_precision_and_smaller_batch_never_take_longer(device: DeviceProfile) -> None:
    model = costs(10**8, 10**6)
    known = [precision for precision in PRECISIONS if device.peak(precision) is not None]
    times = [estimate(model, 10**6 * ITEM_BYTES[precision], device, precision).ms for precision in known]
    assert times == sorted(times, reverse=True)
    assert estimate(model, 10**6, device, batch=1).ms <= estimate(model, 10**6, device, batch=8).ms


def test_an_unknown_peak_names_the_precisions_that_are_known() -> None:
    with pytest.raises(UsageError, match="jetson-nano has no known int8 peak; choose --precision fp32, fp16"):
        estimate(costs(1, 1), 1, find("jetson-nano"), "int8")
    with pytest.raises(ValueError, match="batch should be at least 1, is 0"):
        estimate(costs(1, 1), 1, find("jetson-nano"), batch=0)


def test_fits_compares_with_the_boards_memory_and_says_who_else_lives_there() -> None:
    nano, desktop = find("jetson-orin-nano-4gb"), find("rtx-a2000")
    assert fits(3 * 10**9, nano).fits and not fits(5 * 10**9, nano).fits
    assert fits(10**9, nano).share == pytest.approx(0.25)
    assert "share it" in fits(1, nano).note
    assert "sold with 6 or 12 GB" in fits(1, desktop).note
