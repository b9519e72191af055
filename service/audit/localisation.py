"""The suspected pixels: the hot window, tightened to the smallest rectangle whose removal still undoes the label."""

from dataclasses import replace
from typing import Literal

import numpy as np

from service.arrays import FloatArray
from service.audit.classifier import Classifier
from service.audit.counterfactual import filled_in, window_px
from service.audit.evidence import SIGNS, Finding
from service.audit.preprocessing import Region

KEPT_SHARE = 0.95  # of the change that filling in the whole window makes
MARGIN_PX = 1
UNDONE_SHARE = 0.5  # of a label's excess, that a searched place takes away by itself
BLOCK_SHARE = 64 / 224  # side of the first blocks, as a share of the input's side
SEARCH_MARGIN_PX = 2
SEARCH_STEPS = 5  # blocks a row; neighbours overlap by more than a hot window's side

Side = Literal["left", "top", "right", "bottom"]
SIDES: tuple[Side, ...] = ("left", "top", "right", "bottom")


def trimmed(region: Region, side: Side, pixels: int) -> Region:
    """The region without its outermost `pixels` rows or columns at one side."""
    x, y, width, height = region.x, region.y, region.width, region.height
    if side in ("left", "right"):
        return Region(x + pixels if side == "left" else x, y, width - pixels, height)
    return Region(x, y + pixels if side == "top" else y, width, height - pixels)


def tightened(film: FloatArray, logits: FloatArray, finding: Finding, classifier: Classifier) -> Region:
    """Move each side of a finding's window inwards, by bisection, while filling in the rest still undoes the label.

    film: (1, S, S). logits: (C,) of the film. Takes about fourteen forwards, so it is for alarms only. A fill-in that
    leaves a part of a trigger outside draws on that part, so the label hardly falls back: that is what stops a side.
    Returns a region inside the window, with a margin of one pixel.
    """
    sign, label, window = SIGNS[finding.hypothesis], finding.label, finding.region

    def change(region: Region) -> float:
        return sign * float(logits[label] - classifier.logits(filled_in(film, region)[None])[0, label])

    enough = KEPT_SHARE * change(window)
    region = window
    for side in SIDES:
        kept, too_many = 0, region.width if side in ("left", "right") else region.height
        while too_many - kept > 1:
            middle = (kept + too_many) // 2
            if change(trimmed(region, side, middle)) >= enough:
                kept = middle
            else:
                too_many = middle
        region = trimmed(region, side, kept)
    left, top = max(window.x, region.x - MARGIN_PX), max(window.y, region.y - MARGIN_PX)
    right = min(window.x + window.width, region.x + region.width + MARGIN_PX)
    bottom = min(window.y + window.height, region.y + region.height + MARGIN_PX)
    return Region(left, top, right - left, bottom - top)


def searched(
    film: FloatArray, logits: FloatArray, finding: Finding, classifier: Classifier, centre: float
) -> Region | None:
    """Look for the pixels that a label rests on without any map, by filling in one part of the film after another.

    For alarms whose hottest region carries nothing: a network may be made so that no gradient points at what it looks
    for. film: (1, S, S). logits: (C,) of the film. centre: the label's usual logit. First 25 overlapping blocks, then
    25 overlapping hot windows inside the block that undoes the label most, then `tightened`; some 65 forwards, 25 where
    nothing is found. What has no gradient falls as a whole when a part of its pixels goes, so the region is grown again
    by SEARCH_MARGIN_PX. Returns None unless one window undoes UNDONE_SHARE of the label's excess by itself.
    """
    sign, label, size = SIGNS[finding.hypothesis], finding.label, film.shape[-1]
    enough = UNDONE_SHARE * sign * float(logits[label] - centre)
    if enough <= 0:
        return None
    place = Region(0, 0, size, size)
    for side in (round(BLOCK_SHARE * size), window_px(size)):
        parts = _overlapping(place, side)
        filled = np.concatenate([classifier.logits(filled_in(film, part)[None]) for part in parts])
        changes = sign * (logits[label] - filled[:, label])
        best = int(changes.argmax())
        if changes[best] < enough:
            return None
        place = parts[best]
    return _grown(tightened(film, logits, replace(finding, region=place), classifier), place)


def _grown(region: Region, within: Region) -> Region:
    left, top = max(within.x, region.x - SEARCH_MARGIN_PX), max(within.y, region.y - SEARCH_MARGIN_PX)
    right = min(within.x + within.width, region.x + region.width + SEARCH_MARGIN_PX)
    bottom = min(within.y + within.height, region.y + region.height + SEARCH_MARGIN_PX)
    return Region(left, top, right - left, bottom - top)


def _overlapping(place: Region, side: int) -> list[Region]:
    """Squares in rows of SEARCH_STEPS over a place, from edge to edge."""
    offsets = [
        np.rint(np.linspace(0, length - side, SEARCH_STEPS)).astype(int) for length in (place.width, place.height)
    ]
    return [Region(place.x + int(x), place.y + int(y), side, side) for y in offsets[1] for x in offsets[0]]
