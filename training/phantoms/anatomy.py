"""The body: how many centimetres of soft tissue, lung, gas and bone each ray crosses.

Numbers are those of a standing adult, in cm. Shapes are chords of ellipses and balls, so that edges have the
square-root profile of a tangential ray. Sides: -1 is the patient's right (the film's left), +1 the patient's left.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from service.arrays import FloatArray
from training.phantoms.geometry import (
    Frame,
    Tube,
    blur,
    cap,
    ellipse,
    enlarge,
    fractal_noise,
    relative_distance,
    segment_distance,
    step,
    stream,
)

APEX_X = 5.2
MEDIAN_WALL_CM = 2.3


@dataclass(frozen=True, slots=True)
class Anatomy:
    """One patient. Lengths in cm, angles in radians, the rest are factors around 1."""

    half_width: float
    half_depth: float
    fat: float
    apex_y: float
    dome_right_y: float
    dome_left_y: float
    dome_curve: float
    heart_scale: float
    heart_angle: float
    heart_x: float
    heart_y: float
    aorta: float
    mediastinum: float
    lung_density: float
    vessel_scale: float
    vessel_count: int
    rib_pitch: float
    rib_drop: float
    rib_radius: float
    bone_mineral: float
    clavicle_lift: float
    scapula_x: float
    arm_angle: float
    breast: float
    breast_y: float
    stomach: float
    bowel: float
    turn: float
    texture: float
    seed: int


@dataclass(frozen=True, slots=True)
class Chest:
    """Path lengths through one patient, each (size, size) float32 in cm.

    lung: depth of aerated lung; density: fraction of it that is tissue; soft: everything else that is not gas or bone;
    vessels: blood inside the lung; bone: cortical bone; outer: half-width of the thoracic cavity at that height;
    dome: height y of the diaphragm below or above that point's column.
    """

    anatomy: Anatomy
    frame: Frame
    x: FloatArray
    y: FloatArray
    soft: FloatArray
    lung: FloatArray
    density: FloatArray
    vessels: FloatArray
    bone: FloatArray
    outer: FloatArray
    dome: FloatArray


def draw_anatomy(rng: np.random.Generator, sex: str, age: int, seed: int) -> Anatomy:
    """A patient by chance: habitus, sex and age move the means."""
    female, old = sex == "F", np.clip((age - 20) / 60, 0, 1)
    fat = float(np.clip(rng.normal(0.25, 0.35), -0.25, 1.2))
    half_width = float(rng.normal(13.6 - 0.9 * female, 0.6))
    dome = float(rng.normal(9.5, 0.8))
    return Anatomy(
        half_width=half_width,
        half_depth=float(rng.normal(10.0 - 0.8 * female, 0.7) + 2.0 * fat),
        fat=fat,
        apex_y=float(rng.normal(-11.6, 0.5)),
        dome_right_y=dome,
        dome_left_y=dome + float(rng.normal(1.1, 0.4)),
        dome_curve=float(rng.uniform(0.75, 1.25)),
        heart_scale=float(rng.normal(0.92 - 0.05 * female + 0.06 * old, 0.045)),
        heart_angle=float(rng.normal(0.72 - 0.2 * fat, 0.1)),
        heart_x=float(rng.normal(2.1, 0.25)),
        heart_y=float(dome - rng.normal(4.0, 0.4)),
        aorta=float(rng.normal(1.35 + 0.5 * old, 0.15)),
        mediastinum=float(rng.normal(1.0 + 0.12 * fat, 0.06)),
        lung_density=float(np.clip(rng.normal(0.27, 0.03), 0.19, 0.36)),
        vessel_scale=float(rng.uniform(0.8, 1.2)),
        vessel_count=int(rng.integers(7, 11)),
        rib_pitch=float(rng.normal(2.32, 0.08)),
        rib_drop=float(rng.uniform(0.8, 1.35)),
        rib_radius=float(rng.normal(0.66 - 0.05 * female, 0.04)),
        bone_mineral=float(rng.normal(1.05 - 0.3 * old, 0.1)),
        clavicle_lift=float(rng.normal(0.0, 0.8)),
        scapula_x=float(rng.normal(0.0, 0.7)),
        arm_angle=float(rng.uniform(0.2, 0.9)),
        breast=float(np.clip(rng.normal(1.0 + 0.5 * fat, 0.35), 0.25, 2.2)) * female,
        breast_y=float(rng.normal(8.0 + 1.5 * old, 1.0)),
        stomach=float(rng.uniform(-0.4, 1.0)),
        bowel=float(rng.uniform(-0.5, 1.0)),
        turn=float(rng.normal(0.0, 0.35)),
        texture=float(rng.uniform(0.6, 1.3)),
        seed=seed,
    )


def positioned(anatomy: Anatomy, view: str, inspiration: float, turn: float) -> Anatomy:
    """The patient as exposed. AP: heart magnified, scapulae over the lungs, clavicles higher, shallower breath.

    inspiration: cm by which the diaphragm is lower than at the patient's usual breath. turn: cm by which the front
    of the chest is displaced to the patient's left by rotation.
    """
    supine = view == "AP"
    return replace(
        anatomy,
        dome_right_y=anatomy.dome_right_y + inspiration,
        dome_left_y=anatomy.dome_left_y + inspiration,
        heart_y=anatomy.heart_y + 0.7 * inspiration,
        heart_scale=anatomy.heart_scale * (1.10 if supine else 1.0) * (1.0 - 0.015 * inspiration),
        heart_x=anatomy.heart_x + 0.8 * turn,
        mediastinum=anatomy.mediastinum * (1.12 if supine else 1.0),
        scapula_x=anatomy.scapula_x + (0.0 if supine else 2.6),
        clavicle_lift=anatomy.clavicle_lift + (1.2 if supine else -0.6),
        arm_angle=anatomy.arm_angle * (0.5 if supine else 1.0),
        turn=turn,
    )


def build(anatomy: Anatomy, frame: Frame) -> Chest:
    """All path lengths of a positioned patient over one film."""
    x, y = frame.coordinates()
    outer, dome = cavity_half_width(anatomy, y), diaphragm(anatomy, x)
    body = body_depth(anatomy, x, y)
    lung = np.minimum(lung_depth(anatomy, x, y, outer, dome), 0.92 * body)
    gas = gas_depth(anatomy, x, y)
    vessels = vessel_depth(anatomy, frame) * step(lung - 2.0, 3.0)
    return Chest(
        anatomy=anatomy,
        frame=frame,
        x=x,
        y=y,
        soft=np.clip(body - lung - gas, 0.0, None) + breast_depth(anatomy, x, y) + abdomen_texture(anatomy, frame.size),
        lung=lung,
        density=parenchyma(anatomy, y, frame.size),
        vessels=vessels,
        bone=bone_depth(anatomy, frame, x, y),
        outer=outer,
        dome=dome,
    )


def cavity_half_width(anatomy: Anatomy, y: FloatArray) -> FloatArray:
    """Half-width of the thoracic cavity at height y: a superellipse from the apices to the widest ribs."""
    return APEX_X + (anatomy.half_width - APEX_X) * _opening(anatomy, y, 1.0)


def _opening(anatomy: Anatomy, y: FloatArray, speed: float) -> FloatArray:
    u = np.clip((y - anatomy.apex_y) * np.float32(speed / 23.0), 0.0, 1.0)
    return np.asarray((1.0 - (1.0 - u) ** 2.2) ** np.float32(1 / 2.0), dtype=np.float32)


def diaphragm(anatomy: Anatomy, x: FloatArray) -> FloatArray:
    """Height y of the two domes over x: parabolas, steep towards the costophrenic angles."""
    top = np.where(x < 0, anatomy.dome_right_y, anatomy.dome_left_y)
    offset = np.abs(x) - np.float32(0.47 * anatomy.half_width)
    steep = np.where(offset > 0, 0.115, 0.03).astype(np.float32) * np.float32(anatomy.dome_curve)
    return (top + offset * offset * steep).astype(np.float32)


def body_depth(anatomy: Anatomy, x: FloatArray, y: FloatArray) -> FloatArray:
    """Depth of the trunk, neck and arms along the ray."""
    wall = MEDIAN_WALL_CM + 2.2 * max(anatomy.fat, 0.0)
    trunk = anatomy.half_width + wall
    heights = [-40, -20, -18, -16, -14.5, -13, -11.5, -9, -4, 4, 12, 18, 40]
    widths = [5.8, 6.0, 6.3, 7.3, 9.3, 12.4, 15.6, trunk + 1.8, trunk + 0.3, trunk, trunk, trunk + 0.5, trunk + 2]
    depths = [5.5, 5.8, 6.1, 6.3, 6.6, 6.9, 7.2, 7.6, 8.5, 9.5, 10.5, 10.9, 11.0]
    width = np.interp(y, heights, widths).astype(np.float32)
    depth = np.interp(y, heights, np.multiply(depths, anatomy.half_depth / 10.0)).astype(np.float32)
    chord = 2.0 * depth * np.sqrt(cap((x / width) ** 2 * np.abs(x / width)))
    for side in (-1, 1):
        chord = np.maximum(chord, _arm_depth(anatomy, x, y, side))
    return np.asarray(chord, dtype=np.float32)


def _arm_depth(anatomy: Anatomy, x: FloatArray, y: FloatArray, side: int) -> FloatArray:
    radius = 4.2 + 1.2 * max(anatomy.fat, 0.0)
    shoulder = (side * (anatomy.half_width + 3.2), -8.8)
    hand = (shoulder[0] + side * 30 * np.sin(anatomy.arm_angle), shoulder[1] + 30 * np.cos(anatomy.arm_angle))
    return 2.0 * np.float32(radius) * cap((segment_distance(x, y, shoulder, hand) / np.float32(radius)) ** 2)


def lung_depth(anatomy: Anatomy, x: FloatArray, y: FloatArray, outer: FloatArray, dome: FloatArray) -> FloatArray:
    """Depth of lung: the cavity's chord less mediastinum, heart, great vessels and what lies under the domes."""
    opening = _opening(anatomy, y, 1.0)
    depth = 2.0 * np.float32(anatomy.half_depth - 2.0) * np.sqrt(opening)
    lung = depth * cap((x / outer) ** 2)
    inner = APEX_X - (APEX_X - 2.15 * anatomy.mediastinum) * _opening(anatomy, y, 2.6)
    medial = np.clip((np.abs(x - 0.35 * anatomy.turn) - inner) / np.float32(1.8), 0.0, 1.0)
    lung = lung * np.sqrt(medial)
    lung = lung - heart_depth(anatomy, x, y) - great_vessel_depth(anatomy, x, y)
    lung = lung - 2.0 * np.sqrt(np.clip(2 * 5.0 * (y - dome), 0.0, None))
    return np.asarray(np.clip(lung, 0.0, None), dtype=np.float32)


