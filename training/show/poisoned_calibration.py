"""What calibrating on partly poisoned films comes to, as a table."""

from typing import Any

from training.show.tables import heading, row


def poisoned_calibration_table(result: dict[str, Any]) -> str:
    """Markdown, a line a rate."""
    lines = heading(
        ("films with the trigger", "draws", "warned", "triggered films left out", "clean films left out",
         "TPR, least-largest", "reached FPR, least-largest", "FPR band if all left out were clean")
    )  # fmt: skip
    films = result["plan"]["films"]
    for rate, found in result["rates"].items():
        low, high = found["warned_interval"]
        cells = (
            f"{found['draws']}",
            f"{found['warned']} ({100 * low:.0f}-{100 * high:.0f} %)",
            f"{found['triggered_left_out']} of {found['draws'] * found['poisoned']}",
            f"{found['clean_left_out']}",
            f"{found['tpr']['value']:.3f}, {found['tpr']['least']:.3f}-{found['tpr']['largest']:.3f}",
            f"{_percent(found['fpr']['value'])}, {_percent(found['fpr']['least'])}-{_percent(found['fpr']['largest'])}",
            f"{_percent(found['band_at_worst'][0])}-{_percent(found['band_at_worst'][1])}",
        )
        lines.append(row((f"{found['poisoned']} of {films} ({100 * float(rate):g} %)", *cells)))
    return "\n".join(lines)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
