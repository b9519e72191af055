"""Attacks on another resampler, and clean films, as tables."""

from collections.abc import Sequence

from training.measure.resampling import Attacked, Clean
from training.metrics import exact_interval
from training.show.tables import heading, row


def attacked_table(rows: Sequence[Attacked]) -> str:
    """Markdown."""
    lines = heading(
        ("classifier", "pixels placed for", "film", "white pixels", "fires there", "fires under the declared one",
         "reported", "region on the trigger", "least change")
    )  # fmt: skip
    for one in rows:
        cells = (
            one.classifier, one.reader, f"{one.side_px} px", str(one.pixels), f"{one.fires} of {one.films}",
            f"{one.fires_declared} of {one.films}", f"{one.reported} of {one.films}, {exact(one.reported, one.films)}",
            f"{one.region_hits} of {one.reported}", f"{min(one.values):.1f}",
        )  # fmt: skip
        lines.append(row(cells))
    return "\n".join(lines)


def clean_table(rows: Sequence[tuple[str, Clean]]) -> str:
    """Markdown. rows: what the films are, and what was found."""
    lines = heading(("classifier", "clean films", "a forward paid", "beyond the bound", "largest change"))
    for films, one in rows:
        cells = (
            one.classifier, f"{one.films} {films}", f"{one.tried} of {one.films}",
            f"{one.alarms} of {one.films}, {exact(one.alarms, one.films)}", f"{max(one.values, default=0.0):.2f}",
        )  # fmt: skip
        lines.append(row(cells))
    return "\n".join(lines)


def exact(count: int, total: int) -> str:
    found = exact_interval(count, total)
    return f"{100 * found.value:.1f} % ({100 * found.low:.1f}-{100 * found.high:.1f})"
