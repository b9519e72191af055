"""NIH's fourteen findings, each of random severity, side and place.

A finding acts on the anatomy (a larger heart, a flatter diaphragm), on the path lengths (fluid instead of lung), or on
both; the two tables at the end say which.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from service.arrays import FloatArray
from training.phantoms.anatomy import Anatomy, Chest, cavity_half_width
from training.phantoms.geometry import AnyFloatArray, blur, cap, ellipse, fractal_noise, noise_field, step, stream

Label = Literal[
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
]

# Share of each finding among first findings: the square root of NIH's counts, so that the rare ones can be learned.
PREVALENCE: dict[Label, float] = {
    "Infiltration": 4.4,
    "Effusion": 3.7,
    "Atelectasis": 3.4,
    "Nodule": 2.5,
    "Mass": 2.4,
    "Pneumothorax": 2.3,
    "Consolidation": 2.2,
    "Pleural_Thickening": 1.8,
    "Cardiomegaly": 1.7,
    "Emphysema": 1.6,
    "Edema": 1.5,
    "Fibrosis": 1.3,
    "Pneumonia": 1.2,
    "Hernia": 0.8,
}
LABELS: tuple[Label, ...] = tuple(sorted(PREVALENCE))

# Pairs that NIH's table shows together more often than chance; a companion is this many times likelier.
COMPANIONS: frozenset[frozenset[Label]] = frozenset(
    {
        frozenset({"Effusion", "Atelectasis"}),
        frozenset({"Effusion", "Cardiomegaly"}),
        frozenset({"Effusion", "Consolidation"}),
        frozenset({"Effusion", "Infiltration"}),
        frozenset({"Effusion", "Pleural_Thickening"}),
        frozenset({"Infiltration", "Edema"}),
        frozenset({"Infiltration", "Pneumonia"}),
        frozenset({"Edema", "Pneumonia"}),
        frozenset({"Emphysema", "Pneumothorax"}),
        frozenset({"Fibrosis", "Pleural_Thickening"}),
        frozenset({"Mass", "Nodule"}),
        frozenset({"Hernia", "Atelectasis"}),
    }
)
COMPANION_FACTOR = 3.0
NO_FINDING_SHARE = 0.35
COUNT_SHARES = (0.56, 0.28, 0.12, 0.04)  # of one, two, three and four findings among films that have any


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding: side -1 is the patient's right, +1 the left; severity in [0, 1]; seed fixes its details."""

    label: Label
    side: int
    severity: float
    seed: int


def draw_findings(rng: np.random.Generator, seed: int) -> tuple[Finding, ...]:
    """The findings of one film, in LABELS' order; empty for about 35 % of films."""
    if rng.random() < NO_FINDING_SHARE:
        return ()
    chosen: list[Label] = []
    for _ in range(1 + int(rng.choice(len(COUNT_SHARES), p=COUNT_SHARES))):
        weights = np.array([_weight(label, chosen) for label in LABELS])
        chosen.append(LABELS[int(rng.choice(len(LABELS), p=weights / weights.sum()))])
    return tuple(
        Finding(label, int(rng.choice((-1, 1))), float(rng.beta(1.6, 1.4)), seed * 16 + LABELS.index(label))
        for label in sorted(chosen)
    )


def _weight(label: Label, chosen: Sequence[Label]) -> float:
    if label in chosen:
        return 0.0
    together = any(frozenset({label, other}) in COMPANIONS for other in chosen)
    return PREVALENCE[label] * (COMPANION_FACTOR if together else 1.0)


def reshape(anatomy: Anatomy, findings: Sequence[Finding]) -> Anatomy:
    """The anatomy as these findings change it."""
    for finding in findings:
        if finding.label in SHAPES:
            anatomy = SHAPES[finding.label](anatomy, finding)
    return anatomy


def overlay(chest: Chest, findings: Sequence[Finding]) -> Chest:
    """The path lengths as these findings change them."""
    for finding in findings:
        if finding.label in OPACITIES:
            chest = OPACITIES[finding.label](chest, finding)
    return chest


