"""Small line charts as inline SVG that take the page's own colours, so that they read on light and on dark."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 300, 46, 10, 10, 40
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 4", "1 4")  # colours are not the only difference


@dataclass(frozen=True, slots=True)
class Axis:
    """ticks: shown values; the first and last are the ends. log: decades instead of equal steps."""

    title: str
    ticks: tuple[float, ...]
    log: bool = False

    def share(self, value: float) -> float:
        """Where a value lies between the ends, in [0, 1]; beyond them it stays at the end."""
        low, high = self.ticks[0], self.ticks[-1]
        clipped = min(max(value, low), high)
        if self.log:
            return float(np.log(clipped / low) / np.log(high / low))
        return (clipped - low) / (high - low)


def line_chart(
    words: str, series: Mapping[str, Sequence[tuple[float, float]]], x: Axis, y: Axis, *, diagonal: bool = False
) -> str:
    """An SVG with a legend. words: what it shows, for those who cannot see it. diagonal: draw y = x."""
    legend = 18 * len(series)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT + legend}" role="img" aria-label="{escape(words)}" class="chart">',
        f"<title>{escape(words)}</title>",
    ]
    for tick in x.ticks:
        at = _x(x, tick)
        parts.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{at}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{_number(tick)}</text>')
    for tick in y.ticks:
        at = _y(y, tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4}" text-anchor="end">{_number(tick)}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x.title)}</text>')
    parts.append(
        f'<text transform="translate(12 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(y.title)}</text>"
    )
    if diagonal:
        values = np.geomspace(x.ticks[0], x.ticks[-1], 60) if x.log else np.array([x.ticks[0], x.ticks[-1]])
        parts.append(f'<polyline class="diagonal" points="{_points([(v, v) for v in values.tolist()], x, y)}"/>')
    for number, (name, points) in enumerate(series.items()):
        style = f'class="line s{number % 6}" stroke-dasharray="{DASHES[number % 6]}"'
        parts.append(f'<polyline {style} points="{_points(points, x, y)}"/>')
        at = HEIGHT + 18 * number + 6
        parts.append(f'<line {style} x1="{LEFT}" x2="{LEFT + 34}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text x="{LEFT + 42}" y="{at + 4}">{escape(name)}</text>')
    return "".join([*parts, "</svg>"])


def _x(axis: Axis, value: float) -> float:
    return round(LEFT + axis.share(value) * (WIDTH - LEFT - RIGHT), 1)


def _y(axis: Axis, value: float) -> float:
    return round(HEIGHT - BOTTOM - axis.share(value) * (HEIGHT - TOP - BOTTOM), 1)


def _points(points: Sequence[tuple[float, float]], x: Axis, y: Axis) -> str:
    return " ".join(f"{_x(x, a)},{_y(y, b)}" for a, b in points)


def _number(value: float) -> str:
    return f"{value:g}"