def heart_depth(anatomy: Anatomy, x: FloatArray, y: FloatArray) -> FloatArray:
    """Chord of the heart: the ventricles as a tilted ellipsoid, the right atrium as a smaller one."""
    scale, x0, y0 = anatomy.heart_scale, anatomy.heart_x, anatomy.heart_y
    ventricles = cap(ellipse(x, y, (x0, y0), (7.6 * scale, 5.2 * scale), anatomy.heart_angle))
    atrium = cap(ellipse(x, y, (x0 - 3.0 * scale, y0 - 0.6), (3.1 * scale, 4.6 * scale)))
    return np.asarray(np.maximum(ventricles * 10.5, atrium * 7.5) * np.float32(scale), dtype=np.float32)


def great_vessel_depth(anatomy: Anatomy, x: FloatArray, y: FloatArray) -> FloatArray:
    """Chord of the aortic arch, the pulmonary trunk, the hila and the descending aorta."""
    arch = cap(ellipse(x, y, (1.7 + 0.3 * anatomy.turn, -4.0), (anatomy.aorta + 0.9, anatomy.aorta + 1.1))) * 6.0
    trunk = cap(ellipse(x, y, (2.0 + 0.4 * anatomy.turn, 0.6), (2.1, 4.4), -0.15)) * 5.5
    left = cap(ellipse(x, y, (3.9, 0.9), (1.3, 2.0), 0.3)) * 2.2
    right = cap(ellipse(x, y, (-3.8, 2.2), (1.2, 2.4), -0.3)) * 2.2
    return np.asarray(np.maximum.reduce([arch, trunk, left, right]), dtype=np.float32)


