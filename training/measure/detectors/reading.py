"""The plain interface of every detector: one film as the classifier sees it -> one reading per detector.

A family is a function `(seen, classifier, context) -> {detector: Reading}`: detectors that share their passes are read
together. What a detector needs of clean films is in the context, which is fitted on tuning films only.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from service.arrays import FloatArray
from service.audit.calibration import Policy
from service.audit.classifier import Classifier
from service.audit.evidence import Finding, Usual, first_look
from service.audit.preprocessing import Region

OVERLAYS = 16  # tuning films that STRIP lays over a film, and that SentiNet pastes its region onto


@dataclass(frozen=True, slots=True)
class Context:
    """What detectors may know of clean films. policy: its reference is fitted on tuning films. overlays: (n, 1, S, S)
    tuning films."""

    policy: Policy
    overlays: FloatArray

    @classmethod
    def of(cls, policy: Policy, tuning: FloatArray, seed: int = 0) -> "Context":
        """tuning: (N, 1, S, S); the overlays are a seeded draw without replacement."""
        chosen = np.random.default_rng([seed, 0x57]).permutation(len(tuning))[:OVERLAYS]
        return cls(policy, tuning[chosen])

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.policy.sha256.encode() + self.overlays.tobytes()).hexdigest()


@dataclass(frozen=True, slots=True)
class Seen:
    """One film (1, S, S) after the pass that explains it: logits (C,), and the service's first look at the label that
    lies furthest above its usual logit."""

    film: FloatArray
    logits: FloatArray
    look: Finding

    @classmethod
    def of(cls, film: FloatArray, classifier: Classifier, context: Context) -> "Seen":
        reference = context.policy.reference
        [(prediction, saliency)] = classifier.explain(film[None], reference.label_centre, reference.label_scale)
        return cls(film, prediction.logits, first_look(prediction, saliency, classifier, reference, "support"))

    @property
    def label(self) -> int:
        return self.look.label


@dataclass(frozen=True, slots=True)
class Reading:
    """What one detector says of one film.

    parts: one number, or several of which the most unusual counts; larger is more suspicious. explain_passes,
    forward_passes: what it took, the first look included where it is used. region, point: the place it names, in input
    pixels. reach_px: how far the point may lie from the trigger and still hit: one cell of its map or step of its scan.
    """

    parts: tuple[float, ...]
    explain_passes: int = 0
    forward_passes: int = 1
    region: Region | None = None
    point: tuple[float, float] | None = None
    reach_px: float = 0.0


Read: TypeAlias = Callable[[Seen, Classifier, Context], dict[str, Reading]]


def excess(logits: FloatArray, label: int, context: Context) -> FloatArray:
    """(N, C) logits -> (N,) of one label in units of its scale on clean films, above its centre."""
    reference = context.policy.reference
    return np.asarray((logits[:, label] - reference.label_centre[label]) / reference.label_scale[label])


def hottest(saliency_map: FloatArray, size_px: int) -> tuple[tuple[float, float], float]:
    """Centre (x, y) of the largest cell of a (g, g) map in input pixels, and the cell's side."""
    cell_px = size_px / len(saliency_map)
    row, column = np.unravel_index(int(np.argmax(saliency_map)), saliency_map.shape)
    return ((float(column) + 0.5) * cell_px, (float(row) + 0.5) * cell_px), cell_px


def middle(region: Region) -> tuple[float, float]:
    return region.x + region.width / 2, region.y + region.height / 2


def own_generator(film: FloatArray) -> np.random.Generator:
    """Random numbers that depend on the film's bytes alone, so that a reading does not depend on its neighbours."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(film.tobytes()).digest()[:8]))


def fit(parts: NDArray[np.float64]) -> tuple[Usual, ...]:
    """(N, k) parts of tuning films -> what is usual in each of the k."""
    return tuple(Usual.of(column) for column in parts.T)


def scores(parts: NDArray[np.float64], usual: Sequence[Usual]) -> NDArray[np.float64]:
    """(N, k) parts -> (N,) scores: a single part as it is, of several the largest distance from usual in its scale."""
    if parts.shape[1] == 1:
        return parts[:, 0]
    distances = [(column - known.centre) / known.scale for column, known in zip(parts.T, usual, strict=True)]
    return np.asarray(np.max(distances, axis=0))
