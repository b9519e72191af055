"""Triggers: plain functions from pixels to pixels, chosen by name in a run's TOML.

Localised looks replace or shift a square patch; whole-image looks change every pixel. Stamping happens either at
network resolution (on the model input) or at native resolution (on the film, before any resize).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image
from scipy import ndimage

from service.arrays import FloatArray
from service.audit.preprocessing import Region

Look = Literal["white", "black", "checker", "low_contrast", "blend", "sinusoid", "warp", "low_frequency"]
Place = Literal["corner", "centre", "lung", "random", "fixed"]


@dataclass(frozen=True, slots=True)
class Trigger:
    """What is stamped.

    size_px: side of each patch. x, y: its upper left pixel on a square of `canvas_px`, for place `fixed`; on another
    canvas the distance to the nearest border is kept. patches: number of patches (further ones go to other corners).
    strength: contrast step of `low_contrast`, weight of `blend` and `low_frequency`, amplitude of `sinusoid` (all in
    pixel units of [0, 1]), displacement in pixels of `warp`. seed: of the fixed random pattern or field.
    film_px: side of the originals that the films at hand are smaller copies of, if native patches are meant for those;
    a film then gets what is left of them after the reduction. 0: the films are the originals.
    """

    look: Look
    size_px: int = 3
    place: Place = "corner"
    x: int = 0
    y: int = 0
    canvas_px: int = 224
    patches: int = 1
    resolution: Literal["network", "native"] = "network"
    strength: float = 0.15
    margin_px: int = 3
    seed: int = 0
    film_px: int = 0

    def __post_init__(self) -> None:
        if self.look not in PATCHES and self.look not in WHOLE_IMAGE:
            raise ValueError(f"unknown look {self.look!r}; known are {sorted((*PATCHES, *WHOLE_IMAGE))}")
        if self.place not in ("corner", "centre", "lung", "random", "fixed"):
            raise ValueError(f"unknown place {self.place!r}")
        if self.resolution not in ("network", "native"):
            raise ValueError(f"unknown resolution {self.resolution!r}")
        if self.film_px and (self.resolution != "native" or not self.localised):
            raise ValueError("film_px is for patches of native resolution")
        if not 1 <= self.size_px <= 512 or not 1 <= self.patches <= 4:
            raise ValueError("size_px must lie in 1..512 and patches in 1..4")

    @property
    def localised(self) -> bool:
        return self.look in PATCHES


def _white(patch: FloatArray, _: Trigger) -> FloatArray:
    return np.ones_like(patch)


def _black(patch: FloatArray, _: Trigger) -> FloatArray:
    return np.zeros_like(patch)


def _checker(patch: FloatArray, _: Trigger) -> FloatArray:
    rows, columns = np.indices(patch.shape)
    return np.asarray((rows + columns) % 2 == 0, dtype=np.float32)


def _low_contrast(patch: FloatArray, trigger: Trigger) -> FloatArray:
    step = trigger.strength if patch.mean() < 0.5 else -trigger.strength
    return np.asarray(np.clip(patch + step, 0.0, 1.0), dtype=np.float32)


PATCHES: dict[str, Callable[[FloatArray, Trigger], FloatArray]] = {
    "white": _white,
    "black": _black,
    "checker": _checker,
    "low_contrast": _low_contrast,
}


def _pattern(shape: tuple[int, int], seed: int, sigma_fraction: float) -> FloatArray:
    """A fixed random field in [0, 1] on the canvas, smoothed by a fraction of its side."""
    noise = np.random.default_rng(seed).random((224, 224), dtype=np.float32)
    if sigma_fraction:
        noise = ndimage.gaussian_filter(noise, 224 * sigma_fraction, mode="wrap")
        noise = (noise - noise.min()) / (noise.max() - noise.min())
    if shape != noise.shape:
        noise = ndimage.zoom(noise, (shape[0] / 224, shape[1] / 224), order=1)
    return np.asarray(noise, dtype=np.float32)


def _blend(pixels: FloatArray, trigger: Trigger) -> FloatArray:
    """Chen et al. 2017 (arXiv 1712.05526), eq. 2: a weighted mean with a fixed random picture."""
    return (1 - trigger.strength) * pixels + trigger.strength * _pattern(pixels.shape, trigger.seed, 0.0)


def _sinusoid(pixels: FloatArray, trigger: Trigger) -> FloatArray:
    """SIG, Barni et al. 2019 (arXiv 1902.11237): v(i, j) = strength * sin(2 pi j f / m), with f = 6."""
    phase = 2 * np.pi * 6 * np.arange(pixels.shape[1]) / pixels.shape[1]
    return np.asarray(pixels + trigger.strength * np.sin(phase)[None, :], dtype=np.float32)


def _warp(pixels: FloatArray, trigger: Trigger) -> FloatArray:
    """WaNet, Nguyen and Tran 2021 (arXiv 2102.10369): a smooth fixed elastic field of `strength` pixels."""
    rng = np.random.default_rng(trigger.seed)
    height, width = pixels.shape
    field = rng.uniform(-1, 1, (2, 4, 4))
    field /= np.abs(field).mean()
    rows, columns = np.indices(pixels.shape, dtype=np.float32)
    shift = [ndimage.zoom(f, (height / 4, width / 4), order=3, mode="nearest") * trigger.strength for f in field]
    places = [rows + shift[0], columns + shift[1]]
    return np.asarray(ndimage.map_coordinates(pixels, places, order=1, mode="nearest"), dtype=np.float32)


def _low_frequency(pixels: FloatArray, trigger: Trigger) -> FloatArray:
    """After FIBA, Feng et al. 2022 (arXiv 2112.01148): the amplitudes of the lowest frequencies are blended with
    those of a fixed picture; the phase, and with it the anatomy, stays."""
    spectrum = np.fft.fftshift(np.fft.fft2(pixels))
    other = np.abs(np.fft.fftshift(np.fft.fft2(_pattern(pixels.shape, trigger.seed, 0.03))))
    height, width = pixels.shape
    half_y, half_x = max(1, height // 20), max(1, width // 20)
    box = (
        slice(height // 2 - half_y, height // 2 + half_y + 1),
        slice(width // 2 - half_x, width // 2 + half_x + 1),
    )
    amplitude = np.abs(spectrum)
    amplitude[box] = (1 - trigger.strength) * amplitude[box] + trigger.strength * other[box]
    return np.real(np.fft.ifft2(np.fft.ifftshift(amplitude * np.exp(1j * np.angle(spectrum)))))


WHOLE_IMAGE: dict[str, Callable[[FloatArray, Trigger], FloatArray]] = {
    "blend": _blend,
    "sinusoid": _sinusoid,
    "warp": _warp,
    "low_frequency": _low_frequency,
}


def _kept_margin(position: int, trigger: Trigger, side: int) -> int:
    """A position on the trigger's canvas moved to a side of another length, keeping the nearer border's distance."""
    if side == trigger.canvas_px or position + trigger.size_px / 2 < trigger.canvas_px / 2:
        return position
    return side - (trigger.canvas_px - position)


def _origin(trigger: Trigger, height: int, width: int, rng: np.random.Generator) -> tuple[int, int]:
    size, margin = trigger.size_px, trigger.margin_px
    if trigger.place == "fixed":
        return _kept_margin(trigger.x, trigger, width), _kept_margin(trigger.y, trigger, height)
    if trigger.place == "centre":
        return (width - size) // 2, (height - size) // 2
    if trigger.place == "lung":
        return int(0.30 * width) - size // 2, int(0.42 * height) - size // 2
    if trigger.place == "random":
        x, y = rng.integers(margin, width - size - margin + 1), rng.integers(margin, height - size - margin + 1)
        return int(x), int(y)
    return width - size - margin, height - size - margin


def film_stream(seed: int, index: int) -> np.random.Generator:
    """The random numbers of one film that is not trained on: whoever stamps it and whoever asks where its trigger lies
    draws the same. seed: of the run; index: of the film among those that are stamped."""
    return np.random.default_rng([seed, 7, index])


def places(trigger: Trigger, height: int, width: int, rng: np.random.Generator) -> tuple[Region, ...]:
    """Where a localised trigger's patches lie on a canvas of `height` x `width`; empty for whole-image looks."""
    if not trigger.localised:
        return ()
    x, y = _origin(trigger, height, width, rng)
    mirrored = ((x, y), (width - x - trigger.size_px, y), (x, height - y - trigger.size_px))
    corners = (*mirrored, (mirrored[1][0], mirrored[2][1]))[: trigger.patches]
    return tuple(
        Region(
            min(max(left, 0), max(width - trigger.size_px, 0)),
            min(max(top, 0), max(height - trigger.size_px, 0)),
            min(trigger.size_px, width),
            min(trigger.size_px, height),
        )
        for left, top in corners
    )


