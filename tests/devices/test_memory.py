"""Byte sizes, and memory that really goes back."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdtool.devices.memory import give_back, parse_bytes, peak_bytes, reset_peak, resident_bytes, tune_malloc
from pdtool.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64MiB", 64 * 2**20),
        ("1.5 GiB", 3 * 2**29),
        ("1kb", 1000),
        ("17", 17),
        (17, 17),
        (" 2 MB ", 2_000_000),
        ("9B", 9),
    ],
)
def test_sizes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    "text", ["", "12 potatoes", "-1MiB", "0", "0.0001KiB", "MiB", "1e9", "nan", "1,5GiB", "64 M iB"]
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UsageError, match="memory budget"):
        parse_bytes(text)


@given(st.text())
def test_any_text_is_a_size_or_a_usage_error(text):
    with contextlib.suppress(UsageError):
        assert parse_bytes(text) > 0


def test_peak_and_resident_follow_what_is_held():
    assert tune_malloc() in (True, False)
    give_back()
    reset_peak()
    before = resident_bytes()
    block = bytearray(b"x" * (64 * 2**20))
    held = resident_bytes() - before
    del block
    give_back()
    assert held >= 60 * 2**20
    assert peak_bytes() - before >= 60 * 2**20
    assert resident_bytes() - before < 16 * 2**20