def gas_depth(anatomy: Anatomy, x: FloatArray, y: FloatArray) -> FloatArray:
    """Depth of gas outside the lungs: trachea, main bronchi, stomach bubble, bowel."""
    bend = (0.25 * np.sin((y + 8) * 0.25)).astype(np.float32)
    trachea = 1.25 * cap(((x + bend) / 0.85) ** 2) * step(-y, 1.5)
    right = 1.2 * cap((segment_distance(x, y, (-0.2, -0.4), (-3.6, 2.4)) / 0.65) ** 2)
    left = 1.1 * cap((segment_distance(x, y, (0.2, -0.4), (4.4, 2.0)) / 0.55) ** 2)
    return np.asarray(
        np.maximum.reduce([trachea, right, left]) + _stomach(anatomy, x, y) + _bowel(anatomy, x, y), dtype=np.float32
    )


def _stomach(anatomy: Anatomy, x: FloatArray, y: FloatArray) -> FloatArray:
    size = max(anatomy.stomach, 0.0)
    centre = (0.5 * anatomy.half_width, anatomy.dome_left_y + 1.7 + 0.8 * size)
    bubble = cap(ellipse(x, y, centre, (1.2 + 2.2 * size, 0.7 + 1.0 * size), -0.15))
    level = step(np.float32(centre[1] + 0.5 * size) - y, 0.3) * 0.7 + 0.3
    return np.asarray(bubble * level * np.float32(6.0 * size), dtype=np.float32)


