"""Small plots: where one film lies among the calibration films, as geometry that a template draws in SVG."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, BINS, MOST_DOTS = 240.0, 44.0, 32, 24


@dataclass(frozen=True, slots=True)
class Bar:
    x: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Plot:
    """Bars in a box of WIDTH by HEIGHT; film_x and threshold_x are places on its axis."""

    bars: tuple[Bar, ...]
    film_x: float | None
    threshold_x: float | None
    low: float
    high: float
    description: str


def histogram(
    values: NDArray[np.float32],
    film: float | None = None,
    threshold: float | None = None,
    meaning: str = "clean films",
    *,
    logarithmic: bool = False,
) -> Plot:
    """The calibration values (n,), with this film and the threshold marked on the same axis.

    logarithmic: an axis of log(1 + value), for values from 0 up with a long tail.
    """
    marks = [mark for mark in (film, threshold) if mark is not None]
    low, high = min(float(values.min()), *marks, 0.0), max([float(values.max()), *marks])
    at = np.log1p if logarithmic else np.asarray
    start, span = float(at(low)), float(at(high) - at(low)) or 1.0
    counts, edges = np.histogram(at(values), BINS, (start, start + span))

    def x(mark: float | None) -> float | None:
        return None if mark is None else round(WIDTH * (float(at(mark)) - start) / span, 1)

    return Plot(
        bars=_bars(counts.tolist(), (edges - start) / span),
        film_x=x(film),
        threshold_x=x(threshold),
        low=low,
        high=high,
        description=_description(values, film, meaning),
    )


@dataclass(frozen=True, slots=True)
class Dot:
    x: float
    y: float
    is_alarming: bool


@dataclass(frozen=True, slots=True)
class Track:
    """Mean ranks of consecutive blocks in a box of WIDTH by HEIGHT; the band is where those that fit lie."""

    dots: tuple[Dot, ...]
    band_y: float
    band_height: float
    description: str


def track(ranks: Sequence[float], alarming: Sequence[bool], band: tuple[float, float], meaning: str) -> Track:
    """ranks: in [0, 1], oldest first; 0.5 is drawn in the middle."""
    step = WIDTH / max(len(ranks), MOST_DOTS)
    dots = tuple(
        Dot(round((i + 0.5) * step, 1), round(HEIGHT * (1 - rank), 1), alarm)
        for i, (rank, alarm) in enumerate(zip(ranks, alarming, strict=True))
    )
    said = (
        f"mean rank of the {meaning} in {len(ranks)} blocks: latest {ranks[-1]:.2f}, usual 0.50"
        if ranks
        else "no full block"
    )
    return Track(dots, round(HEIGHT * (1 - band[1]), 1), round(HEIGHT * (band[1] - band[0]), 1), said)


def _bars(counts: Sequence[int], edges: NDArray[np.float64]) -> tuple[Bar, ...]:
    tallest = max(counts) or 1
    return tuple(
        Bar(round(WIDTH * float(edges[i]), 2), round(WIDTH * float(edges[i + 1] - edges[i]) - 0.6, 2), height)
        for i, count in enumerate(counts)
        if (height := round((HEIGHT - 4) * (count / tallest) ** 0.5, 2))
    )


def _description(values: NDArray[np.float32], film: float | None, meaning: str) -> str:
    middle = f"half of {len(values)} {meaning} lie below {float(np.median(values)):.2f}"
    end = f"the highest at {float(values.max()):.2f}"
    return f"{middle}, {end}" if film is None else f"this film {film:.2f}; {middle}, {end}"
