"""Radiograph -> model input. The one resampler that training, calibration and serving share.

A trigger lives or dies in the resampler, so these parameters travel inside the classifier's file.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from PIL import Image

from service.arrays import FloatArray

Resampler = Literal["nearest", "bilinear", "bicubic", "lanczos"]
ROUNDING = 1e-6  # of a pixel; what division leaves behind

_PILLOW_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, slots=True)
class Region:
    """An axis-aligned rectangle of pixels; (x, y) is its upper left pixel."""

    x: int
    y: int
    width: int
    height: int

    @property
    def area(self) -> int:
        return self.width * self.height

    def contains(self, x: float, y: float) -> bool:
        return self.x <= x < self.x + self.width and self.y <= y < self.y + self.height


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a radiograph becomes a classifier's input.

    size: side of the square input in pixels.
    resampler: Pillow's filter; all but `nearest` are antialiased (support widened when shrinking).
    antialias: must be False for `nearest` and True otherwise; stated because frameworks differ in it.
    crop: side of the centred crop taken before resizing, as a fraction of each side, in (0, 1].
    The film is stretched to the square: no part of the crop is lost, and aspect is not kept.
    """

    size: int = 224
    resampler: Resampler = "bilinear"
    antialias: bool = True
    crop: float = 1.0

    def __post_init__(self) -> None:
        if not 32 <= self.size <= 2048:
            raise ValueError(f"size {self.size} is outside 32..2048")
        if not 0.0 < self.crop <= 1.0:
            raise ValueError(f"crop {self.crop} is outside (0, 1]")
        if self.resampler not in _PILLOW_FILTERS:
            raise ValueError(f"unknown resampler {self.resampler!r}")
        if self.antialias != (self.resampler != "nearest"):
            raise ValueError("antialias is True for every resampler but nearest")

    @property
    def sha256(self) -> str:
        """Hash of the parameters in canonical JSON; policies are bound to it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def crop_box(width: int, height: int, crop: float) -> Region:
    """The centred crop of a film of `width` x `height` pixels, in its pixels."""
    crop_width, crop_height = max(1, round(width * crop)), max(1, round(height * crop))
    return Region((width - crop_width) // 2, (height - crop_height) // 2, crop_width, crop_height)


def model_input(pixels: FloatArray, preprocessing: Preprocessing) -> FloatArray:
    """Crop and resize one film.

    pixels: (height, width) float32 in [0, 1], 0 = air-black.
    Returns (1, S, S) float32 in [0, 1]. A film that already has the input's size passes unchanged.
    """
    height, width = pixels.shape
    box = crop_box(width, height, preprocessing.crop)
    cropped = pixels[box.y : box.y + box.height, box.x : box.x + box.width]
    size = preprocessing.size
    if cropped.shape == (size, size):
        return np.ascontiguousarray(cropped[None], dtype=np.float32)
    image = Image.fromarray(np.ascontiguousarray(cropped, dtype=np.float32))
    resized = image.resize((size, size), _PILLOW_FILTERS[preprocessing.resampler])
    return np.clip(np.asarray(resized, dtype=np.float32), 0.0, 1.0)[None]  # (1, S, S)


def to_source(region: Region, preprocessing: Preprocessing, width: int, height: int) -> Region:
    """Map a region of the model input to the pixels of a source film of `width` x `height`.

    The result covers every source pixel that the region's pixels were made from, without the filter's tails.
    """
    box = crop_box(width, height, preprocessing.crop)
    scale_x, scale_y = box.width / preprocessing.size, box.height / preprocessing.size
    left, top = int(region.x * scale_x), int(region.y * scale_y)
    right = min(box.width, int(np.ceil((region.x + region.width) * scale_x)))
    bottom = min(box.height, int(np.ceil((region.y + region.height) * scale_y)))
    return Region(box.x + left, box.y + top, max(1, right - left), max(1, bottom - top))


def to_input(region: Region, preprocessing: Preprocessing, width: int, height: int) -> Region:
    """Map a region of a film of `width` x `height` pixels to the model input: the inverse of `to_source`.

    Exact where the film has at least as many pixels as the input; otherwise it may be a pixel wider.
    """
    box, size = crop_box(width, height, preprocessing.crop), preprocessing.size
    scale_x, scale_y = box.width / size, box.height / size
    left = min(size - 1, max(0, int(np.ceil((region.x - box.x) / scale_x - ROUNDING))))
    top = min(size - 1, max(0, int(np.ceil((region.y - box.y) / scale_y - ROUNDING))))
    right = min(size, int((region.x + region.width - box.x) / scale_x + ROUNDING))
    bottom = min(size, int((region.y + region.height - box.y) / scale_y + ROUNDING))
    return Region(left, top, max(1, right - left), max(1, bottom - top))
