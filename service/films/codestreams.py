"""One compressed frame -> stored values: the frame's own size is read by hand, then one pinned decoder per syntax."""

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jpeg_ls
import numpy as np
import openjpeg.utils
import rle.utils
from numpy.typing import NDArray
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import JPEGLosslessDecoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from service.errors import DecodeFailed, Truncated, UnsupportedRadiograph
from service.films.grayscale import Stored

SOI, EOI = b"\xff\xd8", b"\xff\xd9"  # JPEG's; JPEG 2000 ends with the same two bytes
BASELINE, LOSSLESS, JPEG_LS = (0xC0, 0xC1), (0xC3,), (0xF7,)
START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
START_OF_SCAN = 0xDA

Decoded = NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class FrameSpec:
    """What the data set says about its frame."""

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    signed: bool


@dataclass(frozen=True, slots=True)
class CodestreamHeader:
    """What a compressed frame says about itself."""

    rows: int
    columns: int
    components: int
    precision: int


def jpeg_header(frame: bytes, frame_markers: tuple[int, ...]) -> CodestreamHeader:
    """The first start-of-frame segment (ITU-T T.81 B.2.2), which must be one of `frame_markers`.

    Raises UnsupportedRadiograph for another JPEG process, struct.error where the frame ends first.
    """
    if frame[:2] != SOI:
        raise UnsupportedRadiograph("the pixel data do not begin as a JPEG does")
    position = 2
    while True:
        fill, marker, length = struct.unpack_from(">BBH", frame, position)
        if fill != 0xFF or marker == START_OF_SCAN:
            raise UnsupportedRadiograph("the JPEG has no frame header")
        if marker == 0xFF:
            position += 1
            continue
        if marker in START_OF_FRAME:
            break
        position += 2 + length
    if marker not in frame_markers:
        raise UnsupportedRadiograph("the JPEG's process is not that of its transfer syntax")
    precision, rows, columns, components = struct.unpack_from(">BHHB", frame, position + 4)
    return CodestreamHeader(rows, columns, components, precision)


def jpeg2000_header(frame: bytes) -> CodestreamHeader:
    """The SIZ segment (ITU-T T.800 A.5.1) of a bare codestream, as PS3.5 A.4.4 wants it: no JP2 boxes."""
    if frame[:4] != b"\xff\x4f\xff\x51":
        raise UnsupportedRadiograph("the pixel data do not begin as a JPEG 2000 codestream does")
    right, bottom, left, top = struct.unpack_from(">IIII", frame, 8)
    components, precision = struct.unpack_from(">HB", frame, 40)
    return CodestreamHeader(bottom - top, right - left, components, (precision & 0x7F) + 1)


def _check_header(header: CodestreamHeader, spec: FrameSpec) -> None:
    if (header.rows, header.columns) != (spec.rows, spec.columns):
        raise UnsupportedRadiograph("the compressed frame's size is not the data set's")
    if header.components != 1:
        raise UnsupportedRadiograph("the compressed frame has several components")
    if not 2 <= header.precision <= 16:
        raise UnsupportedRadiograph("the compressed frame's precision is outside 2 to 16 bits")


def _check_end(frame: bytes) -> None:
    if not frame.rstrip(b"\0\xff").endswith(EOI):
        raise Truncated("the compressed frame has no end marker")


def read_jpeg_baseline(frame: bytes, spec: FrameSpec) -> Decoded:
    header = jpeg_header(frame, BASELINE)
    _check_header(header, spec)
    _check_end(frame)
    with Image.open(io.BytesIO(frame), formats=["JPEG"]) as image:
        if image.mode != "L" or image.size != (spec.columns, spec.rows):
            raise UnsupportedRadiograph("the JPEG is not grey")
        return np.asarray(image)


