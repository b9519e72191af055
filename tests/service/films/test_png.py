"""PNG films: depths, colours that are grey, and what is refused."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.errors import DecodeFailed, RadiographError, SeveralFrames, TooManyPixels, Truncated, UnsupportedRadiograph
from service.films.radiograph import Limits, decode

GREY = (np.arange(24 * 40).reshape(24, 40) % 256).astype(np.uint8)


def png(pixels: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def raw_png(width: int, height: int, depth: int, colour: int, rows: bytes, *, interlace: int = 0) -> bytes:
    """By hand, chunk by chunk. rows: scan lines with their filter bytes."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_eight_bits_by_hand() -> None:
    film = decode(png(GREY))
    assert film.pixels.dtype == np.float32
    np.testing.assert_array_equal(film.pixels, GREY.astype(np.float32) / np.float32(255))
    assert (film.width, film.height, film.attributes) == (40, 24, {"format": "png"})


def test_sixteen_bits_by_hand() -> None:
    film = decode(png(np.array([[0, 1, 32768, 65535]], dtype=np.uint16)))
    expected = np.array([[0, 1, 32768, 65535]], dtype=np.float32) / np.float32(65535)
    np.testing.assert_array_equal(film.pixels, expected)


def test_one_bit_by_hand() -> None:
    film = decode(raw_png(8, 1, 1, 0, bytes([0, 0b10100101])))
    assert film.pixels.tolist() == [[1, 0, 1, 0, 0, 1, 0, 1]]


def test_four_bits_by_hand() -> None:
    assert decode(raw_png(2, 1, 4, 0, bytes([0, 0x0F]))).pixels.tolist() == [[0.0, 1.0]]


def test_interlaced_by_hand() -> None:
    """Adam7 of a film of one pixel: the first pass holds it, the other six are empty."""
    assert decode(raw_png(1, 1, 8, 0, bytes([0, 51]), interlace=1)).pixels.tolist() == [[np.float32(0.2)]]


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_grey_in_colour_channels_equals_grey(channels: int) -> None:
    opaque = np.full_like(GREY, 255)
    planes = {2: [GREY, opaque], 3: [GREY] * 3, 4: [GREY, GREY, GREY, opaque]}[channels]
    assert decode(png(np.stack(planes, axis=2))).pixels_sha256 == decode(png(GREY)).pixels_sha256


def test_a_grey_palette_equals_grey() -> None:
    picture = Image.fromarray(255 - GREY)
    picture = picture.convert("P")
    picture.putpalette([value for index in range(256) for value in [255 - index] * 3])
    file = io.BytesIO()
    picture.save(file, "PNG")
    assert decode(file.getvalue()).pixels_sha256 == decode(png(GREY)).pixels_sha256


def test_nearly_grey_becomes_its_luminance() -> None:
    """0.299 * 104 + 0.587 * 100 + 0.114 * 100 = 101.196."""
    assert decode(png(np.array([[[104, 100, 100]]], np.uint8))).pixels[0, 0] == np.float32(101 / 255)


def test_colour_is_refused() -> None:
    with pytest.raises(UnsupportedRadiograph):
        decode(png(np.array([[[200, 100, 100]]], np.uint8)))


def test_transparency_is_refused() -> None:
    with pytest.raises(UnsupportedRadiograph):
        decode(png(np.stack([GREY, 254 * np.ones_like(GREY)], axis=2)))
    with pytest.raises(UnsupportedRadiograph):
        decode(png(GREY, transparency=3))


def test_animations_are_refused() -> None:
    with pytest.raises(SeveralFrames):
        decode(png(GREY, save_all=True, append_images=[Image.fromarray(255 - GREY)]))


@pytest.mark.parametrize("kept", [8, 20, 33, 40, 0.3, 0.9])
def test_truncated(kept: float) -> None:
    data = png(np.random.default_rng(0).integers(0, 256, (200, 200), dtype=np.uint8))
    with pytest.raises(Truncated):
        decode(data[: kept if isinstance(kept, int) else int(kept * len(data))])


def test_rows_that_are_missing_from_a_whole_file() -> None:
    with pytest.raises(Truncated):
        decode(raw_png(4, 4, 8, 0, bytes(5 * 2)))


def test_a_bit_flip_in_the_pixels_is_noticed() -> None:
    data = bytearray(png(GREY))
    data[data.index(b"IDAT") + 20] ^= 0x10
    with pytest.raises(RadiographError):
        decode(bytes(data))


def test_a_huge_header_is_refused_before_decoding() -> None:
    with pytest.raises(TooManyPixels):
        decode(raw_png(2**31 - 1, 2**31 - 1, 8, 0, b"\0"))


@pytest.mark.parametrize(("width", "height"), [(0, 5), (5, 0)])
def test_an_empty_picture_is_refused(width: int, height: int) -> None:
    with pytest.raises(UnsupportedRadiograph):
        decode(raw_png(width, height, 8, 0, b"\0"))


def test_the_pixel_limit_is_exact() -> None:
    assert decode(png(GREY), Limits(max_pixels=GREY.size)).width == 40
    with pytest.raises(TooManyPixels):
        decode(png(GREY), Limits(max_pixels=GREY.size - 1))


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """96 MB of zeros, deflated."""
    return zlib.compress(bytes(96 << 20), 1)


TIGHT = Limits(decode_memory_bytes=48 << 20)


def test_a_zlib_bomb_behind_a_small_header_costs_nothing(bomb: bytes) -> None:
    """Only the eight rows of the film of 8 x 8 are ever inflated."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
    film = decode(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", bomb) + chunk(b"IEND", b""), TIGHT)
    assert film.pixels.shape == (8, 8)


def test_a_text_bomb_is_refused(bomb: bytes) -> None:
    data = png(GREY)
    with pytest.raises((UnsupportedRadiograph, DecodeFailed)):
        decode(data[:33] + chunk(b"zTXt", b"Comment\0\0" + bomb) + data[33:], TIGHT)
