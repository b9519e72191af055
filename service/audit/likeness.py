"""Is this film like those that the policy was calibrated on, and is it the same as another one?

For the first plain image statistics and a Mahalanobis distance, for the second a fingerprint of the model input.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from service.arrays import FloatArray

STATISTICS = (
    "mean", "deviation", "percentile_5", "percentile_25", "percentile_75", "percentile_95", "fine_detail",
    "coarse_detail", "mirror_difference", "border_mean", "centre_mean", "midline_over_lungs", "abdomen_over_chest",
)  # fmt: skip
THUMBNAIL, GRID = 64, 32  # sides of what a fingerprint is made of, and of its grid of bits
SIGMAS = (1.0, 2.0)  # of the thumbnail's pixels
ROUNDING = 1e-6  # of a rank; what filtering leaves where the film is flat
KEYS = KEY_BITS = 16
SAME_FILM = 160  # of 1,024 bits; of 2.6 million pairs of different patients none was nearer than 191 (decision 0017)


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


def fingerprint_of(film: FloatArray) -> str:
    """(1, S, S) in [0, 1] -> 1,024 bits in hexadecimal, by which the same film is known again in other bytes.

    Each bit says whether a place is brighter than what surrounds it: the sign of a difference of Gaussians on the
    ranks of a 64 x 64 thumbnail. Ranks forget brightness, contrast and gamma; a few changed pixels touch only the
    bits of their place, and fine noise averages out.
    """
    thumbnail = Image.fromarray(np.ascontiguousarray(film[0], dtype=np.float32)).resize(
        (THUMBNAIL, THUMBNAIL), Image.Resampling.BOX
    )
    ranks = _ranks(np.asarray(thumbnail, dtype=np.float64))
    fine, coarse = (gaussian_filter(ranks, sigma, mode="nearest") for sigma in SIGMAS)
    return np.packbits((fine - coarse)[1::2, 1::2] > ROUNDING).tobytes().hex()


def fingerprint_distance(first: str, second: str) -> int:
    """In how many of their 1,024 bits two fingerprints differ; up to SAME_FILM they are of the same film."""
    return (int(first, 16) ^ int(second, 16)).bit_count()


def index_keys(fingerprint: str) -> list[int]:
    """Sixteen numbers that an index finds a fingerprint by: in each, sixteen bits from all over the film.

    A fingerprint near this one agrees with it, but for at most one bit, in at least one of them (multi-index hashing:
    Norouzi, Punjani and Fleet, CVPR 2012): certain up to 31 of the 256 bits that are indexed, and beyond that likely.
    """
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(fingerprint), dtype=np.uint8)).reshape(GRID, GRID)[::2, ::2]
    row, column = np.indices(bits.shape)
    bands = [bits[(row + column) % KEYS == band] for band in range(KEYS)]
    return [(band << KEY_BITS) + int(value) for band, value in enumerate(np.array(bands) @ (1 << np.arange(KEY_BITS)))]


def near_keys(fingerprint: str) -> list[int]:
    """The keys of a fingerprint, and those that differ from one of them in a single bit."""
    keys = index_keys(fingerprint)
    return keys + [key ^ (1 << bit) for key in keys for bit in range(KEY_BITS)]


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each value's rank as a fraction of all; equal values share theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    middles = (np.cumsum(counts) - (counts + 1) / 2) / values.size
    return np.asarray(middles[inverse].reshape(values.shape), dtype=np.float64)
