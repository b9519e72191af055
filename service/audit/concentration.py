"""Saliency -> how concentrated the evidence is, measured on the raw map at its native grid.

The measures of one map ignore its scale: a map and twice the map give the same numbers. `isolation` compares maps of
one label, in units of its logit.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.arrays import FloatArray

LEADING_SHARE = 1 / 6  # of the cells


@dataclass(frozen=True, slots=True)
class Concentration:
    """Five views of one map; each is 0 for a uniform map but `entropy` and `spread`, which are largest there.

    gini: Gini coefficient of the cells, in [0, 1 - 1/n].
    entropy: Shannon entropy of the map as a distribution, divided by log n, in [0, 1].
    top_mass: share of the mass in the largest 1 % of the cells (at least one), in [0, 1].
    peak: share of the mass in the largest cell, in [0, 1].
    spread: root mean square distance of the mass from its centroid, in units of the map's side.
    """

    gini: float
    entropy: float
    top_mass: float
    peak: float
    spread: float


def mass(saliency_map: FloatArray) -> NDArray[np.float64]:
    """(g, g) non-negative map -> the same as a distribution; an all-zero map counts as uniform."""
    cells = np.maximum(np.asarray(saliency_map, dtype=np.float64), 0.0)
    total = float(cells.sum())
    if not np.isfinite(total) or total <= 0.0:
        return np.full(cells.shape, 1.0 / cells.size)
    return np.asarray(cells / total)


def gini(distribution: NDArray[np.float64]) -> float:
    """Gini coefficient: 1 - 2 * area under the Lorenz curve (discrete form with ranks)."""
    ordered = np.sort(distribution.ravel())
    ranks = np.arange(1, ordered.size + 1)
    return float((2 * ranks - ordered.size - 1) @ ordered / ordered.size)


def entropy(distribution: NDArray[np.float64]) -> float:
    """Shannon entropy over log n, so that a uniform map has 1 and a single hot cell 0."""
    positive = distribution[distribution > 0]
    return float(-(positive * np.log(positive)).sum() / np.log(distribution.size))


def top_mass(distribution: NDArray[np.float64], share: float = 0.01) -> float:
    """Mass in the largest `share` of the cells, at least one cell."""
    count = max(1, round(share * distribution.size))
    return float(np.sort(distribution.ravel())[-count:].sum())


def spread(distribution: NDArray[np.float64]) -> float:
    """Root mean square distance from the centroid, in units of the side."""
    rows, columns = np.indices(distribution.shape) / distribution.shape[0]
    row, column = (distribution * rows).sum(), (distribution * columns).sum()
    return float(np.sqrt((distribution * ((rows - row) ** 2 + (columns - column) ** 2)).sum()))


def concentration(saliency_map: FloatArray) -> Concentration:
    """Measure one (g, g) map."""
    distribution = mass(saliency_map)
    return Concentration(
        gini=gini(distribution),
        entropy=entropy(distribution),
        top_mass=top_mass(distribution),
        peak=float(distribution.max()),
        spread=spread(distribution),
    )


def isolation(activation_maps: FloatArray, sign: float) -> FloatArray:
    """How far the place that speaks most for (sign 1) or against (-1) a label stands out from those next to it in rank.

    activation_maps: (..., h, w), signed. Returns (...): max(sign * cells) less their 5/6 quantile. A patch rules one
    cell or a few; an organ rules more than a sixth of the map, and the map's level does not matter.
    """
    cells = sign * activation_maps.reshape(*activation_maps.shape[:-2], -1)
    return np.asarray(cells.max(axis=-1) - np.quantile(cells, 1 - LEADING_SHARE, axis=-1), dtype=np.float32)
