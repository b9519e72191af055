"""Radiograph -> model input. The one resampler that training, calibration and serving share.

A trigger lives or dies in the resampler, so these parameters travel inside the classifier's file. What Pillow does is
done by Pillow; what OpenCV and torch do is done by the weights that they give to source pixels, without either
library. Against OpenCV 5.0, torch 2.14 and torchvision 0.29 (tests/training/networks/test_export_preprocessing.py) a
pixel differs by at most 3e-5 of the range in float32 and by one grey level of 255 in uint8; torch's bicubic in uint8 by
two, and by more where it overshoots black or white, which torch cuts off between its two passes.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import csr_array

from service.arrays import FloatArray

Resampler = Literal["nearest", "nearest-exact", "bilinear", "bicubic", "lanczos", "area"]
Library = Literal["pillow", "opencv", "torch"]
Dtype = Literal["float32", "uint8"]
Values = NDArray[np.floating[Any]]
ROUNDING = 1e-6  # of a pixel; what division leaves behind

_PILLOW_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# What each library offers, and whether it widens the filter's support when it shrinks.
OFFERED: dict[tuple[str, str], tuple[bool, ...]] = {
    ("pillow", "nearest"): (False,),
    ("pillow", "bilinear"): (True,),
    ("pillow", "bicubic"): (True,),
    ("pillow", "lanczos"): (True,),
    ("opencv", "nearest"): (False,),
    ("opencv", "bilinear"): (False,),
    ("opencv", "bicubic"): (False,),
    ("opencv", "area"): (True,),
    ("torch", "nearest"): (False,),
    ("torch", "nearest-exact"): (False,),
    ("torch", "bilinear"): (False, True),
    ("torch", "bicubic"): (False, True),
}
_LIBRARY_WORDS = {"pillow": "Pillow", "opencv": "OpenCV", "torch": "torch"}
_LEVELS = 255
_CUBIC = -0.75  # Keys' coefficient where nothing is antialiased; Pillow's filters have -0.5


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
    resampler, antialias, library: the filter, whether its support is widened when shrinking, and whose: Pillow
    antialiases all but `nearest`; OpenCV (INTER_NEAREST, _LINEAR, _CUBIC, _AREA) none but `area`; torch's interpolate
    and torchvision either way. Raises ValueError for what a library does not offer.
    crop: side of the centred crop taken before resizing, as a fraction of each side, in (0, 1].
    shorter_side: None stretches the crop to the square: nothing of it is lost, and aspect is not kept. Otherwise its
    shorter side is resized to so many pixels, keeping aspect, and the central square is cut out, with the rounding of
    torchvision's Resize(shorter_side) and CenterCrop(size).
    dtype: `uint8` rounds to 256 levels before and after the resize, `float32` at no time. Either way the input is in
    [0, 1]: what a cubic filter overshoots is cut off.
    """

    size: int = 224
    resampler: Resampler = "bilinear"
    antialias: bool = True
    crop: float = 1.0
    library: Library = "pillow"
    shorter_side: int | None = None
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or not isinstance(self.shorter_side, int | None):
            raise ValueError("size and shorter_side are whole numbers of pixels")
        if not 32 <= self.size <= 2048:
            raise ValueError(f"size {self.size} is outside 32..2048")
        if not 0.0 < self.crop <= 1.0:
            raise ValueError(f"crop {self.crop} is outside (0, 1]")
        offered = OFFERED.get((self.library, self.resampler))
        if offered is None:
            raise ValueError(f"unknown resampler {self.resampler!r} of library {self.library!r}")
        if self.antialias not in offered:
            raise ValueError(f"antialias of {self.library}'s {self.resampler} is {offered[0]}")
        if self.shorter_side is not None and not self.size <= self.shorter_side <= 4096:
            raise ValueError(f"shorter_side {self.shorter_side} is outside size..4096")
        if self.dtype not in ("float32", "uint8"):
            raise ValueError(f"unknown dtype {self.dtype!r}")

    @property
    def described(self) -> dict[str, Any]:
        """The parameters as a card holds them: those that came later only where they are not at their defaults."""
        later = {f.name: f.default for f in fields(self) if f.name in ("library", "shorter_side", "dtype")}
        return {name: value for name, value in asdict(self).items() if name not in later or value != later[name]}

    @property
    def sha256(self) -> str:
        """Hash of the parameters in canonical JSON; policies are bound to it."""
        return hashlib.sha256(json.dumps(self.described, sort_keys=True).encode()).hexdigest()

    @property
    def words(self) -> str:
        """One sentence for people."""
        part = "The whole film" if self.crop == 1.0 else f"The central {100 * self.crop:.0f} % of the film"
        if self.shorter_side is None:
            done = f"{part} is stretched to {self.size} by {self.size} px"
        else:
            done = (
                f"{part} is resized to {self.shorter_side} px on its shorter side, the central {self.size} px cut out"
            )
        return f"{done}; {self.resampler_words}{', in 8 bits' if self.dtype == 'uint8' else ''}."

    @property
    def resampler_words(self) -> str:
        filtered = f"{self.resampler}, {'antialiased' if self.antialias else 'not antialiased'}"
        return f"{filtered}, as {_LIBRARY_WORDS[self.library]} does it"

    def at(self, size: int) -> "Preprocessing":
        """The same at another input size."""
        side = self.shorter_side
        return replace(self, size=size, shorter_side=side and max(size, round(side * size / self.size)))


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where one film's input comes from. box: the crop, in the film's pixels. width, height: what it is resized to;
    x, y: of the upper left pixel of the input in that."""

    box: Region
    width: int
    height: int
    x: int
    y: int

    @property
    def scale_x(self) -> float:
        return self.box.width / self.width

    @property
    def scale_y(self) -> float:
        return self.box.height / self.height


def geometry(width: int, height: int, preprocessing: Preprocessing) -> Geometry:
    """Of a film of `width` x `height` pixels."""
    box, size, shorter = crop_box(width, height, preprocessing.crop), preprocessing.size, preprocessing.shorter_side
    if shorter is None:
        return Geometry(box, size, size, 0, 0)
    longer = int(shorter * max(box.width, box.height) / min(box.width, box.height))
    resized = (shorter, longer) if box.width <= box.height else (longer, shorter)
    return Geometry(box, *resized, *(round((side - size) / 2) for side in resized))


def alternatives(preprocessing: Preprocessing) -> tuple[Preprocessing, ...]:
    """How else deployed systems resize to the same input: nearest by both conventions of which pixel that is, bilinear
    and bicubic without antialias, and, for a resampler that does not antialias itself, bilinear with it."""

    def by(library: Library, resampler: Resampler, *, antialias: bool = False) -> Preprocessing:
        return replace(preprocessing, library=library, resampler=resampler, antialias=antialias)

    others = [by("opencv", "nearest"), by("torch", "nearest-exact"), by("opencv", "bilinear"), by("opencv", "bicubic")]
    if not preprocessing.antialias:
        others.append(by("pillow", "bilinear", antialias=True))
    return tuple(other for other in others if other != preprocessing)


def crop_box(width: int, height: int, crop: float) -> Region:
    """The centred crop of a film of `width` x `height` pixels, in its pixels."""
    crop_width, crop_height = max(1, round(width * crop)), max(1, round(height * crop))
    return Region((width - crop_width) // 2, (height - crop_height) // 2, crop_width, crop_height)


def shown(width: int, height: int, preprocessing: Preprocessing) -> Region:
    """What the input shows of a film of `width` x `height` pixels, in its pixels."""
    return to_source(Region(0, 0, preprocessing.size, preprocessing.size), preprocessing, width, height)


def model_input(pixels: FloatArray, preprocessing: Preprocessing) -> FloatArray:
    """Crop and resize one film.

    pixels: (height, width) float32 in [0, 1], 0 = air-black.
    Returns (1, S, S) float32 in [0, 1]. A film that already has the input's size passes unchanged.
    """
    height, width = pixels.shape
    found, size = geometry(width, height, preprocessing), preprocessing.size
    box = found.box
    cropped = pixels[box.y : box.y + box.height, box.x : box.x + box.width]
    if cropped.shape == (found.height, found.width):
        resized = np.asarray(cropped, dtype=np.float32)
    else:
        resized = np.clip(_resized(cropped, found.height, found.width, preprocessing), 0.0, 1.0)
    return np.ascontiguousarray(resized[None, found.y : found.y + size, found.x : found.x + size])


def _resized(pixels: FloatArray, height: int, width: int, preprocessing: Preprocessing) -> FloatArray:
    """torch's antialiased filters are Pillow's."""
    eight_bit = preprocessing.dtype == "uint8"
    values = np.rint(pixels * _LEVELS) if eight_bit else np.asarray(pixels, dtype=np.float32)
    if preprocessing.library == "pillow" or (preprocessing.library == "torch" and preprocessing.antialias):
        image = Image.fromarray(np.ascontiguousarray(values, dtype=np.uint8 if eight_bit else np.float32))
        found = np.asarray(image.resize((width, height), _PILLOW_FILTERS[preprocessing.resampler]), dtype=np.float32)
    else:
        shrinks = height <= pixels.shape[0] and width <= pixels.shape[1]
        down = resize_weights(pixels.shape[0], height, preprocessing, shrinks=shrinks)
        across = resize_weights(pixels.shape[1], width, preprocessing, shrinks=shrinks)
        found = (across @ (down @ np.asarray(values, dtype=np.float32)).T).T
    return np.asarray(np.rint(found) / _LEVELS if eight_bit else found, dtype=np.float32)


@lru_cache(maxsize=64)
def resize_weights(source: int, target: int, preprocessing: Preprocessing, *, shrinks: bool) -> csr_array:
    """(target, source) float32: what each source pixel weighs in each resized one, along one axis, as OpenCV and torch
    have it where nothing is antialiased, and OpenCV's `area`. Pixels outside the film repeat its border. Kept for the
    next film of this size.

    shrinks: whether both axes do; OpenCV's `area` enlarges with a narrowed bilinear filter.
    """
    if preprocessing.resampler == "area":
        first, weights = (_area if shrinks else _narrowed)(source, target)
    elif preprocessing.resampler in ("nearest", "nearest-exact"):
        offset = 0.5 if preprocessing.resampler == "nearest-exact" else 0.0
        first, weights = np.floor(_places(source, target, offset, preprocessing)), np.ones((target, 1))
    else:
        centre = _places(source, target, 0.5, preprocessing) - 0.5
        first = np.floor(centre)
        share = centre - first
        if preprocessing.resampler == "bilinear":
            weights = np.stack([1 - share, share], axis=1)
        else:
            first, weights = first - 1, _cubic(share)
    taps = weights.shape[1]
    columns = np.clip(first.astype(np.int64)[:, None] + np.arange(taps), 0, source - 1)
    rows = np.repeat(np.arange(target), taps)
    return csr_array((weights.astype(np.float32).ravel(), (rows, columns.ravel())), shape=(target, source))


def _places(source: int, target: int, offset: float, preprocessing: Preprocessing) -> Values:
    """(target,): where each resized pixel's `offset` lies on the source, in the arithmetic of the library."""
    number: Any = np.float32 if preprocessing.library == "torch" else np.float64
    scale = source / target if preprocessing.library == "torch" else 1 / (target / source)
    return np.asarray((np.arange(target, dtype=number) + number(offset)) * number(scale))