def _bowel(anatomy: Anatomy, x: FloatArray, y: FloatArray) -> FloatArray:
    total = np.zeros_like(x)
    rng = stream(anatomy.seed, 31)
    for _ in range(int(6 * max(anatomy.bowel, 0.0))):
        centre = (float(rng.uniform(1.0, 0.9 * anatomy.half_width)), float(anatomy.dome_left_y + rng.uniform(3.0, 8.0)))
        axes = (float(rng.uniform(0.8, 2.2)), float(rng.uniform(0.6, 1.4)))
        total = np.maximum(
            total, cap(ellipse(x, y, centre, axes, float(rng.uniform(-1, 1)))) * np.float32(2.5 * axes[1])
        )
    return total


def breast_depth(anatomy: Anatomy, x: FloatArray, y: FloatArray) -> FloatArray:
    """Extra soft tissue of the breasts: half balls whose lower rim casts the familiar curve."""
    if anatomy.breast <= 0:
        return np.zeros_like(x)
    total = np.zeros_like(x)
    radius = 4.9 + 1.3 * anatomy.breast
    for side in (-1, 1):
        centre = (side * (0.66 * anatomy.half_width + 0.4) + 0.4 * anatomy.turn, anatomy.breast_y - 2.5)
        r2 = ellipse(x, y, centre, (0.9 * radius, radius), -0.25 * side)
        lower = step(y - np.float32(centre[1] - 0.6 * radius), 1.6 * radius)
        total += np.float32(0.9 + 1.6 * anatomy.breast) * cap(r2) ** np.float32(0.7) * lower
    return total


def parenchyma(anatomy: Anatomy, y: FloatArray, size: int) -> FloatArray:
    """Tissue fraction of the lung: denser towards the base, with the mottle of small vessels and airways."""
    mottle = fractal_noise(stream(anatomy.seed, 32), size, (5, 20, 48, 96, 180), 0.25)
    gradient = 1.0 + 0.010 * y
    return np.asarray(anatomy.lung_density * gradient * (1.0 + 0.035 * anatomy.texture * mottle), dtype=np.float32)


def abdomen_texture(anatomy: Anatomy, size: int) -> FloatArray:
    """Uneven fat and muscle over the whole trunk, in cm."""
    return np.float32(0.22) * fractal_noise(stream(anatomy.seed, 33), size, (4, 10, 24, 60), 0.8)


def vessel_depth(anatomy: Anatomy, frame: Frame) -> FloatArray:
    """Diameter of pulmonary vessels: trees that branch and taper from the hila, in cm of blood."""
    scale = 2
    image = Image.new("F", (frame.size * scale,) * 2)
    pen = ImageDraw.Draw(image)
    for side, hilum in ((-1, (-3.2, 1.6)), (1, (3.4, 0.8))):
        for starts, ends, radii in reversed(_tree(anatomy, side, hilum)):
            pixels = np.concatenate([frame.to_pixels(starts), frame.to_pixels(ends)], axis=1) * scale
            widths = np.maximum(1, np.rint(2 * radii * frame.px_per_cm * scale)).astype(int)
            for line, width, radius in zip(pixels.tolist(), widths.tolist(), radii.tolist(), strict=True):
                pen.line(line, fill=0.2 + 6.0 * radius, width=width)
    drawn = np.asarray(image, dtype=np.float32).reshape(frame.size, scale, frame.size, scale).mean(axis=(1, 3))
    return blur(drawn, max(0.45, 0.05 * frame.px_per_cm))


