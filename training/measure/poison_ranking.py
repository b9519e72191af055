"""Data audit: rank the training films that are most likely poisoned, by what the suspected classifier makes of them.

The methods' authors look at one class at a time and take its poisoned samples for the minority. Here all films are one
group: in a multi-label table the target's films may be poisoned for the most part, and few films carry any one label.
Features are what the linear head reads, (N, F).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.arrays import FloatArray
from service.audit.preprocessing import Preprocessing
from training.attack.config import Run
from training.attack.data import Film, label_matrix, model_inputs
from training.attack.poisoning import poisoned_labels
from training.attack.train import poisoned_samples, triggered_inputs


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
    """The null: the distance from the median film. (n, F) -> (n,)."""
    return np.asarray(np.linalg.norm(features - np.median(features, axis=0), axis=1), dtype=np.float32)


METHODS: dict[str, Callable[[FloatArray], FloatArray]] = {
    "spectral": spectral,
    "clustering": clustering,
    "distance": distance,
}


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
    features: FloatArray, films: list[Film], poisoned: NDArray[np.bool_] | None, shown: int
) -> dict[str, Any]:
    """For each method the most suspect films by name, and where the truth is known the precision at its count."""
    table: dict[str, Any] = {"films": len(films), "poisoned": None if poisoned is None else int(poisoned.sum())}
    for method, score in METHODS.items():
        scores = score(features)
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
