"""PNG -> StoredPixels. Runs in the decoder process; header and completeness are checked by hand, before Pillow.

Pillow leaves rows black, without an error, where the compressed stream ends early.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.errors import SeveralFrames, TooManyPixels, Truncated, UnsupportedRadiograph
from service.films.grayscale import Stored, StoredPixels

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREYEST = 8  # largest difference between the colour channels of a film that counts as grey
LUMINANCE = np.array([299, 587, 114], dtype=np.uint32)  # ITU-R BT.601, in thousandths


CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class PngHeader:
    """The IHDR chunk (PNG specification 11.2.2). bits: of one pixel, all channels."""

    width: int
    height: int
    bits: int
    interlaced: bool

    @property
    def inflated_bytes(self) -> int:
        """Length of the scan lines with their filter bytes, over all passes."""
        if not self.interlaced:
            return self._pass_bytes(self.width, self.height)
        sizes = ((-(-(self.width - x) // dx), -(-(self.height - y) // dy)) for x, y, dx, dy in ADAM7)
        return sum(self._pass_bytes(width, height) for width, height in sizes)

    def _pass_bytes(self, width: int, height: int) -> int:
        return height * (1 + -(-width * self.bits // 8)) if width > 0 and height > 0 else 0


def png_header(data: bytes) -> PngHeader:
    """The first chunk, which must be IHDR. Raises Truncated or UnsupportedRadiograph."""
    if len(data) < 33:
        raise Truncated("the PNG ends within its header")
    length, kind, width, height, depth, colour, _, _, interlace = struct.unpack_from(">I4sIIBBBBB", data, 8)
    if length != 13 or kind != b"IHDR" or not width or not height or colour not in CHANNELS:
        raise UnsupportedRadiograph("the PNG has no usable header")
    return PngHeader(width, height, depth * CHANNELS[colour], interlace != 0)


def _compressed_pieces(data: bytes) -> Iterator[bytes]:
    """The contents of the IDAT chunks. Raises Truncated unless an IEND chunk follows them."""
    position = len(SIGNATURE)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"IEND":
            return
        if kind == b"IDAT":
            yield data[position + 8 : position + 8 + length]
        position += 12 + length
    raise Truncated("the PNG ends before its last chunk does")


def _check_complete(data: bytes, header: PngHeader) -> None:
    """Inflate piece by piece, keeping nothing, up to the picture's length; what follows is never inflated."""
    inflater, missing = zlib.decompressobj(), header.inflated_bytes
    for piece in _compressed_pieces(data):
        while piece and missing > 0 and not inflater.eof:
            missing -= len(inflater.decompress(piece, min(missing, PIECE_BYTES)))
            piece = inflater.unconsumed_tail
    if missing > 0:
        missing -= len(inflater.flush(1))
    if missing > 0:
        raise Truncated("the PNG's pixel data end before the picture does")


def read_png(data: bytes, max_pixels: int) -> StoredPixels:
    """Grey of 1 to 16 bits, or colour that is grey. Raises RadiographError, or what Pillow raises."""
    header = png_header(data)
    if header.width * header.height > max_pixels:
        raise TooManyPixels(f"the film has more than {max_pixels} pixels")
    _check_complete(data, header)
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise SeveralFrames("the PNG is animated")
        image.load()
        stored = _grey(image)
    largest = 65535 if stored.dtype == np.uint16 else 255
    levels = (np.arange(largest + 1) / largest).astype(np.float32)
    return StoredPixels(stored, levels, {"format": "png"})


def _grey(image: Image.Image) -> Stored:
    if image.mode == "I;16":
        _refuse_transparency(transparent="transparency" in image.info)
        return np.asarray(image, dtype=np.uint16)
    if image.mode in ("1", "L"):
        _refuse_transparency(transparent="transparency" in image.info)
        return np.asarray(image.convert("L"), dtype=np.uint8)
    colours = np.asarray(image.convert("RGBA"))  # (height, width, 4)
    _refuse_transparency(transparent=bool((colours[..., 3] < 255).any()))
    return _luminance(colours[..., :3])


def _refuse_transparency(*, transparent: bool) -> None:
    if transparent:
        raise UnsupportedRadiograph("the PNG is partly transparent")


def _luminance(colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if np.ptp(colours, axis=2).max() > GREYEST:
        raise UnsupportedRadiograph("the PNG is in colour")
    weighted = colours.astype(np.uint32) @ LUMINANCE
    return ((weighted + 500) // 1000).astype(np.uint8)