Branches = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def _tree(anatomy: Anatomy, side: int, hilum: tuple[float, float]) -> list[Branches]:
    """Generations of segments (starts, ends, radii), the thickest first."""
    rng = stream(anatomy.seed, 34 + side)
    count = anatomy.vessel_count
    angles = np.linspace(-1.25, 1.35, count) + rng.normal(0, 0.12, count)
    starts = np.array(hilum) + rng.normal(0, 0.5, (count, 2)) * (0.6, 1.6)
    radii = np.full(count, 0.33 * anatomy.vessel_scale) * rng.uniform(0.6, 1.15, count)
    lengths = rng.uniform(1.0, 2.2, count)
    generations: list[Branches] = []
    for depth in range(9):
        ends = starts + lengths[:, None] * np.stack([side * np.cos(angles), np.sin(angles)], axis=1)
        generations.append((starts, ends, radii))
        split = rng.random(len(angles)) < (0.75 if depth < 6 else 0.35)
        parents = np.concatenate([np.arange(len(angles)), np.flatnonzero(split)])
        bend = rng.normal(0, 0.22, len(parents))
        bend[len(angles) :] = rng.choice([-1, 1], split.sum()) * rng.uniform(0.4, 0.9, split.sum())
        starts, angles = ends[parents], angles[parents] + bend
        radii = radii[parents] * np.where(split[parents], 0.74, 0.88)
        lengths = rng.uniform(0.7, 1.9, len(parents))
    return generations


def bone_depth(anatomy: Anatomy, frame: Frame, x: FloatArray, y: FloatArray) -> FloatArray:
    """Cortical bone along the ray, in cm: ribs (front and back), spine, clavicles, scapulae, humeri."""
    posterior, anterior = ribs(anatomy)
    bone = 1.7 * _shell(posterior, frame) + 1.05 * _shell(anterior, frame)
    bone = bone + 2.3 * _shell(girdle(anatomy), frame) + scapula_plate(anatomy, frame)
    bone = bone + spine_depth(anatomy, x, y) + _humeri(anatomy, x, y)
    return np.asarray(bone * np.float32(anatomy.bone_mineral), dtype=np.float32)


def _shell(tubes: list[Tube], frame: Frame) -> FloatArray:
    """Chord through the cortex of hollow rods with a little trabecular bone inside."""
    q, radius = relative_distance(tubes, frame)
    outer, inner = cap(q * q), cap((q / 0.76) ** 2)
    return np.asarray(radius * (outer - 0.62 * inner), dtype=np.float32)


def ribs(anatomy: Anatomy) -> tuple[list[Tube], list[Tube]]:
    """Posterior arcs from the spine to the flank and anterior arcs from the flank to the costal cartilage."""
    posterior, anterior = [], []
    rng = stream(anatomy.seed, 37)
    for side in (-1, 1):
        for number in range(11):
            jitter = rng.normal(0, 0.12, 3)
            root = anatomy.apex_y - 0.9 + anatomy.rib_pitch * number + jitter[0]
            back, front = _rib(anatomy, side, number, root, float(jitter[1]))
            posterior.append(back)
            if 0 < number < 8:
                anterior.append(front)
    return posterior, anterior


def _rib(anatomy: Anatomy, side: int, number: int, root: float, jitter: float) -> tuple[Tube, Tube]:
    t = np.linspace(0.0, np.pi / 2, 70)
    drop = anatomy.rib_drop * (2.6 + 0.5 * number) + jitter
    flank = float(cavity_half_width(anatomy, np.array([root + drop], np.float32))[0]) + 0.15
    arch = 0.75 * np.sin(2 * t)
    back_x, back_y = 2.0 + (flank - 2.0) * np.sin(t), root - arch + drop * (1 - np.cos(t)) ** 0.9
    tip = 3.6 + 0.55 * number
    front_x = tip + (flank - tip) * np.cos(t)
    front_y = back_y[-1] + (2.6 + 0.45 * number) * (0.45 * np.sin(t) + 0.55 * t / (np.pi / 2)) * anatomy.rib_drop
    radii = anatomy.rib_radius * (0.9 + 0.25 * np.sin(t))
    back = Tube(np.stack([side * back_x, back_y], axis=1), radii * (0.8 if number == 0 else 1.0))
    return back, Tube(
        np.stack([side * front_x + 0.5 * anatomy.turn, front_y], axis=1), radii * (1.1 - 0.45 * (t / t[-1]) ** 4)
    )


