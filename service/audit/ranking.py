"""Ranks among clean films: the one place that says which of n calibration scores a false-positive rate means.

A film is suspicious when its score is among the k largest of n calibration scores and its own, with
k = floor(rate * (n + 1)). Split-conformal p-values (Vovk et al., 2005): (1 + #{calibration >= score}) / (n + 1).
"""

from typing import overload

import numpy as np
from numpy.typing import NDArray
from scipy.stats import betabinom

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


def reached_band(count: int, films: int, rate: float) -> tuple[float, float]:
    """Central 95 % of the false-positive rate reached on `films` films after calibration on `count`; (0, 0) where no
    film could alarm."""
    law = beyond(rate, count)
    if law is None:
        return 0.0, 0.0
    low, high = betabinom.ppf((0.025, 0.975), films, *law) / films
    return float(low), float(high)
