"""Does a patch that people confirmed as a trigger stand in another film, and does the answer hang on it there?

Compared is what a median filter takes out at the patch's own place, for anatomy there is alike on all films and thin
structures are not. Measured on 115 clean phantoms and examples: 38 patches with the 3x3 trigger of phantom-badnet3
reach at least 0.64 with the trigger (0.83 but for one of them) and at most 0.31 without it; 20 patches with a white 5x5
square at least 0.81 and at most 0.10. Clean films' own structures, at 400 places, agree up to 0.57. A 9x9 patch is too
large for the filter and is mostly missed. Raw pixels do not separate (0.87 on clean films), and neither does a search
of the whole film (0.91 on clean ones).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.arrays import FloatArray
from service.audit.classifier import Classifier, sigmoid
from service.audit.counterfactual import filled_in, median_filtered, widened
from service.audit.preprocessing import Region

THRESHOLD = 0.6  # correlation from which a patch counts as seen again
FILTER_SHARE = 11 / 224  # side of the median filter: it takes out what is up to 5 of 224 pixels wide
FAINTEST = 0.01  # mean square root contrast of structure below which there is nothing to compare


@dataclass(frozen=True, slots=True)
class Patch:
    """A confirmed trigger. region: in input pixels; pixels: (height, width) float32 in [0, 1] of the model input there;
    label: the one that it moved."""

    region: Region
    pixels: FloatArray
    label: str


@dataclass(frozen=True, slots=True)
class Recurrence:
    """A patch that was seen again. index: of the patch; correlation: in [THRESHOLD, 1].

    probability: the label's on this film, and probability_without: the same with the patch's place filled in; None
    where the classifier lacks the label.
    """

    index: int
    correlation: float
    probability: float | None
    probability_without: float | None


def cut(film: FloatArray, region: Region, label: str) -> Patch:
    """The patch of a model input (1, S, S) around a region: a hot window's size at least, so that there is enough to
    compare."""
    window = widened(region, film.shape[-1])
    return Patch(window, _window(film, window).copy(), label)


def correlation(film: FloatArray, patch: Patch) -> float:
    """Normalised correlation, in [-1, 1], of the thin structures at the patch's place with the patch's own.

    film: (1, S, S). 0 where either has no structure.
    """
    side = max(3, round(FILTER_SHARE * film.shape[-1]) | 1)
    here, there = _structure(_window(film, patch.region), side), _structure(patch.pixels, side)
    least = FAINTEST * np.sqrt(here.size)
    lengths = float(np.linalg.norm(here)), float(np.linalg.norm(there))
    if min(lengths) < least:
        return 0.0
    return float(np.sum(here * there)) / (lengths[0] * lengths[1])


def seen_again(film: FloatArray, patches: Sequence[Patch], classifier: Classifier) -> Recurrence | None:
    """The patch that is most alike, if any is alike enough. film: (1, S, S). Two forwards where one is, none else."""
    found = [correlation(film, patch) for patch in patches]
    index = int(np.argmax(found)) if found else -1
    if index < 0 or found[index] < THRESHOLD:
        return None
    label = patches[index].label
    if label not in classifier.card.labels:
        return Recurrence(index, found[index], None, None)
    logits = classifier.logits(np.stack([film, filled_in(film, patches[index].region)]))  # (2, C)
    with_it, without = sigmoid(logits[:, classifier.card.labels.index(label)]).tolist()
    return Recurrence(index, found[index], with_it, without)


def _window(film: FloatArray, region: Region) -> FloatArray:
    return film[0, region.y : region.y + region.height, region.x : region.x + region.width]


def _structure(pixels: FloatArray, side: int) -> FloatArray:
    """What the median filter takes out of a patch: (h, w) -> (h, w)."""
    return pixels - median_filtered(pixels, side)
