"""Ranks among clean films: the one place that says which of n calibration scores a false-positive rate means.

A film is suspicious when its score is among the k largest of n calibration scores and its own, with
k = floor(rate * (n + 1)). Split-conformal p-values (Vovk et al., 2005): (1 + #{calibration >= score}) / (n + 1).
"""

from typing import overload

import numpy as np
from numpy.typing import NDArray
from scipy.stats import betabinom

FEWEST_APART, MOST_APART = 2, 1 / 3  # films of another kind: how many are seen, and up to which share of all
APART_LEVEL = 0.005  # of false warnings
EPSILON = 1e-9  # so that 0.05 * 20 is 1


def rank_at(rate: float, count: int) -> int:
    """k of `count` calibration scores; 0 where they are too few for the rate."""
    return int(np.floor(rate * (count + 1) + EPSILON))


def least_count(rate: float) -> int:
    """The fewest calibration films that can give a p-value of `rate`."""
    return int(np.ceil(1 / rate - EPSILON)) - 1


def threshold(ordered: NDArray[np.floating], rate: float) -> float:
    """The k-th largest of sorted scores (n,): from it on a film alarms. The largest where n is too small."""
    return float(ordered[-max(1, rank_at(rate, len(ordered)))])


@overload
def p_value(ordered: NDArray[np.floating], values: float) -> float: ...
@overload
def p_value(ordered: NDArray[np.floating], values: NDArray[np.floating]) -> NDArray[np.float64]: ...
def p_value(ordered: NDArray[np.floating], values: float | NDArray[np.floating]) -> float | NDArray[np.float64]:
    """The share of sorted clean values (n,) that are at least as large, counted with the film's own."""
    at_least = len(ordered) - np.searchsorted(ordered, np.asarray(values, dtype=ordered.dtype), side="left")
    found = (1 + at_least) / (len(ordered) + 1)
    return float(found) if np.ndim(values) == 0 else np.asarray(found, dtype=np.float64)


def beyond(rate: float, count: int) -> tuple[int, int] | None:
    """(k, n + 1 - k) of the Beta law that the share of clean films at or beyond the threshold follows; None where n is
    too small for the rate."""
    rank = rank_at(rate, count)
    return (rank, count + 1 - rank) if rank else None


def reached_band(count: int, films: int, rate: float, lost: int = 0) -> tuple[float, float]:
    """Central 95 % of the false-positive rate reached on `films` films after calibration on `count`; (0, 0) where no
    film could alarm. lost: clean films of higher scores that were left out; each moves the threshold's rank."""
    law = beyond(rate, count)
    if law is None:
        return 0.0, 0.0
    low, high = betabinom.ppf((0.025, 0.975), films, law[0] + lost, law[1]) / films
    return float(low), float(high)


def standing_apart(scores: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which of the scores (n,), from 0 up, stand apart from the others, as those of another kind of film would.

    Where the tail of log(1 + score) falls off exponentially, the gap below the i-th largest of n times i is an
    exponential variable of the tail's scale, independent of the other gaps (Renyi, 1953); so the largest of m such
    products is tested with their number in mind. The scale is read between the median and the upper quartile, which
    a minority beyond cannot make small. A gap counts below two scores at least, and up to a third of all.
    """
    logs = np.log1p(np.asarray(scores, dtype=np.float64))
    ordered = np.sort(logs)[::-1]
    scale = float(np.quantile(logs, 0.75) - np.quantile(logs, 0.5)) / np.log(2)
    counts = np.arange(FEWEST_APART, int(MOST_APART * len(logs)) + 1)
    if scale <= 0 or len(counts) == 0:
        return np.zeros(len(logs), dtype=np.bool_)
    products = counts * (ordered[counts - 1] - ordered[counts]) / scale
    largest = int(np.argmax(products))
    if products[largest] < np.log(len(counts) / APART_LEVEL):
        return np.zeros(len(logs), dtype=np.bool_)
    return np.asarray(logs > ordered[counts[largest]])
