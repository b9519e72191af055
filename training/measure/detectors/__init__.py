"""Detectors side by side: the service's score, its parts, published baselines and nulls, behind one interface."""

from collections.abc import Iterable
from dataclasses import dataclass

from training.measure.detectors.audit_tests import each_test, shipped
from training.measure.detectors.maps import map_concentration
from training.measure.detectors.nulls import prediction, random_map, residual
from training.measure.detectors.perturbed import purify, scale_up, sentinet, strip
from training.measure.detectors.reading import Context, Read, Reading, Seen, fit, scores
from training.measure.detectors.search import coarse_to_fine, occlusion_scan

__all__ = ["FAMILIES", "Context", "Family", "Reading", "Seen", "fit", "scores", "versions_of"]


@dataclass(frozen=True, slots=True)
class Family:
    """Detectors read from the same passes. costly: read on a stated subsample of each set of films.

    version: raised by whoever changes a reading by more than the tolerance of the recorded table,
    tests/training/measure/readings.json, which is recorded anew in the same commit: `python -m
    tests.training.measure.record_readings`. Of the family alone: what the score changes, SCORES_VERSION tells.
    """

    read: Read
    words: str
    costly: bool = False
    version: int = 1


FAMILIES = {
    "shipped": Family(shipped, "the service's score, cascade included"),
    "tests": Family(each_test, "the service's tests on every film, one by one and summed"),
    "maps": Family(map_concentration, "concentration of one map by one measure, two-sided"),
    "prediction": Family(prediction, "null: the prediction alone"),
    "random_map": Family(random_map, "null: a map of noise"),
    "residual": Family(residual, "null: the picture alone, what a median filter takes out"),
    "purify": Family(purify, "median filter and compare, any label"),
    "scale_up": Family(scale_up, "SCALE-UP: pixels multiplied"),
    "strip": Family(strip, "STRIP: clean films laid over", costly=True),
    "sentinet": Family(sentinet, "SentiNet with last-layer Grad-CAM", costly=True),
    "occlusion": Family(occlusion_scan, "a window filled in everywhere", costly=True),
    "search": Family(coarse_to_fine, "the smallest window that undoes the label", costly=True),
}


def versions_of(families: Iterable[str]) -> dict[str, int]:
    """Family -> its version, in order of name; what a comparison says that it was made by."""
    return {family: FAMILIES[family].version for family in sorted(families)}
