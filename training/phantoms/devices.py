"""The harmless bright things of real films: markers, text, leads, tubes, pacemakers, jewellery, shutters.

They are drawn independently of the findings (they depend on the view only), so that none is a shortcut to a label.
Metal and plastic attenuate: they go into `Ink.metal`, in nepers. What is burnt in after exposure goes into `Ink.burnt`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from service.arrays import FloatArray
from training.phantoms.anatomy import Anatomy
from training.phantoms.geometry import Frame, stream

NEPERS_PER_LEVEL = 1 / 48  # 255 levels are 5.3 nepers: nothing gets through
SUPERSAMPLING = 2


@dataclass(frozen=True, slots=True)
class Device:
    """One kind of thing on a film; seed fixes its look and place."""

    kind: str
    seed: int


class Ink:
    """Drawings over a film: attenuating things in levels, burnt-in things in 0..255, the shutter (255 = open)."""

    def __init__(self, frame: Frame, anatomy: Anatomy) -> None:
        self.frame, self.anatomy = frame, anatomy
        self.side_px = frame.size * SUPERSAMPLING
        self.metal_image, self.burnt_image = Image.new("L", (self.side_px,) * 2), Image.new("L", (self.side_px,) * 2)
        self.shutter_image = Image.new("L", (self.side_px,) * 2, 255)
        self.metal, self.burnt = ImageDraw.Draw(self.metal_image), ImageDraw.Draw(self.burnt_image)
        self.shutter = ImageDraw.Draw(self.shutter_image)

    def path(self, points_cm: NDArray[np.floating]) -> list[tuple[float, float]]:
        """World points in cm -> vertices for drawing."""
        return [(float(u), float(v)) for u, v in self.frame.to_pixels(points_cm) * SUPERSAMPLING]

    def px(self, cm: float) -> float:
        return cm * self.frame.px_per_cm * SUPERSAMPLING

    def rod(self, points_cm: NDArray[np.floating], width_cm: float, level: int) -> None:
        width = max(1, round(self.px(width_cm)))
        self.metal.line(self.path(points_cm), fill=level, width=width, joint="curve")

    def disc(self, centre_cm: tuple[float, float], radius_cm: float, level: int) -> None:
        ((u, v),) = self.path(np.array([centre_cm]))
        r = max(0.8, self.px(radius_cm))
        self.metal.ellipse((u - r, v - r, u + r, v + r), fill=level)

    def layers(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Attenuation in nepers, burnt-in brightness 0..1 and shutter opening 0..1, each (size, size)."""
        metal, burnt, shutter = (
            _reduced(image, self.frame.size) for image in (self.metal_image, self.burnt_image, self.shutter_image)
        )
        return metal * np.float32(NEPERS_PER_LEVEL), burnt / np.float32(255), shutter / np.float32(255)


def _reduced(image: Image.Image, size: int) -> FloatArray:
    return np.asarray(image.resize((size, size), Image.Resampling.BOX), dtype=np.float32)


def draw_devices(rng: np.random.Generator, view: str, seed: int) -> tuple[Device, ...]:
    """Each kind by its own chance for that view."""
    column = 0 if view == "PA" else 1
    return tuple(
        Device(kind, seed * 64 + index)
        for index, (kind, (_, *chances)) in enumerate(KINDS.items())
        if rng.random() < chances[column]
    )


def place(devices: tuple[Device, ...], ink: Ink) -> None:
    """Draw every device."""
    for device in devices:
        KINDS[device.kind][0](ink, stream(device.seed, 5))


def spline(knots: list[tuple[float, float]], count: int = 60) -> NDArray[np.float64]:
    """A smooth curve through a few points (centripetal enough for wires), (count, 2)."""
    points = np.array(knots)
    padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    position = np.linspace(0, len(points) - 1 - 1e-9, count)
    index, t = position.astype(int), (position % 1.0)[:, None]
    a, b, c, d = (padded[index + k] for k in range(4))
    curve = 2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
    return np.asarray(0.5 * curve)


def _font(size_px: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=max(6.0, size_px))


def _stamp(image: Image.Image, tile: Image.Image, corner: tuple[int, int], level: int) -> None:
    image.paste(level, (corner[0], corner[1], corner[0] + tile.width, corner[1] + tile.height), tile)


def _glyph(text: str, size_px: float, angle: float) -> Image.Image:
    """White text on black, turned by `angle` degrees."""
    font = _font(size_px)
    left, top, right, bottom = font.getbbox(text)
    tile = Image.new("L", (int(right - left) + 6, int(bottom - top) + 6))
    ImageDraw.Draw(tile).text((3 - left, 3 - top), text, fill=255, font=font)
    return tile.rotate(angle, expand=True, resample=Image.Resampling.BICUBIC)


