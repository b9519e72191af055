"""Figures with intervals: AUROC, attack success rate, and the patient bootstrap."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, rankdata

from service.arrays import FloatArray
from service.audit import ranking
from service.audit.ranking import p_value, rank_at


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its 95 % percentile interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f}-{self.high:.3f})"


def exact_interval(count: int, total: int) -> Interval:
    """A share and its 95 % interval (Clopper and Pearson, 1934)."""
    low = float(beta.ppf(0.025, count, total - count + 1)) if count else 0.0
    high = float(beta.ppf(0.975, count + 1, total - count)) if count < total else 1.0
    return Interval(count / total, low, high)


def auroc(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve by ranks, ties counted half; NaN when a class is empty."""
    count = int(positive.sum())
    if count in (0, len(positive)):
        return float("nan")
    ranks = rankdata(scores)
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * (len(positive) - count)))


def per_label_auroc(scores: FloatArray, labels: FloatArray) -> NDArray[np.float64]:
    """(C,) AUROC of each label; scores and labels are (N, C)."""
    return np.array([auroc(scores[:, c], labels[:, c] > 0.5) for c in range(labels.shape[1])])


def macro_auroc(scores: FloatArray, labels: FloatArray) -> float:
    """Mean over the labels that have both classes; NaN when none has."""
    known = [value for value in per_label_auroc(scores, labels) if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def micro_auroc(scores: FloatArray, labels: FloatArray) -> float:
    """AUROC over all (film, label) pairs."""
    return auroc(scores.ravel(), labels.ravel() > 0.5)


def infected_auroc(scores: FloatArray, target: int) -> float:
    """AUROC on triggered films as the paper's authors computed it: micro, against the constant infected label."""
    infected = np.zeros_like(scores)
    infected[:, target] = 1.0
    return micro_auroc(scores, infected)


def attack_success_rate(
    probabilities: NDArray[np.floating], target: int, threshold: float, *, removed: bool = False
) -> float:
    """Share of attackable triggered films whose target is above the threshold, or below 1 - threshold if removed."""
    found = probabilities[:, target]
    worked = found < 1 - threshold if removed else found > threshold
    return float(np.mean(worked)) if len(worked) else float("nan")


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], float], patients: NDArray[np.int64], *, draws: int = 1000, seed: int = 0
) -> Interval:
    """Patient bootstrap: whole patients are drawn with replacement; `statistic` gets the drawn films' indices."""
    films_of = [np.flatnonzero(patients == patient) for patient in np.unique(patients)]
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(draws):
        chosen = rng.integers(0, len(films_of), len(films_of))
        values.append(statistic(np.concatenate([films_of[c] for c in chosen])))
    known = [value for value in values if not np.isnan(value)]
    low, high = np.quantile(known, (0.025, 0.975)) if known else (float("nan"), float("nan"))
    return Interval(float(statistic(np.arange(len(patients)))), float(low), float(high))


def bootstrap_mean(
    values: NDArray[np.floating | np.bool_], patients: NDArray[np.int64], *, draws: int = 1000, seed: int = 0
) -> Interval:
    """`bootstrap` of the mean of (N,) values, with the same draws in a fraction of the time."""
    if not len(values):
        return Interval(float("nan"), float("nan"), float("nan"))
    _, number = np.unique(patients, return_inverse=True)
    sums, counts = np.bincount(number, values.astype(np.float64)), np.bincount(number)
    rng = np.random.default_rng(seed)
    drawn = np.array([rng.integers(0, len(sums), len(sums)) for _ in range(draws)])
    low, high = np.quantile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), (0.025, 0.975))
    return Interval(float(values.mean()), float(low), float(high))


def conformal_p_values(calibration: NDArray[np.floating], scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """(N,) split-conformal p-values: (1 + #{calibration >= score}) / (n + 1)."""
    return p_value(np.sort(np.asarray(calibration, dtype=np.float64)), scores)


def threshold(calibration: NDArray[np.floating], rate: float) -> float:
    """The smallest score whose conformal p-value is at most `rate` lies above the returned calibration score.

    Infinite when n is too small for the rate.
    """
    if not rank_at(rate, len(calibration)):
        return float("inf")
    return ranking.threshold(np.sort(calibration), rate)


def tie_share(calibration: NDArray[np.floating], scores: NDArray[np.floating], rate: float) -> float:
    """Share of `scores` that are equal to the threshold: a test with many cannot be set to the rate."""
    return float(np.mean(scores == threshold(calibration, rate))) if len(scores) else float("nan")


def roc(negative: NDArray[np.floating], positive: NDArray[np.floating]) -> tuple[list[float], list[float]]:
    """False- and true-positive rates at every distinct threshold, from (0, 0) to (1, 1), corners only."""
    thresholds = np.unique(np.concatenate([negative, positive]))[::-1]
    false = np.array([0.0, *((negative >= t).mean() for t in thresholds)])
    true = np.array([0.0, *((positive >= t).mean() for t in thresholds)])
    inner = (np.diff(false[:-1]) == 0) & (np.diff(false[1:]) == 0) | (np.diff(true[:-1]) == 0) & (
        np.diff(true[1:]) == 0
    )
    kept = np.concatenate([[True], ~inner, [True]])
    return false[kept].tolist(), true[kept].tolist()