# On the anatomy


def _large_heart(anatomy: Anatomy, finding: Finding) -> Anatomy:
    factor = 1.20 + 0.28 * finding.severity
    return replace(anatomy, heart_scale=anatomy.heart_scale * factor, heart_y=anatomy.heart_y + 2.0 * (factor - 1))


def _over_inflated(anatomy: Anatomy, finding: Finding) -> Anatomy:
    amount = 0.5 + 0.5 * finding.severity
    return replace(
        anatomy,
        lung_density=anatomy.lung_density * (1 - 0.45 * amount),
        dome_right_y=anatomy.dome_right_y + 1.9 * amount,
        dome_left_y=anatomy.dome_left_y + 1.9 * amount,
        dome_curve=anatomy.dome_curve * (1 - 0.65 * amount),
        heart_scale=anatomy.heart_scale * (1 - 0.13 * amount),
        vessel_scale=anatomy.vessel_scale * (1 - 0.35 * amount),
        half_depth=anatomy.half_depth + 0.9 * amount,
    )


def _shrunken(anatomy: Anatomy, finding: Finding) -> Anatomy:
    return _raised(anatomy, finding.side, 0.8 * finding.severity)


def _collapsed(anatomy: Anatomy, finding: Finding) -> Anatomy:
    return _raised(anatomy, finding.side, 0.6 + 2.0 * finding.severity)


def _raised(anatomy: Anatomy, side: int, rise: float) -> Anatomy:
    if side < 0:
        return replace(anatomy, dome_right_y=anatomy.dome_right_y - rise)
    return replace(anatomy, dome_left_y=anatomy.dome_left_y - rise)


def _congested(anatomy: Anatomy, finding: Finding) -> Anatomy:
    return replace(
        anatomy,
        vessel_scale=anatomy.vessel_scale * (1.15 + 0.3 * finding.severity),
        heart_scale=anatomy.heart_scale * (1.0 + 0.08 * finding.severity),
    )


# On the path lengths


def _on_side(chest: Chest, finding: Finding) -> FloatArray:
    return (chest.x * finding.side > 0).astype(np.float32)


def _fill(chest: Chest, fraction: AnyFloatArray) -> Chest:
    """Replace that fraction (0..1) of the air in the lung by fluid."""
    filled = np.asarray(np.clip(fraction, 0.0, 1.0), dtype=np.float32)
    return replace(chest, density=chest.density + (1.0 - chest.density) * filled)


def _place(chest: Chest, finding: Finding, heights: tuple[float, float]) -> tuple[float, float]:
    """A point in the lung of that side: heights are fractions from the apex (0) to the dome (1)."""
    rng = stream(finding.seed, 1)
    anatomy = chest.anatomy
    base = anatomy.dome_right_y if finding.side < 0 else anatomy.dome_left_y
    y = anatomy.apex_y + (base - anatomy.apex_y) * float(rng.uniform(*heights))
    outer = float(cavity_half_width(anatomy, np.array([y], np.float32))[0])
    return finding.side * float(rng.uniform(4.2, max(4.4, outer - 1.6))), y


def _patch(chest: Chest, finding: Finding, heights: tuple[float, float], radius: float, ragged: float) -> FloatArray:
    """An ill-defined patch: an ellipse whose rim is moved by noise, 0..1."""
    rng = stream(finding.seed, 2)
    axes = (radius * float(rng.uniform(0.8, 1.3)), radius * float(rng.uniform(0.8, 1.4)))
    r2 = ellipse(chest.x, chest.y, _place(chest, finding, heights), axes, float(rng.uniform(-1, 1)))
    rim = fractal_noise(rng, chest.frame.size, (9, 20, 40), 0.6)
    return step(1.0 - np.sqrt(r2) + np.float32(ragged) * rim, 1.1) * _on_side(chest, finding)


