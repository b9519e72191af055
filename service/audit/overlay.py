"""Saliency -> overlay: a picture for people, drawn on demand and never at audit time."""

import io

import numpy as np
from PIL import Image, ImageDraw

from service.arrays import FloatArray
from service.audit.preprocessing import Preprocessing, Region, shown

# Anchors of the "inferno" colour map (CC0, Smith and van der Walt), dark to bright.
_INFERNO = np.array(
    [
        (0, 0, 4),
        (40, 11, 84),
        (101, 21, 110),
        (159, 42, 99),
        (212, 72, 66),
        (245, 125, 21),
        (250, 193, 39),
        (252, 255, 164),
    ],
    dtype=np.float32,
)
REGION_COLOUR = (0, 229, 255)


def coloured(values: FloatArray) -> FloatArray:
    """(H, W) in [0, 1] -> (H, W, 3) in [0, 255]."""
    position = np.clip(values, 0.0, 1.0) * (len(_INFERNO) - 1)
    low = np.minimum(position.astype(np.int64), len(_INFERNO) - 2)
    share = (position - low)[..., None]
    return np.asarray((1 - share) * _INFERNO[low] + share * _INFERNO[low + 1], dtype=np.float32)


def spread_over(saliency_map: FloatArray, preprocessing: Preprocessing, width: int, height: int) -> FloatArray:
    """A raw (g, g) map on the film's grid (height, width), scaled to its own maximum; zero where the input ends."""
    positive = np.maximum(np.nan_to_num(np.asarray(saliency_map, dtype=np.float32)), 0.0)
    peak = float(positive.max())
    box = shown(width, height, preprocessing)
    full = np.zeros((height, width), dtype=np.float32)
    if peak > 0:
        image = Image.fromarray(positive / peak).resize((box.width, box.height), Image.Resampling.BICUBIC)
        full[box.y : box.y + box.height, box.x : box.x + box.width] = np.clip(np.asarray(image), 0.0, 1.0)
    return full


def render(
    pixels: FloatArray,
    saliency_map: FloatArray | None,
    region: Region | None,
    preprocessing: Preprocessing | None,
    *,
    opacity: float = 0.55,
    longest_px: int = 1024,
) -> bytes:
    """Draw one overlay as PNG.

    pixels: (H, W) in [0, 1]. saliency_map: (g, g) or None for the film alone. region: in the film's pixels.
    preprocessing: how the film became the input that the map lies over; not needed without a map.
    opacity: of the hottest place, in [0, 1]; the map's own height fades it. The picture is reduced to `longest_px`.
    """
    height, width = pixels.shape
    scale = min(1.0, longest_px / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    grey = np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.BILINEAR))
    picture = np.repeat(np.clip(grey, 0.0, 1.0)[..., None] * 255.0, 3, axis=2)
    if saliency_map is not None and preprocessing is not None:
        heat = spread_over(saliency_map, preprocessing, *size)
        weight = (opacity * np.sqrt(heat))[..., None]
        picture = (1 - weight) * picture + weight * coloured(heat)
    image = Image.fromarray(np.rint(picture).astype(np.uint8))
    if region is not None:
        _outline(image, region, scale)
    return _png(image)


def close_up(pixels: FloatArray, region: Region, *, side_px: int = 224) -> bytes:
    """A region and as much around it on each side, enlarged without smoothing, as PNG. pixels: (H, W) in [0, 1]."""
    height, width = pixels.shape
    across, down = min(width, 3 * region.width), min(height, 3 * region.height)
    left = min(max(region.x + region.width // 2 - across // 2, 0), width - across)
    top = min(max(region.y + region.height // 2 - down // 2, 0), height - down)
    cut = np.clip(pixels[top : top + down, left : left + across], 0.0, 1.0)
    scale = max(1, round(side_px / max(across, down)))
    grey = Image.fromarray(np.rint(cut * 255.0).astype(np.uint8)).resize(
        (across * scale, down * scale), Image.Resampling.NEAREST
    )
    image = grey.convert("RGB")
    _outline(image, Region(region.x - left, region.y - top, region.width, region.height), scale)
    return _png(image)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def _outline(image: Image.Image, region: Region, scale: float) -> None:
    line = max(1, round(max(image.size) / 250))
    box = [
        round(region.x * scale) - line,
        round(region.y * scale) - line,
        round((region.x + region.width) * scale) + line - 1,
        round((region.y + region.height) * scale) + line - 1,
    ]
    ImageDraw.Draw(image).rectangle(box, outline=REGION_COLOUR, width=line)