def _cubic(share: Values) -> Values:
    """(n,) in [0, 1) -> (n, 4): Keys' cubic convolution (1981)."""
    a = _CUBIC

    def near(t: Values) -> Values:
        return ((a + 2) * t - (a + 3)) * t * t + 1

    def far(t: Values) -> Values:
        return ((a * t - 5 * a) * t + 8 * a) * t - 4 * a

    return np.stack([far(share + 1), near(share), near(1 - share), far(2 - share)], axis=1)


def _area(source: int, target: int) -> tuple[Values, Values]:
    """The first source pixel that each resized one covers, and the shares of that and the next ones."""
    scale = source / target
    low = np.arange(target) * scale
    first = np.floor(low + ROUNDING)
    pixels = first[:, None] + np.arange(int(np.ceil(scale)) + 1)
    covered = np.minimum(pixels + 1, low[:, None] + scale) - np.maximum(pixels, low[:, None])
    return first, np.maximum(covered, 0.0) / scale


def _narrowed(source: int, target: int) -> tuple[Values, Values]:
    """OpenCV's `area` where a side does not shrink: bilinear, its ramp between two pixels narrowed to the scale."""
    inverse = target / source
    first = np.floor(np.arange(target) * (1 / inverse))
    share = (np.arange(target) + 1) - (first + 1) * inverse
    share = np.where(share <= 0, 0.0, share - np.floor(share))
    return first, np.stack([1 - share, share], axis=1)