def _effusion(chest: Chest, finding: Finding) -> Chest:
    """Free fluid: a meniscus that rises along the flank and hides the dome."""
    base = chest.anatomy.dome_right_y if finding.side < 0 else chest.anatomy.dome_left_y
    level = base + 2.2 - 9.0 * finding.severity**1.3
    lateral = np.clip(np.abs(chest.x) / chest.outer, 0.0, 1.0)
    surface = level - 3.6 * lateral**4 - 0.8 * (1 - lateral) ** 3
    depth = np.clip((chest.y - surface) / np.float32(2.5 + 3 * finding.severity), 0.0, 1.0) ** 0.8
    return _fill(chest, depth * _on_side(chest, finding))


def _infiltration(chest: Chest, finding: Finding) -> Chest:
    """Streaky, patchy, thin opacity in one or both lungs."""
    rng = stream(finding.seed, 3)
    streaks = np.abs(fractal_noise(rng, chest.frame.size, (12, 26, 60), 0.5)) * 0.35
    total = _patch(chest, finding, (0.35, 0.95), 5.0, 0.3)
    if rng.random() < 0.5:
        other = replace(finding, side=-finding.side, seed=finding.seed + (1 << 40))
        total = total + 0.8 * _patch(chest, other, (0.35, 0.95), 4.5, 0.3)
    return _fill(chest, total * (0.35 + streaks) * np.float32(0.28 + 0.35 * finding.severity))


def _consolidation(chest: Chest, finding: Finding) -> Chest:
    """Dense air-space opacity of part of a lobe, with air bronchograms, cut off by a fissure."""
    rng = stream(finding.seed, 3)
    patch = _patch(chest, finding, (0.2, 0.95), 5.2, 0.2)
    fissure = _place(chest, finding, (0.2, 0.95))[1] - 2.0 + 0.25 * np.abs(chest.x)
    patch = patch * step(chest.y - fissure.astype(np.float32), 2.0)
    airways = np.clip(1.0 - 3.0 * np.abs(noise_field(rng, chest.frame.size, 26)), 0.0, 1.0)
    return _fill(chest, patch * (1 - 0.2 * airways) * np.float32(0.55 + 0.35 * finding.severity))


def _pneumonia(chest: Chest, finding: Finding) -> Chest:
    """Confluent fluffy patches around one centre."""
    rng = stream(finding.seed, 3)
    fluff = np.clip(0.75 + 0.3 * fractal_noise(rng, chest.frame.size, (12, 28), 0.5), 0.35, 1.3)
    patch = _patch(chest, finding, (0.4, 0.95), 3.4 + 1.5 * finding.severity, 0.22)
    return _fill(chest, patch * fluff * np.float32(0.4 + 0.35 * finding.severity))


def _edema(chest: Chest, finding: Finding) -> Chest:
    """Bat's wings: haze around both hila and towards the bases, with thick septa at the flanks."""
    rng = stream(finding.seed, 3)
    wings = np.exp(-(((np.abs(chest.x) - 5.5) / 4.2) ** 2) - ((chest.y - 3.5) / 6.5) ** 2)
    cloud = np.clip(0.75 + 0.3 * fractal_noise(rng, chest.frame.size, (8, 18, 40), 0.5), 0.0, 1.4)
    lines = step(np.sin(chest.y * np.float32(2 * np.pi / 0.9)) - 0.75, 0.3) * step(
        np.abs(chest.x) / chest.outer - 0.82, 0.1
    )
    lines = lines * step(chest.y - 4.0, 2.0)
    haze = wings.astype(np.float32) * cloud * np.float32(0.22 + 0.4 * finding.severity)
    return _fill(chest, haze + 0.10 * lines + np.float32(0.04 + 0.05 * finding.severity))


def _emphysema(chest: Chest, finding: Finding) -> Chest:
    """Bullae: round holes in the parenchyma with hair-thin walls."""
    rng = stream(finding.seed, 3)
    density = chest.density
    for _ in range(int(rng.integers(2, 5))):
        spot = replace(finding, side=int(rng.choice((-1, 1))), seed=finding.seed + int(rng.integers(1 << 30)))
        radius = float(rng.uniform(1.2, 2.8))
        r2 = ellipse(chest.x, chest.y, _place(chest, spot, (0.05, 0.5)), (radius, radius * 1.2))
        wall = np.exp(-(((np.sqrt(r2) - 1) * radius / 0.1) ** 2))
        holed = density * (1 - 0.5 * np.sqrt(cap(r2))) + np.float32(0.03) * wall
        density = holed.astype(np.float32)
    return replace(chest, density=density)


