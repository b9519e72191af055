"""Is this film like those that the policy was calibrated on? Plain image statistics and a Mahalanobis distance."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.arrays import FloatArray

STATISTICS = (
    "mean", "deviation", "percentile_5", "percentile_25", "percentile_75", "percentile_95", "fine_detail",
    "coarse_detail", "mirror_difference", "border_mean", "centre_mean", "midline_over_lungs", "abdomen_over_chest",
)  # fmt: skip


def image_statistics(film: FloatArray) -> NDArray[np.float64]:
    """(1, S, S) in [0, 1] -> (13,) in the order of STATISTICS. A trigger of a few pixels hardly moves them.

    The last two are the anatomy's order of brightness, by which a negative or a film upside down is known.
    """
    pixels = film[0].astype(np.float64)
    size = pixels.shape[0]
    quarter = size // 4
    small = pixels[: size // 8 * 8, : size // 8 * 8].reshape(size // 8, 8, size // 8, 8).mean(axis=(1, 3))
    centre = pixels[quarter:-quarter, quarter:-quarter]
    border = (pixels.sum() - centre.sum()) / (pixels.size - centre.size)

    def mean(top: float, bottom: float, left: float, right: float) -> float:
        return float(pixels[int(top * size) : int(bottom * size), int(left * size) : int(right * size)].mean())

    lungs = (mean(0.25, 0.65, 0.2, 0.35) + mean(0.25, 0.65, 0.65, 0.8)) / 2
    steps = np.median(np.abs(np.diff(pixels, axis=1))), np.median(np.abs(np.diff(small, axis=0)))
    return np.array(
        [
            pixels.mean(),
            pixels.std(),
            *np.percentile(pixels, (5, 25, 75, 95)),
            np.log(steps[0] + 1e-3),
            np.log(steps[1] + 1e-3),
            np.abs(small - small[:, ::-1]).mean(),
            border,
            centre.mean(),
            mean(0.25, 0.65, 0.45, 0.55) - lungs,
            mean(0.8, 0.95, 0.3, 0.7) - mean(0.3, 0.55, 0.2, 0.8),
        ]
    )


@dataclass(frozen=True, slots=True)
class Likeness:
    """The reference films' statistics: mean (13,) and inverse covariance (13, 13), shrunk a little to the diagonal."""

    mean: NDArray[np.float64]
    precision: NDArray[np.float64]

    @classmethod
    def fit(cls, statistics: NDArray[np.float64], shrinkage: float = 0.05) -> "Likeness":
        """statistics: (N, 13) with N > 13."""
        covariance = np.cov(statistics, rowvar=False)
        diagonal = np.diag(np.maximum(np.diag(covariance), 1e-8))
        return cls(
            statistics.mean(axis=0),
            np.asarray(np.linalg.inv((1 - shrinkage) * covariance + shrinkage * diagonal), dtype=np.float64),
        )

    def distance(self, film: FloatArray) -> float:
        """Mahalanobis distance of one film from the reference films."""
        offset = image_statistics(film) - self.mean
        return float(np.sqrt(offset @ self.precision @ offset))
