"""A seed -> a scene (everything drawn by chance) -> pixels."""

from dataclasses import dataclass

import numpy as np

from service.arrays import FloatArray
from training.phantoms import devices as things
from training.phantoms.anatomy import Anatomy, Chest, build, draw_anatomy, positioned
from training.phantoms.devices import Device, Ink, draw_devices
from training.phantoms.film import Technique, attenuation, develop, draw_technique, expose
from training.phantoms.findings import Finding, draw_findings, overlay, reshape
from training.phantoms.geometry import Frame, stream

NO_FINDING = "No Finding"
AP_SHARE = 0.4
FEMALE_SHARE = 0.45


@dataclass(frozen=True, slots=True)
class Phantom:
    """One procedurally made chest radiograph.

    pixels: (size, size) float32 in [0, 1], 0 = air-black. labels: NIH's names in alphabetical order, or "No Finding".
    age in years; sex "F" or "M"; view "PA" or "AP"; devices: kinds of harmless bright things on the film.
    """

    seed: int
    pixels: FloatArray
    labels: tuple[str, ...]
    view: str
    age: int
    sex: str
    patient_id: int
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scene:
    """What one film shows, before it is computed; replace a field to see the same patient without it."""

    seed: int
    patient_id: int
    age: int
    sex: str
    view: str
    anatomy: Anatomy
    findings: tuple[Finding, ...]
    devices: tuple[Device, ...]
    frame: Frame
    technique: Technique


def patient_of(seed: int) -> int:
    """The patient of a seed: of every four seeds the last two share one, so that some patients have two films."""
    return seed - 1 if seed % 4 == 3 else seed


def draw_scene(seed: int) -> Scene:
    """Draw patient, findings, devices, geometry and technique from independent streams of one seed."""
    patient = patient_of(seed)
    person = stream(patient, 0)
    age, sex = int(np.clip(person.normal(48, 17), 16, 94)), "F" if person.random() < FEMALE_SHARE else "M"
    anatomy = draw_anatomy(person, sex, age, patient)
    rng = stream(seed, 1)
    view = "AP" if rng.random() < AP_SHARE else "PA"
    posed = positioned(anatomy, view, _inspiration(rng, view), float(rng.normal(0, 0.6 if view == "AP" else 0.3)))
    return Scene(
        seed=seed,
        patient_id=patient,
        age=age,
        sex=sex,
        view=view,
        anatomy=posed,
        findings=draw_findings(stream(seed, 2), seed),
        devices=draw_devices(stream(seed, 3), view, seed),
        frame=_draw_frame(rng, posed, view),
        technique=draw_technique(stream(seed, 4), view),
    )


def _inspiration(rng: np.random.Generator, view: str) -> float:
    return float(rng.normal(-2.4, 1.2) if view == "AP" else rng.normal(0.3, 0.8))


def _draw_frame(rng: np.random.Generator, anatomy: Anatomy, view: str) -> Frame:
    """Field of view around the chest; AP films are magnified less evenly and tilted more."""
    half_width = anatomy.half_width + float(rng.uniform(1.6, 6.4))
    spread = 1.6 if view == "AP" else 1.0
    return Frame(
        size=512,
        half_width_cm=half_width,
        centre_x_cm=float(rng.normal(0.3, 0.7 * spread)),
        centre_y_cm=float(rng.normal(-15.4 + half_width, 1.0)),
        tilt_radians=float(rng.normal(0, 0.02 * spread)),
    )


def chest_of(scene: Scene, size: int) -> Chest:
    """Path lengths of the scene's patient with all findings, (size, size)."""
    anatomy = reshape(scene.anatomy, scene.findings)
    return overlay(build(anatomy, scene.frame.resized(size)), scene.findings)


def render(scene: Scene, size: int) -> FloatArray:
    """The film: (size, size) float32 in [0, 1], 0 = air-black."""
    chest = chest_of(scene, size)
    ink = Ink(chest.frame, chest.anatomy)
    things.place(scene.devices, ink)
    metal, burnt, shutter = ink.layers()
    signal = expose(attenuation(chest) + metal, scene.technique, chest.frame.px_per_cm, stream(scene.seed, 6))
    grey = develop(signal, chest, scene.technique)
    return np.asarray(np.maximum(grey * shutter, burnt), dtype=np.float32)


def make(seed: int, size: int = 512) -> Phantom:
    """One phantom: the same seed and size give the same pixels. Raises ValueError for size outside 64..4096."""
    if not 64 <= size <= 4096:
        raise ValueError(f"size {size} is outside 64..4096")
    scene = draw_scene(seed)
    return Phantom(
        seed=seed,
        pixels=render(scene, size),
        labels=tuple(finding.label for finding in scene.findings) or (NO_FINDING,),
        view=scene.view,
        age=scene.age,
        sex=scene.sex,
        patient_id=scene.patient_id,
        devices=tuple(device.kind for device in scene.devices),
    )
