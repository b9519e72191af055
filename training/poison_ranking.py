"""Data audit: rank the training films that are most likely poisoned, by what the suspected classifier makes of them.

Every method looks at the films of one label at a time, as an attacker's films share their target label, and gives each
film the largest of its scores. Features are what the linear head reads, (N, F).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.audit.preprocessing import Preprocessing
from training.config import Run
from training.data import Film, label_matrix, model_inputs
from training.poisoning import poisoned_labels
from training.train import poisoned_samples, triggered_inputs

FloatArray = NDArray[np.float32]
SMALLEST_CLASS = 10  # films; a label with fewer says nothing about its outliers


def spectral(features: FloatArray) -> FloatArray:
    """Spectral signatures, Tran et al. 2018 (arXiv 1811.00636), algorithm 1: the squared projection on the top
    singular vector of the centred features. (n, F) -> (n,)."""
    centred = features - features.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    return np.asarray((centred @ directions[0]) ** 2, dtype=np.float32)


def clustering(features: FloatArray, components: int = 10, rounds: int = 20) -> FloatArray:
    """Activation clustering, Chen et al. 2018 (arXiv 1811.03728): two means on the principal components.

    Started from the sides of the first component. A film's score is how much nearer it lies to the smaller cluster's
    centre than to the larger one's. (n, F) -> (n,).
    """
    centred = features - features.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    points = centred @ directions[:components].T
    second = points[:, 0] > np.median(points[:, 0]) + points[:, 0].std()
    for _ in range(rounds):
        if not 0 < second.sum() < len(points):
            return np.zeros(len(points), dtype=np.float32)
        apart = [np.linalg.norm(points - points[side].mean(axis=0), axis=1) for side in (~second, second)]
        second = apart[1] < apart[0]
    nearer = apart[0] - apart[1]
    return np.asarray(nearer if second.sum() <= len(points) / 2 else -nearer, dtype=np.float32)


def distance(features: FloatArray) -> FloatArray:
    """The null: the distance from the class's median film. (n, F) -> (n,)."""
    return np.asarray(np.linalg.norm(features - np.median(features, axis=0), axis=1), dtype=np.float32)


METHODS: dict[str, Callable[[FloatArray], FloatArray]] = {
    "spectral": spectral,
    "clustering": clustering,
    "distance": distance,
}


def suspicion(features: FloatArray, labels: FloatArray, method: str) -> FloatArray:
    """(N,) how suspect each film is: the largest, over its labels, of its score in that label's robust deviations.

    features: (N, F). labels: (N, C) as the training table has them. Films of no label with enough films get -inf.
    """
    scores = np.full(len(features), -np.inf, dtype=np.float32)
    for column in labels.T > 0.5:
        if column.sum() < SMALLEST_CLASS:
            continue
        raw = METHODS[method](features[column])
        spread = 1.4826 * float(np.median(np.abs(raw - np.median(raw)))) + 1e-6
        scores[column] = np.maximum(scores[column], (raw - np.median(raw)) / spread)
    return scores


def poisoned_set(
    films: list[Film], run: Run, preprocessing: Preprocessing
) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
    """What a run's attacker would hand over: inputs (N, 1, S, S), labels (N, C), and which films are poisoned."""
    labels = label_matrix(films, run.labels)
    poisoned = poisoned_samples(labels, run)
    inputs = model_inputs(films, preprocessing)
    if run.poisoning and poisoned.any():
        chosen = [film for film, bad in zip(films, poisoned, strict=True) if bad]
        inputs[poisoned] = triggered_inputs(chosen, run, preprocessing)
        labels[poisoned] = poisoned_labels(labels[poisoned], run.labels.index(run.poisoning.target), run.poisoning)
    return inputs, labels, poisoned


def rank_films(
    features: FloatArray, labels: FloatArray, films: list[Film], poisoned: NDArray[np.bool_] | None, shown: int
) -> dict[str, Any]:
    """For each method the most suspect films by name, and where the truth is known the precision at its count."""
    table: dict[str, Any] = {"films": len(films), "poisoned": None if poisoned is None else int(poisoned.sum())}
    for method in METHODS:
        scores = suspicion(features, labels, method)
        order = np.argsort(-scores, kind="stable")[:shown]
        table[method] = {
            "precision_at_true_count": None if poisoned is None else precision_at(scores, poisoned),
            "most_suspect": [{"film": films[int(i)].path.name, "score": float(scores[i])} for i in order],
        }
    return table


def precision_at(scores: FloatArray, poisoned: NDArray[np.bool_]) -> float:
    """The share of truly poisoned films among as many of the most suspect ones as there are poisoned."""
    count = int(poisoned.sum())
    return float(poisoned[np.argsort(-scores, kind="stable")[:count]].mean()) if count else float("nan")