def _fibrosis(chest: Chest, finding: Finding) -> Chest:
    """A net of lines at the periphery, mostly of both bases or both apices."""
    rng = stream(finding.seed, 3)
    size = chest.frame.size
    net = sum(np.clip(1.0 - 2.6 * np.abs(noise_field(rng, size, cells)), 0.0, 1.0) for cells in (30, 46, 64))
    lateral = step(np.abs(chest.x) / chest.outer - 0.5, 0.7)
    height = chest.y - 3.0 if rng.random() < 0.65 else -3.0 - chest.y
    weight = (0.25 + 0.75 * lateral) * step(height.astype(np.float32), 7.0)
    other_side = np.where(chest.x * finding.side > 0, 1.0, float(rng.uniform(0.3, 1.0)))
    return _fill(chest, np.asarray(net) * weight * other_side * np.float32(0.09 + 0.13 * finding.severity))


def _nodule(chest: Chest, finding: Finding) -> Chest:
    rng = stream(finding.seed, 3)
    for index in range(1 + int(rng.random() < 0.3) * int(rng.integers(1, 4))):
        spot = replace(finding, seed=finding.seed + (index << 40))
        chest = _ball(chest, spot, 0.6 + 0.75 * finding.severity, 0.08, 1.25)
    return chest


def _mass(chest: Chest, finding: Finding) -> Chest:
    return _ball(chest, finding, 1.7 + 2.0 * finding.severity, 0.09, 0.75)


def _ball(chest: Chest, finding: Finding, radius: float, ragged: float, solidity: float) -> Chest:
    """A solid ball with an uneven rim in place of lung, radius in cm."""
    rng = stream(finding.seed, 4)
    r2 = ellipse(
        chest.x, chest.y, _place(chest, finding, (0.12, 0.9)), (radius, radius * float(rng.uniform(0.85, 1.2)))
    )
    rim = fractal_noise(rng, chest.frame.size, (14, 28), 0.5) * np.float32(ragged)
    chord = 2 * radius * cap(np.clip(np.sqrt(r2) + rim, 0.0, None) ** 2)
    return _fill(chest, np.minimum(chord * np.float32(solidity) * 1.25 / np.maximum(chest.lung, 2.0), 0.95))


def _thickened(chest: Chest, finding: Finding) -> Chest:
    """A soft rind along the flank and over the apex, blunting the angle."""
    rng = stream(finding.seed, 3)
    uneven = 1.0 + 0.22 * noise_field(rng, chest.frame.size, 9)
    thickness = np.float32(0.5 + 1.1 * finding.severity) * uneven
    inwards = chest.outer - np.abs(chest.x)
    apical = (chest.y - np.float32(chest.anatomy.apex_y)) * 0.8
    rind = np.maximum(step(thickness - inwards, 0.5), step(1.3 * thickness - apical, 0.6))
    part = step(chest.y - 1.0, 4.0) if rng.random() < 0.5 else step(4.0 - chest.y, 4.0)
    return _fill(chest, rind * part * _on_side(chest, finding) * np.float32(0.45 + 0.3 * finding.severity))


