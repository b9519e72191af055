"""What preprocessing leaves of a trigger, as a table."""

from collections.abc import Sequence

from training.measure.survival import Left
from training.show.tables import heading, row


def survival_table(rows: Sequence[Left], width: int) -> str:
    """Markdown."""
    lines = heading(
        ("pipeline", f"native side, of {width} px", "pixels left", "largest change", "films with any", "logit rise")
    )
    for left in rows:
        rise = "-" if left.logit_rise is None else f"{left.logit_rise:+.2f}"
        cells = (f"{left.size_px} px", f"{left.pixels:.0f}", f"{left.peak:.2f}", f"{100 * left.share:.0f} %", rise)
        lines.append(row((left.pipeline, *cells)))
    return "\n".join(lines)