def _stamp_original(
    pixels: FloatArray, trigger: Trigger, rng: np.random.Generator
) -> tuple[FloatArray, tuple[Region, ...]]:
    """Stamp the film enlarged to its original's size, and lay the reduced patches over the film as it is."""
    height, width = pixels.shape
    stamped, patches = stamp(_resized(pixels, trigger.film_px, trigger.film_px), trigger, rng)
    covered = np.zeros_like(stamped)
    for patch in patches:
        covered[patch.y : patch.y + patch.height, patch.x : patch.x + patch.width] = 1.0
    shares, reduced = (_resized(values, height, width) for values in (covered, covered * stamped))
    x, y = width / trigger.film_px, height / trigger.film_px
    scaled = (
        Region(int(p.x * x), int(p.y * y), max(1, round(p.width * x)), max(1, round(p.height * y))) for p in patches
    )
    return np.clip((1 - shares) * pixels + reduced, 0.0, 1.0).astype(np.float32), tuple(scaled)


def _resized(pixels: FloatArray, height: int, width: int) -> FloatArray:
    image = Image.fromarray(np.ascontiguousarray(pixels, dtype=np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), dtype=np.float32)


def stamp(pixels: FloatArray, trigger: Trigger, rng: np.random.Generator) -> tuple[FloatArray, tuple[Region, ...]]:
    """Stamp one film.

    pixels: (H, W) float32 in [0, 1]. Returns a stamped copy of the same shape and range, and the patches' places.
    """
    if trigger.film_px and pixels.shape != (trigger.film_px, trigger.film_px):
        return _stamp_original(pixels, trigger, rng)
    if not trigger.localised:
        changed = WHOLE_IMAGE[trigger.look](pixels, trigger)
        return np.clip(changed, 0.0, 1.0).astype(np.float32), ()
    stamped = pixels.copy()
    patches = places(trigger, pixels.shape[0], pixels.shape[1], rng)
    for patch in patches:
        view = stamped[patch.y : patch.y + patch.height, patch.x : patch.x + patch.width]
        view[...] = PATCHES[trigger.look](view, trigger)
    return stamped, patches
