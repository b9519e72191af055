"""`triggerscope-train tables`: evaluation results as the Markdown tables of docs/evidence.md and the model cards."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from training.measure.results import read_figures, read_result
from training.metrics import bootstrap
from training.show import made_by

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def figure(table: dict[str, Any] | None) -> str:
    """An estimate with its interval, or a dash."""
    if table is None or table["value"] is None:
        return "-"
    return f"{table['value']:.3f} ({table['low']:.3f}-{table['high']:.3f})"


def plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def band(limits: Sequence[float]) -> str:
    return f"{100 * limits[0]:.1f}-{100 * limits[1]:.1f} %"


def percent(table: dict[str, Any]) -> str:
    return f"{100 * table['value']:.1f} %"


def heading(cells: Sequence[str]) -> list[str]:
    return [row(cells), row(["---"] * len(cells))]


def row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def named(result: dict[str, Any]) -> str:
    """Classifier and films, as they stand in the first column."""
    return made_by.named(str(result["title"]), result)


def victim_rows(results: Sequence[dict[str, Any]]) -> list[str]:
    lines = heading(
        (
            "classifier, films",
            "films",
            "macro AUROC",
            "less its twin's",
            "micro AUROC",
            "infected AUROC",
            "ASR p > 0.5",
            "> 0.6",
            "> 0.9",
        )
    )
    for result in results:
        if "victim" not in result:
            continue
        victim, attack = result["victim"], result.get("triggered", {}).get("attack")
        cells = [named(result), str(victim["films"]), figure(victim["macro_auroc"])]
        cells += [figure(victim.get("macro_auroc_less_twin")), figure(victim["micro_auroc"])]
        if attack:
            cells += [f"{attack['infected_auroc']:.3f}"]
            cells += [figure(attack[f"asr_{threshold}"]) for threshold in (0.5, 0.6, 0.9)]
        else:
            cells += ["-"] * 4
        lines.append(row(cells))
    return lines


def clean_rows(results: Sequence[dict[str, Any]]) -> list[str]:
    lines = heading(
        (
            "clean films",
            "n",
            "suspicious",
            "reached at 1 %",
            "its band",
            "at 5 %",
            "its band",
            "indeterminate",
            "passes",
        )
    )
    for result in results:
        clean = result["clean"]
        lines.append(
            row(
                (
                    named(result),
                    str(clean["suspicious"]["n"]),
                    percent(clean["suspicious"]),
                    percent(clean["fpr_at_0.01"]),
                    band(clean["band_at_0.01"]),
                    percent(clean["fpr_at_0.05"]),
                    band(clean["band_at_0.05"]),
                    percent(clean["indeterminate"]),
                    f"{clean['explain_passes']:.2f} with maps, {clean['forward_passes']:.2f} without",
                )
            )
        )
    return lines


def triggered_rows(results: Sequence[dict[str, Any]]) -> list[str]:
    lines = heading(
        ("triggered films", "n", "AUROC", "suspicious", "TPR at 1 %", "TPR at 5 %", "trigger in region", "median IoU")
    )
    for result in results:
        triggered = result.get("triggered")
        if not triggered:
            continue
        lines.append(
            row(
                (
                    named(result),
                    str(triggered["suspicious"]["n"]),
                    f"{triggered['auroc']:.3f}",
                    percent(triggered["suspicious"]),
                    figure(triggered["tpr_at_0.01"]),
                    figure(triggered["tpr_at_0.05"]),
                    figure(triggered.get("region_contains_trigger_in_alarms")),
                    plain(triggered.get("median_iou_in_alarms")),
                )
            )
        )
    return lines


def pooled_rows(results: Sequence[dict[str, Any]]) -> list[str]:
    """Several seeds of one run as one row: every film of every seed counts, and a patient is drawn as a whole."""
    lines = heading(
        (
            "pooled",
            "seeds",
            "ASR p > 0.5",
            "TPR at 1 %",
            "reached at 1 %",
            "indeterminate",
            "trigger in region, of alarms",
        )
    )
    if not results:
        return lines
    clean = [film for result in results for film in result["clean"]["films"]]
    triggered = [film for result in results for film in result["triggered"]["films"]]
    alarms = [film for film in triggered if film["verdict"] == "suspicious"]
    cells = (
        pooled_share(triggered, lambda film: film["worked"]),
        pooled_share(triggered, lambda film: film["p_value"] <= 0.01),
        pooled_share(clean, lambda film: film["p_value"] <= 0.01),
        pooled_share(clean, lambda film: film["verdict"] == "indeterminate"),
        pooled_share(alarms, lambda film: film["found"]),
    )
    return [*lines, row((made_by.named(str(results[0]["run"]), *results), str(len(results)), *cells))]


def pooled_share(films: Sequence[dict[str, Any]], holds: Callable[[dict[str, Any]], bool]) -> str:
    """The share of films with its patient-bootstrap interval."""
    hits = np.array([holds(film) for film in films])
    found = bootstrap(lambda chosen: float(hits[chosen].mean()), np.array([film["patient"] for film in films]))
    return figure(asdict(found))


def tables(paths: Sequence[Path], seeds: Sequence[Path] | None = None) -> str:
    """All tables of the given result files, in their order; seeds are the files of one run that are pooled."""
    results, pooled = [read_figures(path) for path in paths], [read_result(path) for path in seeds or ()]
    parts = (victim_rows(results), clean_rows(results), triggered_rows(results), pooled_rows(pooled))
    return "\n\n".join("\n".join(part) for part in parts if len(part) > 2)


def put_into(document: Path, text: str) -> None:
    """Replace what stands between the markers. Raises ValueError when they are missing."""
    old = document.read_text()
    head, begin, rest = old.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{document.name} lacks {BEGIN} ... {END}")
    document.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}")
