"""Film geometry and the few shapes that everything in a phantom is made of.

World coordinates are centimetres in the detector plane: x to the patient's left (the film's right), y downwards,
origin at the carina. Maps are (size, size) float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from service.arrays import FloatArray

AnyFloatArray = NDArray[np.float32] | NDArray[np.float64]

# Side of the grid on which distances to curves are computed before they are enlarged to the film's size.
COARSE_SIZE = 160


@dataclass(frozen=True, slots=True)
class Frame:
    """Where the film lies over the patient.

    size: side of the film in pixels. half_width_cm: half the side of the field at the patient.
    centre_x_cm, centre_y_cm: world position of the film's centre. tilt_radians: in-plane rotation of the patient.
    """

    size: int
    half_width_cm: float
    centre_x_cm: float = 0.0
    centre_y_cm: float = 0.0
    tilt_radians: float = 0.0

    @property
    def px_per_cm(self) -> float:
        return self.size / (2.0 * self.half_width_cm)

    def resized(self, size: int) -> "Frame":
        """The same field on a film of another size."""
        return Frame(size, self.half_width_cm, self.centre_x_cm, self.centre_y_cm, self.tilt_radians)

    def coordinates(self) -> tuple[FloatArray, FloatArray]:
        """World x and y in cm of every pixel's centre, each (size, size)."""
        steps = ((np.arange(self.size) + 0.5) / self.px_per_cm - self.half_width_cm).astype(np.float32)
        u, v = steps[None, :], steps[:, None]
        cosine, sine = np.float32(np.cos(self.tilt_radians)), np.float32(np.sin(self.tilt_radians))
        return cosine * u + sine * v + np.float32(self.centre_x_cm), cosine * v - sine * u + np.float32(
            self.centre_y_cm
        )

    def to_pixels(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """(n, 2) world points in cm -> (n, 2) film positions (column, row) in pixels."""
        dx, dy = points[:, 0] - self.centre_x_cm, points[:, 1] - self.centre_y_cm
        cosine, sine = np.cos(self.tilt_radians), np.sin(self.tilt_radians)
        u, v = cosine * dx - sine * dy, cosine * dy + sine * dx
        return (np.stack([u, v], axis=1) + self.half_width_cm) * self.px_per_cm


@dataclass(frozen=True, slots=True)
class Tube:
    """A bent rod: points (n, 2) in cm and one radius in cm for each."""

    points: NDArray[np.float64]
    radii: NDArray[np.float64]


def stream(*keys: int) -> np.random.Generator:
    """An independent random stream for a tuple of non-negative integers, the same on every machine."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(keys)))


def enlarge(field: FloatArray, size: int) -> FloatArray:
    """Bicubic resize of a square map to (size, size)."""
    image = Image.fromarray(np.ascontiguousarray(field, dtype=np.float32))
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)


def noise_field(rng: np.random.Generator, size: int, cells: int) -> FloatArray:
    """Smooth noise of unit variance with about `cells` bumps across, (size, size)."""
    return enlarge(rng.standard_normal((cells, cells)).astype(np.float32), size)


def fractal_noise(rng: np.random.Generator, size: int, cells: Sequence[int], slope: float) -> FloatArray:
    """Octaves of smooth noise whose amplitude falls as (cells / cells[0]) ** -slope, (size, size)."""
    total = np.zeros((size, size), np.float32)
    for count in cells:
        if count <= size:
            total += noise_field(rng, size, count) * np.float32((count / cells[0]) ** -slope)
    return total


def blur(field: FloatArray, sigma_px: float) -> FloatArray:
    """Gaussian blur; a wide one is computed on a smaller grid, which nobody can see."""
    size = field.shape[0]
    step = max(1, int(sigma_px / 3.0))
    if step == 1:
        return np.asarray(gaussian_filter(field, sigma_px, mode="nearest"), dtype=np.float32)
    image = Image.fromarray(field).resize((max(8, size // step),) * 2, Image.Resampling.BOX)
    small = np.asarray(image, dtype=np.float32)
    return enlarge(gaussian_filter(small, sigma_px * small.shape[0] / size, mode="nearest"), size)


def step(value: AnyFloatArray, width: float) -> FloatArray:
    """Smooth step from 0 to 1 as `value` passes from -width/2 to width/2 (cubic)."""
    t = np.clip(value / np.float32(width) + np.float32(0.5), 0.0, 1.0)
    return np.asarray(t * t * (3 - 2 * t), dtype=np.float32)


def cap(squared_radius: AnyFloatArray) -> FloatArray:
    """Chord of a ball as a fraction of its diameter: sqrt(1 - r^2) inside, 0 outside."""
    return np.asarray(np.sqrt(np.clip(1.0 - squared_radius, 0.0, None)), dtype=np.float32)


def ellipse(
    x: FloatArray, y: FloatArray, centre: tuple[float, float], axes: tuple[float, float], angle: float = 0.0
) -> FloatArray:
    """Squared normalised radius (1 on the rim) of an ellipse turned by `angle` radians."""
    dx, dy = x - np.float32(centre[0]), y - np.float32(centre[1])
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    along, across = (dx * cosine + dy * sine) / np.float32(axes[0]), (dy * cosine - dx * sine) / np.float32(axes[1])
    return np.asarray(along * along + across * across, dtype=np.float32)


def relative_distance(tubes: Sequence[Tube], frame: Frame) -> tuple[FloatArray, FloatArray]:
    """Distance to the nearest tube's axis divided by its radius there, and that radius in cm.

    Both (size, size). Computed on a coarse grid; beyond 2.5 cm from every axis the distance is large.
    """
    coarse = frame.resized(COARSE_SIZE)
    x, y = coarse.coordinates()
    points = np.concatenate([tube.points for tube in tubes])
    radii = np.append(np.concatenate([tube.radii for tube in tubes]), 1.0)
    tree = cKDTree(points)
    distance, index = tree.query(np.stack([x.ravel(), y.ravel()], axis=1), distance_upper_bound=2.5)
    distance = np.where(np.isfinite(distance), distance, 2.5).astype(np.float32).reshape(COARSE_SIZE, COARSE_SIZE)
    radius = enlarge(radii[index].astype(np.float32).reshape(COARSE_SIZE, COARSE_SIZE), frame.size)
    radius = np.maximum(radius, 0.1)
    return enlarge(distance, frame.size) / radius, radius


def segment_distance(x: FloatArray, y: FloatArray, start: tuple[float, float], end: tuple[float, float]) -> FloatArray:
    """Distance in cm from every pixel to a straight segment, (size, size)."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    t = np.clip(((x - start[0]) * dx + (y - start[1]) * dy) / (dx * dx + dy * dy), 0.0, 1.0)
    return np.hypot(x - (start[0] + t * dx), y - (start[1] + t * dy)).astype(np.float32)