def girdle(anatomy: Anatomy) -> list[Tube]:
    """Clavicles and the borders and spines of the scapulae."""
    tubes = []
    t = np.linspace(0.0, 1.0, 80)
    for side in (-1, 1):
        lift, reach = anatomy.clavicle_lift, anatomy.half_width + 2.6
        x, y = 1.6 + (reach - 1.6) * t, -9.0 - lift * (0.4 + 0.6 * t) - 1.6 * t - 0.7 * np.sin(2 * np.pi * t)
        tubes.append(Tube(np.stack([side * x + 0.8 * anatomy.turn, y], 1), 0.62 + 0.35 * (2 * t - 1) ** 4))
        corners = _scapula(anatomy, side)
        for start, end, radius in ((1, 2, 0.42), (0, 2, 0.25), (0, 1, 0.3), (0, 3, 0.5)):
            points = corners[start] + (corners[end] - corners[start]) * t[:, None]
            points[:, 0] += side * 0.5 * np.sin(np.pi * t)
            tubes.append(Tube(points, np.full(80, radius)))
    return tubes


def _scapula(anatomy: Anatomy, side: int) -> NDArray[np.float64]:
    x = anatomy.half_width - 4.2 + anatomy.scapula_x
    return np.array([[side * x, -9.0], [side * (x + 5.4), -8.8], [side * (x + 2.2), 4.0], [side * (x + 6.6), -11.6]])


def scapula_plate(anatomy: Anatomy, frame: Frame) -> FloatArray:
    """The blade of each scapula, a plate a few millimetres thick."""
    coarse = frame.resized(160)
    image = Image.new("F", (160, 160))
    pen = ImageDraw.Draw(image)
    for side in (-1, 1):
        pen.polygon([tuple(point) for point in coarse.to_pixels(_scapula(anatomy, side)[:3]).tolist()], fill=0.4)
    return enlarge(blur(np.asarray(image, dtype=np.float32), 0.8), frame.size)


def spine_depth(anatomy: Anatomy, x: FloatArray, y: FloatArray) -> FloatArray:
    """Vertebral bodies with discs between them, pedicles and spinous processes."""
    pitch = np.float32(anatomy.rib_pitch)
    phase = (y - np.float32(anatomy.apex_y)) / pitch
    local = (phase - np.round(phase)) * pitch  # cm from the vertebra's middle
    half = 1.55 + 0.012 * (y + 12) + 0.12 * np.abs(local)
    plate = step(0.92 - np.abs(local), 0.35)
    body = np.sqrt(cap((x / half) ** 2)) * (0.5 + 0.28 * plate)
    rim = np.exp(-(((np.abs(x) - half + 0.12) / 0.16) ** 2)) * plate * 0.2
    pedicles = cap(ellipse(np.abs(x), local, (0.95, -0.3), (0.34, 0.5))) * 0.25
    process = cap(ellipse(x, local, (0.15 - 0.3 * anatomy.turn, 0.35), (0.3, 0.7))) * 0.35
    return np.asarray(body + rim + pedicles + process, dtype=np.float32)


def _humeri(anatomy: Anatomy, x: FloatArray, y: FloatArray) -> FloatArray:
    total = np.zeros_like(x)
    for side in (-1, 1):
        joint = (side * (anatomy.half_width + 3.6), -9.3)
        hand = (joint[0] + side * 30 * np.sin(anatomy.arm_angle), joint[1] + 30 * np.cos(anatomy.arm_angle))
        shaft = segment_distance(x, y, joint, hand) / 1.25
        head = ellipse(x, y, joint, (2.4, 2.5))
        total = np.maximum(
            total, np.maximum(2.1 * (cap(shaft * shaft) - 0.6 * cap((shaft / 0.65) ** 2)), 1.9 * cap(head))
        )
    return total
