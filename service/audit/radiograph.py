"""Bytes -> Radiograph: PNG and DICOM, sizes checked first, decoded in a bounded child process."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what is decoded."""

    max_bytes: int = 128 * 1024 * 1024
    max_pixels: int = 64_000_000
    decode_memory_bytes: int = 2 * 1024**3
    decode_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Radiograph:
    """One decoded film, free of identifiers.

    pixels: (height, width) float32 in [0, 1]; 0 = air-black, whatever the photometric interpretation.
    sha256: of the received bytes. pixels_sha256: of the decoded pixels and their shape.
    attributes: identifier-free facts for routing and the record: `format` ("png" or "dicom") and, for DICOM,
    `modality`, `view_position`, `body_part`, `transfer_syntax`, `photometric_interpretation`, `bits_stored`.
    """

    pixels: NDArray[np.float32]
    sha256: str
    pixels_sha256: str
    attributes: dict[str, str]

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])
