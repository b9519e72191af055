"""`triggerscope-train resampling`: films whose pixels are placed for another resampler than the audited one."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.arrays import FloatArray
from service.audit.calibration import Policy
from service.audit.classifier import Classifier, sigmoid
from service.audit.evidence import RESAMPLING_BOUND, resampling
from service.audit.pipeline import audit_radiograph
from service.audit.preprocessing import Preprocessing, model_input, resize_weights
from service.films.radiograph import Radiograph
from training.attack.triggers import Trigger
from training.phantoms import make

TRIGGER = Trigger("white", size_px=3, place="fixed", x=218, y=218)  # what the backdoored pairs answer to
READERS = (
    Preprocessing(resampler="bilinear", antialias=False, library="opencv"),
    Preprocessing(resampler="bicubic", antialias=False, library="opencv"),
    Preprocessing(resampler="nearest-exact", antialias=False, library="torch"),
    Preprocessing(resampler="nearest", antialias=False, library="opencv"),
)
CLEAN_SIDE_PX = 1024
FIRES = 0.5  # the target's probability
Pair = tuple[Classifier, Policy]


@dataclass(frozen=True, slots=True)
class Attacked:
    """One attack on one size of films. pixels: of the film, set to white. fires: under the resampler that the pixels
    were placed for; fires_declared: under the classifier's own. reported: suspicious. region_hits: of those reported,
    with a region that holds the middle of the trigger. values: (films,) of the evidence, in units of the label's scale.
    """

    classifier: str
    reader: str
    side_px: int
    pixels: int
    films: int
    fires: int
    fires_declared: int
    reported: int
    region_hits: int
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Clean:
    """Clean films. tried: another resampler picked something out of them, so that a forward was paid. alarms: at or
    beyond the bound. values: of those that were tried."""

    classifier: str
    films: int
    tried: int
    alarms: int
    values: tuple[float, ...]


def phantom(seed: int, side_px: int) -> FloatArray:
    """(side, side) in whole grey levels, as an 8-bit file would hold it."""
    return np.asarray(np.rint(make(seed, side_px).pixels * 255) / 255, dtype=np.float32)


def placed(pixels: FloatArray, reader: Preprocessing) -> tuple[FloatArray, int]:
    """A film (H, W) with those pixels white that `reader` makes the trigger's of, and how many they are."""
    rows, columns = (_read(side, of, reader) for side, of in zip(pixels.shape, (TRIGGER.y, TRIGGER.x), strict=True))
    attacked = pixels.copy()
    attacked[np.ix_(rows, columns)] = 1.0
    return attacked, len(rows) * len(columns)


def _read(side: int, first: int, reader: Preprocessing) -> NDArray[np.int64]:
    """The pixels of a side that weigh in those of the input from `first` on, as many as the trigger has."""
    weights = resize_weights(side, reader.size, reader, shrinks=side >= reader.size)[first : first + TRIGGER.size_px]
    return np.unique(np.nonzero(weights.toarray() > 0)[1])


def attacked(
    films: Sequence[FloatArray], pair: Pair, target: str, readers: Sequence[Preprocessing] = READERS
) -> Iterator[Attacked]:
    """Every film, (H, W) and all of one size, through the audit, once for each resampler that its pixels are for."""
    for reader in readers:
        pixels = placed(films[0], reader)[1]
        rows = [_attacked(placed(film, reader)[0], reader, pair, target) for film in films]
        fires, declared, reported, hits, values = zip(*rows, strict=True)
        yield Attacked(
            pair[0].card.name, reader.resampler_words, films[0].shape[0], pixels, len(films),
            sum(fires), sum(declared), sum(reported), sum(hits), values,
        )  # fmt: skip


def _attacked(
    pixels: FloatArray, reader: Preprocessing, pair: Pair, target: str
) -> tuple[bool, bool, bool, bool, float]:
    """Of one film: fires under `reader`, fires under the declared resampler, reported, and there; the evidence."""
    classifier, policy = pair
    own = classifier.card.preprocessing
    inputs = np.stack([model_input(pixels, reader), model_input(pixels, own)])
    there, here = sigmoid(classifier.logits(inputs))[:, classifier.card.labels.index(target)] > FIRES
    found = audit_radiograph(Radiograph(pixels, "", "", {}), classifier, policy)
    reported = found.verdict == "suspicious"
    height, width = pixels.shape
    x, y = (of + TRIGGER.size_px / 2 for of in (TRIGGER.x, TRIGGER.y))
    hit = found.region is not None and found.region.contains(x * width / own.size, y * height / own.size)
    value = found.evidence["resampling"].value if "resampling" in found.evidence else 0.0
    return bool(there), bool(here), reported, reported and hit, value


def clean(films: Iterable[FloatArray], pairs: Sequence[Pair]) -> list[Clean]:
    """The evidence of clean films (H, W) under each pair; a film is read once for all of them."""
    values: list[list[float | None]] = [[] for _ in pairs]
    for pixels in films:
        for (classifier, policy), found in zip(pairs, values, strict=True):
            film = model_input(pixels, classifier.card.preprocessing)
            logits = classifier.logits(film[None])[0]
            disagreement = resampling(pixels, film, logits, classifier, policy.reference.label_scale)
            found.append(disagreement.value if disagreement else None)
    return [_clean(classifier.card.name, found) for (classifier, _), found in zip(pairs, values, strict=True)]


def _clean(name: str, values: Sequence[float | None]) -> Clean:
    tried = tuple(value for value in values if value is not None)
    return Clean(name, len(values), len(tried), sum(value >= RESAMPLING_BOUND for value in tried), tried)