def read_jpeg_lossless(frame: bytes, spec: FrameSpec) -> Decoded:
    header = jpeg_header(frame, LOSSLESS)
    _check_header(header, spec)
    _check_end(frame)
    options: dict[str, Any] = {
        "rows": spec.rows,
        "columns": spec.columns,
        "samples_per_pixel": 1,
        "number_of_frames": 1,
        "photometric_interpretation": "MONOCHROME2",
        "bits_allocated": 8 if header.precision <= 8 else 16,
        "bits_stored": header.precision,
        "pixel_representation": 0,
        "pixel_keyword": "PixelData",
    }
    pixels, _ = JPEGLosslessDecoder.as_array(encapsulate([frame]), raw=True, decoding_plugin="gdcm", **options)
    return pixels


def read_jpeg_ls(frame: bytes, spec: FrameSpec) -> Decoded:
    header = jpeg_header(frame, JPEG_LS)
    _check_header(header, spec)
    _check_end(frame)
    pixels, _ = jpeg_ls.decode_pixel_data(frame)
    return _shaped(pixels, 8 if header.precision <= 8 else 16, spec)


def read_jpeg2000(frame: bytes, spec: FrameSpec) -> Decoded:
    _check_header(jpeg2000_header(frame), spec)
    _check_end(frame)
    return openjpeg.utils.decode(frame, j2k_format=0)


def read_rle(frame: bytes, spec: FrameSpec) -> Decoded:
    (segments,) = struct.unpack_from("<I", frame)
    if segments != spec.bits_allocated // 8:
        raise UnsupportedRadiograph("the RLE frame's segments are not those of one grey sample")
    pixels = rle.utils.decode_pixel_data(
        frame, version=2, rows=spec.rows, columns=spec.columns, bits_allocated=spec.bits_allocated
    )
    return _shaped(bytes(pixels), spec.bits_allocated, spec)


def _shaped(pixels: bytes | bytearray, bits_allocated: int, spec: FrameSpec) -> Decoded:
    if len(pixels) != spec.rows * spec.columns * bits_allocated // 8:
        raise Truncated("the compressed frame ends before the picture does")
    samples: Decoded = np.frombuffer(pixels, np.dtype(np.uint8 if bits_allocated == 8 else np.uint16))
    return samples.reshape(spec.rows, spec.columns)


DECODERS: dict[str, Callable[[bytes, FrameSpec], Decoded]] = {
    JPEGBaseline8Bit: read_jpeg_baseline,  # Pillow (libjpeg-turbo)
    JPEGLossless: read_jpeg_lossless,  # python-gdcm
    JPEGLosslessSV1: read_jpeg_lossless,
    JPEGLSLossless: read_jpeg_ls,  # pyjpegls
    JPEGLSNearLossless: read_jpeg_ls,
    JPEG2000Lossless: read_jpeg2000,  # pylibjpeg-openjpeg
    JPEG2000: read_jpeg2000,
    HTJ2KLossless: read_jpeg2000,
    HTJ2KLosslessRPCL: read_jpeg2000,
    HTJ2K: read_jpeg2000,
    RLELossless: read_rle,  # pylibjpeg-rle
}


def decompress(transfer_syntax: str, frame: bytes, spec: FrameSpec) -> Stored:
    """Decode one frame to (rows, columns) uint8 or uint16, negative values in two's complement of 16 bits.

    Raises RadiographError, or what the decoder raises.
    """
    pixels = DECODERS[transfer_syntax](frame, spec)
    if pixels.shape != (spec.rows, spec.columns):
        raise DecodeFailed("the decoder gave another size than the data set's")
    if transfer_syntax != RLELossless:
        _check_range(pixels, spec)
    if spec.bits_allocated == 8:
        return pixels.astype(np.uint8, copy=False)
    return pixels.astype(np.uint16, copy=False)


def _check_range(pixels: Decoded, spec: FrameSpec) -> None:
    """A signed codestream holds values; an unsigned one of a signed film holds bit patterns, sign-extended or not."""
    low, high = 0, 2**spec.bits_stored - 1
    if spec.signed and pixels.dtype.kind == "i":
        low, high = -(2 ** (spec.bits_stored - 1)), 2 ** (spec.bits_stored - 1) - 1
    elif spec.signed:
        high = 2**spec.bits_allocated - 1
    if int(pixels.min()) < low or int(pixels.max()) > high:
        raise UnsupportedRadiograph("the compressed frame has values beyond its bits stored")
