"""The catalogue: every board reads as typed numbers, names are forgiving, errors suggest what was meant."""

import csv
from pathlib import Path

import pytest

import pdtool.devices
from pdtool.devices.catalogue import PRECISIONS, all_devices, find
from pdtool.errors import UsageError

CSV = Path(pdtool.devices.__file__).with_name("devices.csv")


def test_every_row_of_the_file_is_a_profile_with_its_basis_and_source() -> None:
    rows = list(csv.DictReader(CSV.read_text().splitlines()))
    devices = all_devices()
    assert [device.id for device in devices] == [row["id"] for row in rows]
    assert len({device.id for device in devices}) == len(devices) == 31
    assert all(device.basis and device.source and device.runtime_support for device in devices)


def test_units_are_bytes_and_operations_a_second() -> None:
    orin = find("jetson-orin-nano-8gb")
    assert (orin.memory_bytes, orin.bandwidth, orin.memory_shared) == (8 * 10**9, 68e9, True)
    # 2 operations x 128 lanes x 8 multiprocessors x 625 MHz, within the rounding of the table
    assert orin.fp32_flops == pytest.approx(2 * 128 * orin.sm_count * orin.gpu_clock_hz, rel=0.01)
    for device in all_devices():
        peaks = [device.peak(precision) for precision in PRECISIONS]
        known = [peak for peak in peaks if peak is not None]
        assert known == sorted(known) and known[0] > 1e11, device.id
        assert 1e9 < device.memory_bytes < 1e12 and 1e10 < device.bandwidth < 1e13, device.id


def test_what_is_not_published_is_none_and_several_memory_sizes_count_as_the_smallest() -> None:
    assert find("jetson-t5000").int8_ops is None
    assert find("jetson-nano").peak("int8") is None
    xavier = find("jetson-xavier-nx")
    assert xavier.memory_bytes == 8 * 10**9 and xavier.memory_note == "sold with 8 or 16 GB; figures here use 8 GB"
    assert [device.id for device in all_devices() if not device.supported] == [
        "jetson-nano",
        "jetson-tx2",
        "jetson-xavier-nx",
        "jetson-agx-xavier",
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("jetson-orin-nano-8gb", "jetson-orin-nano-8gb"),  # exact, although another id starts with it
        ("orin-nano-8gb", "jetson-orin-nano-8gb"),
        ("Jetson Orin Nano 8GB", "jetson-orin-nano-8gb"),
        ("JETSON_T50", "jetson-t5000"),
        ("rtx-309", "rtx-3090"),
        ("GeForce RTX 3090", "rtx-3090"),
        ("nano", "jetson-nano"),
    ],
)
def test_find_forgives_case_prefix_and_the_vendors_spelling(name: str, expected: str) -> None:
    assert find(name).id == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("jetson-xaver-nx", "did you mean jetson-xavier-nx"),
        ("rtx-30", "could be rtx-3060 or rtx-3090; name one of them"),
        ("toaster", "'toaster' is not in the catalogue; `pdtool devices list` shows all of them"),
        ("", "'' is not in the catalogue"),
    ],
)
def test_an_unknown_name_is_a_usage_error_that_says_what_was_near(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        find(name)
    assert "\n" not in str(caught.value)
