"""What the film would look like without, or with, the suspected evidence: the inputs of the causal tests."""

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from service.arrays import FloatArray
from service.audit.concentration import mass
from service.audit.preprocessing import Preprocessing, Region, model_input

WINDOW_SHARE = 24 / 224  # side of the hot window, as a share of the input's side: 1.1 % of the area
FILTER_SHARE = 7 / 224  # side of the median filter
SPIKE = 3.0  # times the geometric mean of its neighbours, from which a frequency counts as a pattern's
NEIGHBOURS = 7  # side of their square, in frequencies
LOWEST_FREQUENCY = 4  # cycles a film; slower ones are anatomy
PICKED = 0.15  # of the range, by which a pixel must leave what surrounds it to count as another resampler's own


def window_px(size_px: int) -> int:
    """Side of the hot window on an input of `size_px`."""
    return max(3, round(WINDOW_SHARE * size_px))


def hot_window(saliency_map: FloatArray, size_px: int) -> Region:
    """The window that holds most of a map's mass.

    saliency_map: (g, g) non-negative. Returns a square of `window_px` inside the input of side `size_px`.
    """
    grid = saliency_map.shape[0]
    cells = max(1, round(WINDOW_SHARE * grid))
    sums = ndimage.uniform_filter(mass(saliency_map), cells, mode="constant")
    low, high = cells // 2, grid - (cells - 1) // 2
    row, column = np.unravel_index(int(np.argmax(sums[low:high, low:high])), (high - low, high - low))
    side, cell_px = window_px(size_px), size_px / grid
    x = round((float(column) + cells / 2) * cell_px - side / 2)
    y = round((float(row) + cells / 2) * cell_px - side / 2)
    return Region(min(max(x, 0), size_px - side), min(max(y, 0), size_px - side), side, side)


def widened(region: Region, size_px: int) -> Region:
    """The region grown about its centre to the hot window's side where it is smaller, inside the input."""
    side = window_px(size_px)
    width, height = max(side, region.width), max(side, region.height)
    x, y = region.x - (width - region.width) // 2, region.y - (height - region.height) // 2
    return Region(min(max(x, 0), size_px - width), min(max(y, 0), size_px - height), width, height)


def _edge(line: FloatArray) -> FloatArray:
    """A border line with thin structures taken out."""
    return np.asarray(ndimage.median_filter(line, size=5, mode="nearest"), dtype=np.float32)


def filled_in(film: FloatArray, region: Region) -> FloatArray:
    """The film with a region replaced by a smooth surface through the pixels around it.

    film: (1, H, W). The surface is a Coons patch of the four border lines just outside; a border that lies outside
    the film borrows the opposite one. Returns a copy of the same shape.
    """
    pixels = film[0]
    height, width = pixels.shape
    top, bottom = region.y - 1, region.y + region.height
    left, right = region.x - 1, region.x + region.width
    rows, columns = slice(region.y, bottom), slice(region.x, right)
    upper = _edge(pixels[top if top >= 0 else min(bottom, height - 1), columns])
    lower = _edge(pixels[bottom if bottom < height else max(top, 0), columns])
    before = _edge(pixels[rows, left if left >= 0 else min(right, width - 1)])
    after = _edge(pixels[rows, right if right < width else max(left, 0)])
    v = ((np.arange(region.height) + 1) / (region.height + 1)).astype(np.float32)[:, None]
    u = ((np.arange(region.width) + 1) / (region.width + 1)).astype(np.float32)[None, :]
    vertical = (1 - v) * upper[None, :] + v * lower[None, :]
    horizontal = (1 - u) * before[:, None] + u * after[:, None]
    filled = film.copy()
    filled[0, rows, columns] = (vertical + horizontal) / 2
    return filled


def filtered(film: FloatArray) -> FloatArray:
    """The whole film through `median_filtered`. (1, S, S) -> (1, S, S)."""
    return median_filtered(film[0], max(3, round(FILTER_SHARE * film.shape[-1]) | 1))[None]


