"""Stored pixel values -> [0, 1]: modality LUT, VOI LUT or window, inversion (DICOM PS3.3 C.11.1, C.11.2).

A stored value has at most 16 bits, so the whole chain is computed once for every possible value, not for every pixel.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.errors import UnsupportedRadiograph

Stored = NDArray[np.uint8] | NDArray[np.uint16]
Values = NDArray[np.float64]
WindowFunction = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]
GRID = 2.0**24  # levels are multiples of 1 / GRID: float32 holds them and their inverse exactly
LARGEST = 1e9
SLOPES = (1e-6, 1e6)


@dataclass(frozen=True, slots=True)
class StoredPixels:
    """A decoded film before it is scaled.

    values: (height, width) uint8 or uint16, raw bits. levels: (256,) or (65536,) float32 in [0, 1], the level of
    every possible value; 0 = air-black. attributes: as in Radiograph.
    """

    values: Stored
    levels: NDArray[np.float32]
    attributes: dict[str, str]


@dataclass(frozen=True, slots=True)
class LookupTable:
    """entries: (n,) stored table values. first: the input that the first entry belongs to. bits: of an entry."""

    entries: NDArray[np.uint16]
    first: int
    bits: int

    def __call__(self, values: Values) -> Values:
        """Inputs outside the table take its first or last entry."""
        index = np.clip(np.rint(values - self.first), 0, len(self.entries) - 1).astype(np.intp)
        return self.entries[index].astype(np.float64)


@dataclass(frozen=True, slots=True)
class Rescale:
    """Raises UnsupportedRadiograph for a slope or intercept that no detector has."""

    slope: float
    intercept: float

    def __post_init__(self) -> None:
        if not (SLOPES[0] <= abs(self.slope) <= SLOPES[1] and abs(self.intercept) <= LARGEST):
            raise UnsupportedRadiograph("the rescale slope or intercept is no usable number")

    def __call__(self, values: Values) -> Values:
        return values * self.slope + self.intercept


@dataclass(frozen=True, slots=True)
class Window:
    """Raises UnsupportedRadiograph for NaN, infinity, and a width that PS3.3 C.11.2.1.2 and C.11.2.1.3 forbid."""

    center: float
    width: float
    function: WindowFunction

    def __post_init__(self) -> None:
        narrowest_allowed = self.width >= 1 if self.function == "LINEAR" else self.width > 0
        if not (narrowest_allowed and self.width <= LARGEST and abs(self.center) <= LARGEST):
            raise UnsupportedRadiograph("the window is no usable pair of numbers")

    def __call__(self, values: Values) -> Values:
        """Map to [0, 1]; equations of PS3.3 C.11.2.1.2.1, C.11.2.1.3.2 and C.11.2.1.3.1."""
        if self.function == "SIGMOID":
            exponent = np.clip(-4 * (values - self.center) / self.width, -700, 700)
            sigmoid: Values = 1 / (1 + np.exp(exponent))
            return sigmoid
        if self.function == "LINEAR_EXACT":
            return np.clip((values - self.center) / self.width + 0.5, 0, 1)
        if self.width == 1:
            return (values > self.center - 0.5).astype(np.float64)
        return np.clip((values - (self.center - 0.5)) / (self.width - 1) + 0.5, 0, 1)


def every_value(bits_allocated: int, bits_stored: int, *, signed: bool) -> Values:
    """What each pattern of `bits_allocated` bits stands for: (2 ** bits_allocated,), higher bits ignored."""
    stored = np.arange(2**bits_allocated) & (2**bits_stored - 1)
    if signed:
        stored = stored - ((stored >> (bits_stored - 1)) << bits_stored)
    values: Values = stored.astype(np.float64)
    return values


def stretched(outputs: Values, stored: Stored) -> Values:
    """Scale so that the film's own smallest and largest output become 0 and 1. A flat film becomes 0.5."""
    present = np.zeros(len(outputs), dtype=bool)
    present[stored] = True
    low, high = float(outputs[present].min()), float(outputs[present].max())
    if high <= low:
        return np.full_like(outputs, 0.5)
    return np.clip((outputs - low) / (high - low), 0, 1)


def levels(
    stored: Stored, values: Values, modality: LookupTable | Rescale, voi: LookupTable | Window | None, *, inverted: bool
) -> NDArray[np.float32]:
    """The level in [0, 1] of every possible stored value.

    With a window or VOI LUT: its output range. Without: the film's own range after the modality LUT.
    """
    outputs = modality(values)
    if voi is None:
        scaled = stretched(outputs, stored)
    elif isinstance(voi, Window):
        scaled = voi(outputs)
    else:
        scaled = np.clip(voi(outputs) / (2**voi.bits - 1), 0, 1)
    scaled = np.rint(scaled * GRID) / GRID
    return (1 - scaled if inverted else scaled).astype(np.float32)
