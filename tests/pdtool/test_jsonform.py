"""Strict JSON: what is not exactly the artefact is refused with file and field."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdtool.artifacts import FileEntry, Preprocessing
from pdtool.errors import InputError
from pdtool.jsonform import canonical, decode, encode, parse

GOOD = Preprocessing(channels=3, height=32, width=32, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))


@given(
    st.integers(1, 4096),
    st.integers(1, 4096),
    st.lists(st.floats(-10, 10), min_size=3, max_size=3),
    st.lists(st.floats(1e-3, 10), min_size=3, max_size=3),
)
def test_round_trip(height, width, mean, std):
    p = Preprocessing(channels=3, height=height, width=width, mean=tuple(mean), std=tuple(std))
    data = canonical(encode(p))
    assert decode(Preprocessing, parse(data, file="p.json"), file="p.json") == p
    assert canonical(json.loads(data)) == data


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"colour": "x"}, "unknown field 'colour'"),
        ({"height": "32"}, "field 'height' should be int"),
        ({"height": True}, "field 'height' should be int"),
        ({"height": 0}, "1..4096"),
        ({"mean": 0.5}, "field 'mean' should be a list"),
        ({"mean": [0.5, "a", 0.5]}, r"field 'mean\[1\]' should be float"),
        ({"resize": "cubic"}, "one of 'bilinear'"),
        ({"std": [0.2]}, "3 numbers each"),
    ],
)
def test_what_does_not_fit_is_named(change, says):
    with pytest.raises(InputError, match=r"p\.json.*" + says):
        decode(Preprocessing, encode(GOOD) | change, file="p.json")


def test_missing_field_and_wrong_document():
    document = encode(GOOD)
    del document["std"]
    with pytest.raises(InputError, match="'std' is missing"):
        decode(Preprocessing, document, file="p.json")
    with pytest.raises(InputError, match="should be an object"):
        decode(Preprocessing, [1], file="p.json")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"{", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"[1]", "expected a JSON object"),
        (b'{"a":1,"a":2}', "'a' is given twice"),
        (b'{"a":NaN}', "NaN is not a number"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_hostile_json(data, says):
    with pytest.raises(InputError, match=says):
        parse(data, file="x.json")


@given(st.text())
def test_file_entries_stay_inside_the_folder(path):
    try:
        entry = FileEntry(path=path, bytes=1, sha256="0" * 64)
    except ValueError:
        return
    assert not entry.path.startswith("/")
    assert ".." not in entry.path.split("/")


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../b", "a\\b", "a//b"])
def test_paths_that_leave_the_folder(path):
    with pytest.raises(ValueError, match="plain and inside"):
        FileEntry(path=path, bytes=1, sha256="0" * 64)


def test_artefacts_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        GOOD.height = 1  # type: ignore[misc]  # the point of the test