def median_filtered(pixels: FloatArray, side: int) -> FloatArray:
    """Pixels (h, w), quantised to 8 bits, through a median filter along the columns and then along the rows.

    The separable median (Narendra 1981) removes what is narrower than half its side in either direction, as the square
    one does, in a hundredth of the time.
    """
    grey = np.rint(pixels * 255.0).astype(np.uint8)
    smooth = _median_of_rows(_median_of_rows(grey, side).T, side).T
    return np.ascontiguousarray(smooth, dtype=np.float32) / 255.0


def _median_of_rows(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The median of `side` neighbouring rows at each pixel, by odd-even transposition sort; borders repeat."""
    padded = np.pad(pixels, ((side // 2, side // 2), (0, 0)), mode="edge")
    rows = [padded[shift : shift + len(pixels)] for shift in range(side)]
    for step in range(side):
        for low in range(step % 2, side - 1, 2):
            rows[low], rows[low + 1] = np.minimum(rows[low], rows[low + 1]), np.maximum(rows[low], rows[low + 1])
    return rows[side // 2]


def without_patterns(film: FloatArray) -> FloatArray:
    """The film with periodic patterns taken out: spikes of its spectrum are cut down to what their neighbours allow.

    (1, S, S) -> (1, S, S), in [0, 1]. A radiograph's spectrum falls off smoothly but for its borders, and of noise one
    frequency in 160 reaches SPIKE: NIH's films change by 0.02 (root mean square, median). A sinusoid (SIG) or a raster
    is one spike or a few.
    """
    height, width = film.shape[1:]
    spectrum = fft.rfft2(film[0])  # (S, S // 2 + 1)
    level = np.log(np.abs(spectrum) + 1e-6)
    around = ndimage.uniform_filter(level, NEIGHBOURS, mode=("wrap", "mirror"))
    rows, columns = np.minimum(np.arange(height), height - np.arange(height)), np.arange(spectrum.shape[1])
    fast = np.hypot(rows[:, None], columns[None, :]) >= LOWEST_FREQUENCY
    surplus = np.where(fast, np.maximum(level - around - np.log(SPIKE), 0.0), 0.0)
    pixels = fft.irfft2(spectrum * np.exp(-surplus), s=(height, width))
    return np.asarray(np.clip(pixels, 0.0, 1.0), dtype=np.float32)[None]


def transplanted(references: FloatArray, film: FloatArray, region: Region) -> FloatArray:
    """Clean references with the film's region pasted in at its place. (R, 1, S, S) -> (R, 1, S, S)."""
    rows, columns = slice(region.y, region.y + region.height), slice(region.x, region.x + region.width)
    pasted = references.copy()
    pasted[:, 0, rows, columns] = film[0, rows, columns]
    return pasted


def picked_out(pixels: FloatArray, film: FloatArray, other: Preprocessing) -> tuple[FloatArray, NDArray[np.bool_]]:
    """What another resampler picks out of a film's native pixels, put into the input: (1, S, S), and where, (S, S).

    pixels: (H, W) native. film: (1, S, S), the input as the classifier's own resampler made it. A pixel is picked out
    where one of both inputs lies further than PICKED outside the range of the other's 3 x 3 pixels around it. Noise
    stays within, and so do edges that one filter blurs more than the other; single pixels that one reads and the other
    averages away do not.
    """
    resized = model_input(pixels, other)
    gap = np.maximum(_outside(resized[0], film[0]), _outside(film[0], resized[0]))
    picked = gap > PICKED
    return np.where(picked, resized, film), picked


def _outside(pixels: FloatArray, other: FloatArray) -> FloatArray:
    """(S, S): by how much each pixel lies outside the range of the other's 3 x 3 pixels around it; negative inside."""
    low, high = _of_nine(np.minimum, other), _of_nine(np.maximum, other)
    return np.asarray(np.maximum(pixels - high, low - pixels))


def _of_nine(extreme: np.ufunc, pixels: FloatArray) -> FloatArray:
    """The least or largest of the 3 x 3 pixels around each, a tenth of the time of scipy's filters; borders repeat."""
    padded = np.pad(pixels, 1, mode="edge")
    rows = extreme(extreme(padded[:-2], padded[1:-1]), padded[2:])
    return np.asarray(extreme(extreme(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:]))