def to_source(region: Region, preprocessing: Preprocessing, width: int, height: int) -> Region:
    """Map a region of the model input to the pixels of a source film of `width` x `height`.

    The result covers every source pixel that the region's pixels were made from, without the filter's tails.
    """
    found = geometry(width, height, preprocessing)
    box, x, y = found.box, region.x + found.x, region.y + found.y
    left, top = int(x * found.scale_x), int(y * found.scale_y)
    right = min(box.width, int(np.ceil((x + region.width) * found.scale_x)))
    bottom = min(box.height, int(np.ceil((y + region.height) * found.scale_y)))
    return Region(box.x + left, box.y + top, max(1, right - left), max(1, bottom - top))


def to_input(region: Region, preprocessing: Preprocessing, width: int, height: int) -> Region:
    """Map a region of a film of `width` x `height` pixels to the model input: the inverse of `to_source`.

    Exact where the film has at least as many pixels as the input; otherwise it may be a pixel wider.
    """
    found, size = geometry(width, height, preprocessing), preprocessing.size
    x, y = region.x - found.box.x, region.y - found.box.y
    left = min(size - 1, max(0, int(np.ceil(x / found.scale_x - ROUNDING)) - found.x))
    top = min(size - 1, max(0, int(np.ceil(y / found.scale_y - ROUNDING)) - found.y))
    right = min(size, int((x + region.width) / found.scale_x + ROUNDING) - found.x)
    bottom = min(size, int((y + region.height) / found.scale_y + ROUNDING) - found.y)
    return Region(left, top, max(1, right - left), max(1, bottom - top))
