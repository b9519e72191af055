"""PNG -> StoredPixels. Runs in the decoder process; the size is read from the header by hand, before Pillow sees it."""

import io
import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.audit.errors import SeveralFrames, TooManyPixels, Truncated, UnsupportedRadiograph
from service.audit.grayscale import Stored, StoredPixels

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREYEST = 8  # largest difference between the colour channels of a film that counts as grey
LUMINANCE = np.array([299, 587, 114], dtype=np.uint32)  # ITU-R BT.601, in thousandths


def picture_size(data: bytes) -> tuple[int, int]:
    """Width and height in the IHDR chunk, which must come first. Raises Truncated or UnsupportedRadiograph."""
    if len(data) < 33:
        raise Truncated("the PNG ends within its header")
    length, kind, width, height = struct.unpack_from(">I4sII", data, 8)
    if length != 13 or kind != b"IHDR" or not width or not height:
        raise UnsupportedRadiograph("the PNG has no usable header")
    return width, height


def read_png(data: bytes, max_pixels: int) -> StoredPixels:
    """Grey of 1 to 16 bits, or colour that is grey. Raises RadiographError, or what Pillow raises."""
    width, height = picture_size(data)
    if width * height > max_pixels:
        raise TooManyPixels(f"the film has more than {max_pixels} pixels")
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
        _refuse_transparency("transparency" in image.info)
        return np.asarray(image, dtype=np.uint16)
    if image.mode in ("1", "L"):
        _refuse_transparency("transparency" in image.info)
        return np.asarray(image.convert("L"), dtype=np.uint8)
    colours = np.asarray(image.convert("RGBA"))  # (height, width, 4)
    _refuse_transparency(bool((colours[..., 3] < 255).any()))
    return _luminance(colours[..., :3])


def _refuse_transparency(transparent: bool) -> None:  # noqa: FBT001
    if transparent:
        raise UnsupportedRadiograph("the PNG is partly transparent")


def _luminance(colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if np.ptp(colours, axis=2).max() > GREYEST:
        raise UnsupportedRadiograph("the PNG is in colour")
    weighted = colours.astype(np.uint32) @ LUMINANCE
    return ((weighted + 500) // 1000).astype(np.uint8)
