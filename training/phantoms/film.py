"""From path lengths to a film: Beer-Lambert, scatter, quantum noise, detector blur, exposure and look-up curve."""

from dataclasses import dataclass

import numpy as np

from service.arrays import FloatArray
from training.phantoms.anatomy import Chest
from training.phantoms.geometry import blur

# Effective linear attenuation coefficients at about 60 keV (a 110 kVp beam behind 20 cm of water), in 1/cm.
SOFT_TISSUE_PER_CM = 0.205
CORTICAL_BONE_PER_CM = 0.56


@dataclass(frozen=True, slots=True)
class Technique:
    """How one film was exposed and processed.

    photons: detected quanta per cm2 in the open beam. scatter: scatter-to-primary ratio before the grid's share.
    blur_cm: detector and focal blur (sigma). lung_grey, dense_grey: where the look-up curve puts the lungs' median
    and the densest 5 % of the body. toe: brightness of the open beam. sharpening: gain of the unsharp mask.
    """

    photons: float
    scatter: float
    blur_cm: float
    lung_grey: float
    dense_grey: float
    toe: float
    sharpening: float
    curve: float


def draw_technique(rng: np.random.Generator, view: str) -> Technique:
    """AP films are taken with mobile units: more scatter, fewer quanta, flatter."""
    portable = view == "AP"
    lung_grey = float(np.clip(rng.normal(0.45 if portable else 0.37, 0.10), 0.12, 0.62))
    dense_grey = float(np.clip(rng.normal(0.82 if portable else 0.87, 0.08), lung_grey + 0.22, 0.98))
    return Technique(
        photons=float(10 ** rng.uniform(5.7, 6.7) * (0.6 if portable else 1.0)),
        scatter=float(rng.uniform(0.25, 0.6) if portable else rng.uniform(0.08, 0.35)),
        blur_cm=float(rng.uniform(0.035, 0.07)),
        lung_grey=lung_grey,
        dense_grey=dense_grey,
        toe=float(max(0.0, rng.normal(0.0, 0.04))),
        sharpening=float(rng.choice((0.0, rng.uniform(0.1, 0.7)))),
        curve=float(rng.normal(0.15, 0.25)),
    )


def attenuation(chest: Chest) -> FloatArray:
    """Line integral of the attenuation coefficient along every ray, in nepers (Beer-Lambert's exponent)."""
    tissue = chest.soft + chest.lung * chest.density + chest.vessels
    nepers = np.float32(SOFT_TISSUE_PER_CM) * tissue
    nepers += np.float32(CORTICAL_BONE_PER_CM - SOFT_TISSUE_PER_CM) * chest.bone
    return np.asarray(nepers, dtype=np.float32)


def expose(nepers: FloatArray, technique: Technique, px_per_cm: float, rng: np.random.Generator) -> FloatArray:
    """The detector's logarithmic signal, -ln of the relative exposure, with scatter, blur and Poisson noise."""
    primary = np.exp(-nepers)
    scattered = np.minimum(primary, 0.25)  # the open beam beside the body scatters nothing
    total = primary + np.float32(technique.scatter) * blur(scattered, 3.5 * px_per_cm)
    quanta = technique.photons / px_per_cm**2
    counts = rng.poisson(np.clip(total, 1e-4, None) * np.float32(quanta)).astype(np.float32)
    signal = blur(counts, max(0.3, technique.blur_cm * px_per_cm))
    return np.asarray(-np.log(np.maximum(signal, 0.5) / np.float32(quanta)), dtype=np.float32)


def develop(signal: FloatArray, chest: Chest, technique: Technique) -> FloatArray:
    """Look-up curve: grey values in [0, 1], 0 = air-black, placed by the lungs and the densest parts."""
    body = chest.soft + chest.lung > 4.0
    lungs = chest.lung > 8.0
    dark = float(np.median(signal[lungs])) if lungs.any() else float(np.quantile(signal, 0.3))
    dense = float(np.quantile(signal[body], 0.95)) if body.any() else float(signal.max())
    slope = (technique.dense_grey - technique.lung_grey) / max(dense - dark, 0.9)
    linear = np.float32(technique.lung_grey) + np.float32(slope) * (signal - np.float32(dark))
    if technique.sharpening > 0:
        linear += np.float32(technique.sharpening) * (linear - blur(linear, 0.012 * linear.shape[0]))
    return s_curve(linear, technique)


def s_curve(linear: FloatArray, technique: Technique) -> FloatArray:
    """A film's toe and shoulder: soft ends instead of clipping."""
    t = np.clip(linear, 0.0, 1.0)
    curved = t + np.float32(technique.curve) * t * (1 - t) * (2 * t - 1)
    knee = np.float32(0.88)
    shoulder = np.where(linear > knee, knee + (1 - knee) * np.tanh((linear - knee) / (1 - knee)), curved)
    grey = np.minimum(curved, shoulder) if technique.curve < 0 else np.where(linear > knee, shoulder, curved)
    return np.clip(technique.toe + (1 - technique.toe) * grey, 0.0, 1.0).astype(np.float32)
