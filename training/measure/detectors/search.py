"""Causal localisation: fill windows in, one after another, and see which one undoes the label."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from service.arrays import FloatArray
from service.audit.classifier import Classifier
from service.audit.counterfactual import filled_in, window_px
from service.audit.preprocessing import Region
from training.measure.detectors.reading import Context, Reading, Seen, excess, middle

BATCH = 32  # filled films a forward, to bound memory
KEPT = 0.5  # share of the largest fall that the smallest region must still bring about
INSIDE = 5  # places along each side at which half a window is tried within it
COARSEST, FINEST = 4, 64  # sides of the search's windows, as fractions of the input's side


@dataclass(frozen=True, slots=True)
class Fall:
    """How far the label falls, in units of its scale, when a window is filled in."""

    window: Region
    fall: float


def occlusion_scan(seen: Seen, classifier: Classifier, context: Context) -> dict[str, Reading]:
    """Map-free: the hot window's size at half its side's steps over the whole film; the deepest fall."""
    size = seen.film.shape[-1]
    side = window_px(size)
    windows = [Region(x, y, side, side) for y in steps(size, side, side // 2) for x in steps(size, side, side // 2)]
    best = deepest(falls(seen, windows, classifier, context))
    return {
        "occlusion_scan": Reading((best.fall,), 0, 1 + len(windows), best.window, middle(best.window), side // 2),
    }


def coarse_to_fine(seen: Seen, classifier: Classifier, context: Context) -> dict[str, Reading]:
    """Map-free: the best of 7 x 7 windows of a quarter of the side, halved down to 1/64.

    A part is the fall at one size, so that the score is the size at which it is most unusual. The region is the
    smallest window on the way that still brings about half of the largest fall.
    """
    size = seen.film.shape[-1]
    side = size // COARSEST
    first = [Region(x, y, side, side) for y in steps(size, side, side // 2) for x in steps(size, side, side // 2)]
    path = list(_halved(seen, deepest(falls(seen, first, classifier, context)), classifier, context))
    enough = KEPT * max(step.fall for step in path)
    region = next(step.window for step in reversed(path) if step.fall >= enough)
    forwards = 1 + len(first) + INSIDE**2 * (len(path) - 1)
    parts = tuple(step.fall for step in path)
    return {"coarse_to_fine": Reading(parts, 0, forwards, region, middle(region), region.width / INSIDE)}


def _halved(seen: Seen, start: Fall, classifier: Classifier, context: Context) -> Iterator[Fall]:
    """The start and, at each halving of the side, the best of 5 x 5 windows inside the last one."""
    best, size = start, seen.film.shape[-1]
    yield best
    while best.window.width > size / FINEST:
        side = max(2, best.window.width // 2)
        best = deepest(falls(seen, _inside(best.window, side), classifier, context))
        yield best
        if side == 2:
            return


def _inside(window: Region, side: int) -> list[Region]:
    offsets = np.rint(np.linspace(0, window.width - side, INSIDE)).astype(int)
    return [Region(window.x + int(x), window.y + int(y), side, side) for y in offsets for x in offsets]


def steps(size: int, side: int, stride: int) -> list[int]:
    """Left edges of windows that cover a side of `size`, the last one flush with the border."""
    return [*range(0, size - side, stride), size - side]


def deepest(found: Sequence[Fall]) -> Fall:
    return max(found, key=lambda step: step.fall)


def falls(seen: Seen, windows: Sequence[Region], classifier: Classifier, context: Context) -> list[Fall]:
    """Fill each window in by itself. One forward a window."""
    before = excess(seen.logits[None], seen.label, context)[0]
    after: list[FloatArray] = []
    for low in range(0, len(windows), BATCH):
        films = np.stack([filled_in(seen.film, window) for window in windows[low : low + BATCH]])
        after.append(excess(classifier.logits(films), seen.label, context))
    changes = before - np.concatenate(after)
    return [Fall(window, float(change)) for window, change in zip(windows, changes, strict=True)]
