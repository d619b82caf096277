"""Pictures to model input: shapes, number types, colours, and what is refused."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from pdtool.artifacts import Preprocessing
from pdtool.errors import InputError
from pdtool.images import as_input, decode, fit, fit_all, size_of

SIDES = st.integers(1, 40)
PICTURES = st.one_of(
    arrays(np.uint8, st.tuples(SIDES, SIDES)),
    arrays(np.uint8, st.tuples(SIDES, SIDES, st.sampled_from((1, 3, 4)))),
)
SIZES = st.tuples(st.sampled_from((1, 3)), SIDES, SIDES)


def encoded(picture: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


@settings(max_examples=80, deadline=None)
@given(picture=PICTURES, size=SIZES)
def test_any_picture_fits_any_size(picture, size):
    before = picture.copy()
    fitted = fit(picture, size)
    assert fitted.dtype == np.uint8 and fitted.shape == (size[1], size[2], size[0])
    assert np.array_equal(picture, before)
    assert picture.min() <= fitted.max() and fitted.min() <= picture.max()
    assert np.array_equal(fit(fitted, size), fitted)  # once is enough


@settings(max_examples=80, deadline=None)
@given(picture=PICTURES, size=SIZES)
def test_a_batch_is_each_picture_by_itself(picture, size):
    pair = fit_all([picture, picture[::-1]], size)
    assert np.array_equal(pair[0], fit(picture, size)) and np.array_equal(pair[1], fit(picture[::-1], size))
    planes = as_input(pair)
    assert planes.dtype == np.float32 and planes.shape == (2, *size) and planes.flags.c_contiguous
    assert planes.min() >= 0 and planes.max() <= 1
    assert np.allclose(planes[0] * 255, pair[0].transpose(2, 0, 1), atol=1e-4)
    assert np.array_equal(as_input(pair[:1])[0], planes[0])


@settings(max_examples=30, deadline=None)
@given(value=st.integers(0, 255), channels=st.sampled_from((1, 3, 4)), size=SIZES)
def test_a_plain_picture_keeps_its_value(value, channels, size):
    assert (fit(np.full((9, 13, channels), value, np.uint8), size) == value).all()


@settings(max_examples=40, deadline=None)
@given(picture=arrays(np.uint8, (5, 7, 3)))
def test_grey_is_pillows_grey(picture):
    assert np.array_equal(fit(picture, (1, 5, 7))[..., 0], np.asarray(Image.fromarray(picture).convert("L")))


def test_floats_pass_untouched_and_bytes_and_floats_agree():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 5, 3), dtype=np.uint8)
    floats = pixels * np.float32(1 / 255)
    assert fit(floats[0], (3, 6, 5)) is not None and np.array_equal(fit_all(floats, (3, 6, 5)), floats)
    assert np.array_equal(as_input(pixels), as_input(floats))


def test_a_view_that_is_not_contiguous_fits():
    wide = np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8)
    view = wide[::2, ::-1, :3]
    assert np.array_equal(fit(view, (3, 8, 8)), fit(view.copy(), (3, 8, 8)))


@pytest.mark.parametrize(
    "picture, message",
    [
        (np.zeros((4, 4, 2), np.uint8), r"got \(4, 4, 2\)"),
        (np.zeros((4,), np.uint8), "expected a picture of shape"),
        (np.zeros((0, 4, 3), np.uint8), "expected a picture of shape"),
        (np.zeros((1, 4, 4, 3), np.uint8), "expected a picture of shape"),
        (np.zeros((4, 4, 3), np.int64), "got int64"),
        (np.zeros((4, 4, 3), np.float64), "got float64"),
        (np.zeros((5, 4, 3), np.float32), r"must be \(4, 4, 3\) already"),
        (np.full((4, 4, 3), np.nan, np.float32), "has NaN or values outside"),
        (np.full((4, 4, 3), 1.5, np.float32), "has NaN or values outside"),
    ],
)
def test_what_is_no_picture_is_refused(picture, message):
    with pytest.raises(InputError, match=message):
        fit(picture, (3, 4, 4))


def test_bytes_and_floats_do_not_mix():
    with pytest.raises(InputError, match="all uint8 or all float32"):
        fit_all([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.float32)], (3, 4, 4))


def test_no_pictures_are_an_empty_batch():
    assert fit_all([], (3, 4, 5)).shape == (0, 4, 5, 3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_every_common_kind_of_picture_decodes(mode, kind):
    if mode == "CMYK" and kind == "PNG":
        kind = "JPEG"
    picture = Image.new(mode, (7, 5))
    pixels = decode(encoded(picture, kind), name="x")
    grey = mode in ("1", "L", "LA", "I;16")
    assert pixels.dtype == np.uint8 and pixels.shape == ((5, 7) if grey else (5, 7, 3))


def test_sixteen_bits_keep_the_high_byte():
    deep = Image.fromarray(np.array([[0, 255, 256, 65535]], dtype=np.uint16))
    assert decode(encoded(deep), name="x").tolist() == [[0, 0, 1, 255]]


def test_a_damaged_picture_is_refused_with_its_name():
    whole = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)))
    for data in (b"", b"GIF89a", whole[:30], whole[:-200], whole[:100] + bytes(50) + whole[150:]):
        with pytest.raises(InputError, match="frame-7: not a readable picture"):
            decode(data, name="frame-7")


def test_a_picture_too_large_to_unpack_is_refused():
    head = bytearray(encoded(Image.new("L", (8, 8))))
    head[16:24] = (20_000).to_bytes(4, "big") * 2  # width and height in IHDR
    import zlib

    head[29:33] = zlib.crc32(head[12:29]).to_bytes(4, "big")
    with pytest.raises(InputError, match=r"20000x20000 pixels, at most|not a readable picture"):
        decode(bytes(head), name="x")


@settings(max_examples=60, deadline=None)
@given(
    data=st.binary(max_size=200), head=st.sampled_from((b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"BM", b"P6\n"))
)
def test_any_bytes_are_a_picture_or_an_input_error(data, head):
    try:
        assert decode(head + data, name="x").dtype == np.uint8
    except InputError as error:
        assert "\n" not in str(error)


def test_size_of_reads_channels_first():
    assert size_of(Preprocessing(channels=1, height=3, width=5, mean=(0.5,), std=(0.2,))) == (1, 3, 5)