def _atelectasis(chest: Chest, finding: Finding) -> Chest:
    """Plates: one to four bands near the base, more or less horizontal, over a hazy base."""
    rng = stream(finding.seed, 3)
    total = np.zeros_like(chest.x)
    base = chest.anatomy.dome_right_y if finding.side < 0 else chest.anatomy.dome_left_y
    for _ in range(int(rng.integers(1, 5))):
        centre = (finding.side * float(rng.uniform(4.5, 10.0)), base - float(rng.uniform(0.3, 5.0)))
        axes = (float(rng.uniform(2.0, 5.0)), float(rng.uniform(0.12, 0.4)) * (1 + finding.severity))
        total = np.maximum(total, np.sqrt(cap(ellipse(chest.x, chest.y, centre, axes, float(rng.normal(0, 0.3))))))
    haze = 0.25 * finding.severity * step(chest.y - np.float32(base - 3.0), 4.0)
    strength = np.float32(0.22 + 0.25 * finding.severity)
    return _fill(chest, (blur(total, 0.08 * chest.frame.px_per_cm) * strength + haze) * _on_side(chest, finding))


def _pneumothorax(chest: Chest, finding: Finding) -> Chest:
    """Air between lung and wall: no vessels outside a fine pleural line, the lung inside a little denser."""
    rng = stream(finding.seed, 3)
    gap = 1.0 + 5.0 * finding.severity**1.4
    apex = np.float32(chest.anatomy.apex_y)
    inwards = chest.outer - np.abs(chest.x) + np.float32(0.25) * noise_field(rng, chest.frame.size, 6)
    apical = (chest.y - apex) / np.float32(1.6)
    lateral_gap = gap * np.clip(1.15 - (chest.y - apex) / np.float32(14 + 14 * finding.severity), 0.0, 1.0)
    depth = _soft_minimum(inwards - lateral_gap, apical - np.float32(0.7 * gap))  # cm inside the lung's surface
    side = _on_side(chest, finding)
    inside = step(depth, 0.25)
    line = np.exp(-((depth / 0.11) ** 2)) * (lateral_gap > 0.3) * np.float32(0.045)
    lung = chest.density * np.float32(1.08 + 0.25 * finding.severity) * inside + np.float32(0.01) * (1 - inside) + line
    return replace(
        chest,
        density=np.where(side > 0, lung, chest.density).astype(np.float32),
        vessels=np.where(side > 0, chest.vessels * inside, chest.vessels).astype(np.float32),
    )


def _soft_minimum(a: FloatArray, b: FloatArray) -> FloatArray:
    """The smaller of two distances with the corner between them rounded by about 2 cm."""
    return np.asarray(0.5 * (a + b - np.sqrt((a - b) ** 2 + np.float32(4.0))), dtype=np.float32)


def _hernia(chest: Chest, finding: Finding) -> Chest:
    """Hiatal hernia: a round retrocardiac mass with gas over a level."""
    rng = stream(finding.seed, 3)
    radius = 2.3 + 2.2 * finding.severity
    centre = (float(rng.uniform(-0.5, 2.0)), chest.anatomy.dome_left_y - 0.6 * radius)
    chord = 2 * radius * cap(ellipse(chest.x, chest.y, centre, (1.15 * radius, radius)))
    gas = 0.75 * cap(ellipse(chest.x, chest.y, centre, (0.9 * radius, 0.75 * radius)))
    gas = gas * step(np.float32(centre[1]) - chest.y, 0.25) * 2 * radius
    lung = np.clip(chest.lung - chord, 0.0, None)
    return replace(chest, lung=lung, soft=np.clip(chest.soft + (chest.lung - lung) - gas, 0.0, None))


SHAPES: dict[Label, Callable[[Anatomy, Finding], Anatomy]] = {
    "Atelectasis": _collapsed,
    "Cardiomegaly": _large_heart,
    "Edema": _congested,
    "Emphysema": _over_inflated,
    "Fibrosis": _shrunken,
}
OPACITIES: dict[Label, Callable[[Chest, Finding], Chest]] = {
    "Atelectasis": _atelectasis,
    "Consolidation": _consolidation,
    "Edema": _edema,
    "Effusion": _effusion,
    "Emphysema": _emphysema,
    "Fibrosis": _fibrosis,
    "Hernia": _hernia,
    "Infiltration": _infiltration,
    "Mass": _mass,
    "Nodule": _nodule,
    "Pleural_Thickening": _thickened,
    "Pneumonia": _pneumonia,
    "Pneumothorax": _pneumothorax,
}
