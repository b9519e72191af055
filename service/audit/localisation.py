"""The suspected pixels: the hot window, tightened to the smallest rectangle whose removal still undoes the label."""

from typing import Literal

from service.arrays import FloatArray
from service.audit.classifier import Classifier
from service.audit.counterfactual import filled_in
from service.audit.evidence import SIGNS, Finding
from service.audit.preprocessing import Region

KEPT_SHARE = 0.95  # of the change that filling in the whole window makes
MARGIN_PX = 1

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