def _marker(ink: Ink, rng: np.random.Generator) -> None:
    """A lead letter in an upper corner, bare, boxed or ringed, sometimes with initials or a ball in a tray."""
    left = bool(rng.random() < 0.75)
    size = ink.side_px * float(rng.uniform(0.035, 0.075))
    text = ("L" if left else "R") + str(rng.choice(["", "", "", "\nAH", "\nKD", "\nO", " T"]))
    tile = _glyph(text, size, float(rng.normal(0, 9)))
    style = rng.random()
    if style < 0.15:
        tile = _ringed(tile)
    elif style < 0.25:
        tile = tile.point(lambda value: 255 - value)
    x = rng.uniform(0.80, 0.96) if left else rng.uniform(0.04, 0.20)
    corner = (int(x * ink.side_px - tile.width / 2), int(rng.uniform(0.03, 0.28) * ink.side_px))
    if rng.random() < 0.8:
        _stamp(ink.metal_image, tile, corner, int(rng.integers(140, 255)))
    else:
        _stamp(ink.burnt_image, tile, corner, int(rng.integers(190, 256)))


def _ringed(tile: Image.Image) -> Image.Image:
    side = int(max(tile.size) * 1.35)
    ring = Image.new("L", (side, side))
    ImageDraw.Draw(ring).ellipse((1, 1, side - 2, side - 2), outline=255, width=max(2, side // 14))
    ring.paste(tile, ((side - tile.width) // 2, (side - tile.height) // 2))
    return ring


TEXTS = (
    "PORTABLE",
    "AP",
    "AP PORTABLE",
    "SEMI-UPRIGHT",
    "ERECT",
    "UPRIGHT",
    "SUPINE",
    "PA",
    "14:35",
    "07:10",
    "ICU 4",
    "SITTING",
)


def _text(ink: Ink, rng: np.random.Generator) -> None:
    """Words burnt in near a margin, sometimes with an arrow below."""
    for _ in range(int(rng.integers(1, 3))):
        tile = _glyph(str(rng.choice(TEXTS)), ink.side_px * float(rng.uniform(0.018, 0.034)), 0.0)
        x = rng.uniform(0.01, 0.12) if rng.random() < 0.6 else rng.uniform(0.7, 0.85)
        corner = (int(x * ink.side_px), int(rng.uniform(0.02, 0.95) * ink.side_px))
        _stamp(ink.burnt_image, tile, corner, int(rng.integers(170, 256)))
    if rng.random() < 0.3:
        _arrow(ink, rng)


def _arrow(ink: Ink, rng: np.random.Generator) -> None:
    u, v = float(rng.choice((0.05, 0.94))) * ink.side_px, float(rng.uniform(0.3, 0.7)) * ink.side_px
    s = 0.012 * ink.side_px
    ink.burnt.polygon([(u, v - 2 * s), (u - s, v), (u + s, v)], fill=235)
    ink.burnt.line([(u, v), (u, v + 2 * s)], fill=235, width=max(2, round(0.6 * s)))


def _ecg(ink: Ink, rng: np.random.Generator) -> None:
    """Three to five electrodes with clips and wires that leave over a margin."""
    exit_point = (float(rng.uniform(-20, 20)), float(rng.choice((-19.0, 21.0))))
    for x, y in _electrodes(rng):
        style = rng.random()
        ink.disc((x, y), float(rng.uniform(0.35, 0.7)), int(rng.integers(18, 60)))
        ink.disc((x, y), float(rng.uniform(0.15, 0.32)), int(rng.integers(80, 230)))
        if style < 0.5:
            ink.rod(np.array([[x, y], [x + rng.normal(0, 0.8), y + 1.1]]), 0.28, int(rng.integers(60, 180)))
        middle = ((x + exit_point[0]) / 2 + rng.normal(0, 3), (y + exit_point[1]) / 2 + rng.normal(0, 3))
        ink.rod(spline([(x, y), (float(middle[0]), float(middle[1])), exit_point]), 0.14, int(rng.integers(14, 40)))


def _electrodes(rng: np.random.Generator) -> list[tuple[float, float]]:
    sites = np.array([[-9.5, -8.5], [9.5, -8.5], [-11.0, 9.0], [11.0, 9.0], [-1.5, 3.0]])
    count = int(rng.integers(2, 6))
    chosen = sites[rng.permutation(5)[:count]] + rng.normal(0, 1.2, (count, 2))
    return [(float(x), float(y)) for x, y in chosen]


def _central_line(ink: Ink, rng: np.random.Generator) -> None:
    """A venous catheter from the neck, the subclavian vein or an arm to the superior vena cava."""
    side = int(rng.choice((-1, -1, 1)))
    tip = (-2.2 + float(rng.normal(0, 0.4)), float(rng.uniform(0.5, 5.0)))
    routes = {
        "jugular": [(side * 4.0, -19.0), (side * 3.2, -12.0), (-2.0, -7.5), tip],
        "subclavian": [(side * 11.0, -7.0), (side * 8.0, -10.0), (side * 3.2, -9.5), (-2.0, -6.5), tip],
        "arm": [(side * 19.0, -3.0), (side * 14.0, -9.5), (side * 4.0, -9.6), (-2.0, -6.5), tip],
    }
    route = routes[str(rng.choice(list(routes)))]
    ink.rod(spline(route), float(rng.uniform(0.16, 0.28)), int(rng.integers(14, 36)))


def _endotracheal_tube(ink: Ink, rng: np.random.Generator) -> None:
    tip = float(rng.uniform(-6.0, -2.0))
    for x in (-0.38, 0.38):
        ink.rod(spline([(x + 0.3, -22.0), (x, -12.0), (x + 0.1, tip)]), 0.12, 24)
    ink.rod(spline([(0.75, -22.0), (0.4, -12.0), (0.5, tip)]), 0.14, 60)


def _gastric_tube(ink: Ink, rng: np.random.Generator) -> None:
    end = (float(rng.uniform(2.0, 8.0)), float(rng.uniform(13.0, 18.0)))
    ink.rod(spline([(0.4, -22.0), (0.5, -5.0), (0.9, 8.0), (2.0, 12.0), end]), 0.2, int(rng.integers(20, 48)))


def _chest_tube(ink: Ink, rng: np.random.Generator) -> None:
    side = int(rng.choice((-1, 1)))
    end = (side * float(rng.uniform(4, 7)), float(rng.uniform(-9, -3)))
    route = spline([(side * 18.0, 9.0), (side * 12.0, 5.0), (side * 9.0, -1.0), end])
    ink.rod(route, 0.6, 12)
    ink.rod(route, 0.14, 50)


def _pacemaker(ink: Ink, rng: np.random.Generator) -> None:
    """A can below a clavicle, usually the left one, and one or two leads into the heart."""
    side = 1 if rng.random() < 0.85 else -1
    centre = np.array([side * rng.uniform(9.0, 11.5), rng.uniform(-8.0, -5.0)])
    box = np.array([[-2.2, -1.7], [2.2, -1.7], [2.5, 0.6], [1.0, 1.9], [-1.2, 1.9], [-2.5, 0.5]])
    ink.metal.polygon(ink.path(centre + box * rng.uniform(0.85, 1.1)), fill=int(rng.integers(150, 235)))
    ink.metal.polygon(ink.path(centre + box * (0.4, 0.35) + (0, 0.4)), fill=250)
    for tip in ((5.0, 9.0), (-3.0, 4.5))[: int(rng.integers(1, 3))]:
        entry = (float(centre[0] - side * 2), float(centre[1] - 1.5))
        knots = [entry, (side * 5.5, -9.3), (-1.5, -6.5), (-2.4, 1.5), (-1.0, 7.5) if tip[0] > 0 else (-2.6, 3.5), tip]
        ink.rod(spline(knots, 90), 0.18, 75)
        ink.disc(tip, 0.2, 140)


def _sternal_wires(ink: Ink, rng: np.random.Generator) -> None:
    x = float(rng.normal(0.3, 0.4))
    for y in np.arange(-7.0, 8.0, 2.6) + rng.normal(0, 0.3, 6):
        t = np.linspace(0, 2 * np.pi, 14)
        loop = np.stack([x + 0.75 * np.cos(t), y + 0.35 * np.sin(t) + 0.15 * np.cos(t)], axis=1)
        ink.rod(loop, 0.1, int(rng.integers(70, 140)))


def _clips(ink: Ink, rng: np.random.Generator) -> None:
    """Surgical clips: a few short bright dashes near one place."""
    centre = rng.uniform((-12, -9), (12, 12))
    for _ in range(int(rng.integers(2, 9))):
        start = centre + rng.normal(0, 1.4, 2)
        ink.rod(np.stack([start, start + rng.normal(0, 0.35, 2)]), 0.13, int(rng.integers(120, 240)))


def _snaps(ink: Ink, rng: np.random.Generator) -> None:
    """Gown snaps or buttons: discs in a row or one by one."""
    start, step = rng.uniform((-14, -14), (14, 4)), rng.normal(0, 1, 2) * (1.0, 2.0) + (0, 2.5)
    for index in range(int(rng.integers(1, 5))):
        x, y = start + index * step
        ink.disc((float(x), float(y)), float(rng.uniform(0.35, 0.6)), int(rng.integers(40, 140)))
        ink.disc((float(x), float(y)), 0.14, int(rng.integers(20, 220)))


def _necklace(ink: Ink, rng: np.random.Generator) -> None:
    low = float(rng.uniform(-9, -2))
    chain = spline([(-6.5, -17.0), (-4.0, -12.0), (0.2, low), (4.0, -12.0), (6.5, -17.0)], 45)
    for x, y in chain:
        ink.disc((float(x), float(y)), 0.1, int(rng.integers(80, 200)))
    ink.disc((0.2, low + 0.5), float(rng.uniform(0.3, 0.7)), 220)


def _squares(ink: Ink, rng: np.random.Generator) -> None:
    """Small bright squarish things anywhere: identification pins, clips, calibration chips (2-6 px of 224)."""
    for _ in range(int(rng.integers(1, 4))):
        side = ink.side_px * rng.uniform(2, 6) / 224 * np.array([1.0, rng.uniform(0.6, 1.2)])
        u, v = rng.uniform(0.02, 0.98, 2) * ink.side_px
        angle = float(rng.choice((0.0, rng.uniform(0, 1.5))))
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        corners = (np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * side / 2) @ turn + (u, v)
        pen = ink.metal if rng.random() < 0.7 else ink.burnt
        pen.polygon([(float(a), float(b)) for a, b in corners], fill=int(rng.integers(90, 256)))


def _plate(ink: Ink, rng: np.random.Generator) -> None:
    """An identification plate in a corner: a pale box with or without a rim."""
    width, height = rng.uniform(0.08, 0.2) * ink.side_px, rng.uniform(0.03, 0.07) * ink.side_px
    u = float(rng.choice((0.01, 0.99 - width / ink.side_px))) * ink.side_px
    v = float(rng.choice((0.01, 0.99 - height / ink.side_px))) * ink.side_px
    level = int(rng.integers(90, 240))
    ink.burnt.rectangle(
        (u, v, u + width, v + height), fill=level if rng.random() < 0.5 else None, outline=level, width=2
    )


def _collimator(ink: Ink, rng: np.random.Generator) -> None:
    """The shutter's edges, slightly tilted, on one to four sides."""
    s = ink.side_px
    tilt = float(rng.normal(0, 0.012))
    for side in rng.permutation(4)[: int(rng.integers(1, 5))]:
        depth = float(rng.uniform(0.01, 0.07)) * s
        a, b = depth + tilt * s / 2, depth - tilt * s / 2
        strips = (
            [(0, 0), (s, 0), (s, a), (0, b)],
            [(0, s), (s, s), (s, s - a), (0, s - b)],
            [(0, 0), (0, s), (a, s), (b, 0)],
            [(s, 0), (s, s), (s - a, s), (s - b, 0)],
        )
        ink.shutter.polygon(strips[int(side)], fill=0)


# kind: (drawing, chance on a PA film, chance on an AP film)
KINDS: dict[str, tuple[Callable[[Ink, np.random.Generator], None], float, float]] = {
    "marker": (_marker, 0.88, 0.80),
    "text": (_text, 0.10, 0.50),
    "ecg_leads": (_ecg, 0.06, 0.50),
    "central_line": (_central_line, 0.06, 0.35),
    "endotracheal_tube": (_endotracheal_tube, 0.0, 0.20),
    "gastric_tube": (_gastric_tube, 0.02, 0.20),
    "chest_tube": (_chest_tube, 0.03, 0.08),
    "pacemaker": (_pacemaker, 0.06, 0.08),
    "sternal_wires": (_sternal_wires, 0.07, 0.09),
    "surgical_clips": (_clips, 0.09, 0.09),
    "snaps": (_snaps, 0.06, 0.12),
    "necklace": (_necklace, 0.03, 0.02),
    "small_squares": (_squares, 0.09, 0.09),
    "identification_plate": (_plate, 0.05, 0.05),
    "collimator": (_collimator, 0.40, 0.40),
}
