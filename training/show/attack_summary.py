"""summary.md of an attack list: a row for each run, a row for each kind of attack, and where a baseline is ahead."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from training.attack.config import Run
from training.measure.compare import SHIPPED
from training.measure.results import read_figures
from training.show import made_by
from training.show.tables import figure, heading, plain, row

COMPARISON = ".comparison.json"
LEARNED = 0.97  # ASR at p > 0.5 from which a run counts in the kinds of attack
COLUMNS = (
    "run", "macro AUROC", "minus twin", "infected AUROC", "ASR > 0.5", "> 0.9", "without trigger", "TPR at 1 %",
    "TPR / ASR", "where it worked", "suspicious", "FPR", "twin's TPR", "twin suspicious", "pointing game",
    "trigger in region", "median IoU", "forwards a clean film",
)  # fmt: skip
NOTES = (
    "TPR, FPR: share of all triggered and of clean films at or above the policy's 1 % threshold; intervals are 95 %"
    " patient bootstraps. Without trigger: share of the same films that cross p = 0.5 without it; if that is high, the"
    " attack was not learned and its ASR says nothing. Suspicious: the verdict, for which films unlike the calibration"
    " films need five times the threshold. Twin's: the same on the clean twin with the trigger present, by its own"
    " policy. Trigger in region: of the alarms. Pointing game and median IoU: where the attack worked, from the"
    " comparison; without one, the median IoU of the alarms."
)
KIND_COLUMNS = (
    "kind of attack", "runs", "TPR / ASR, median", "worst", "pointing game, worst", "median IoU, least from 5 px",
    "twin suspicious, most", "FPR, mean", "forwards a clean film, mean",
)  # fmt: skip
KINDS = PATCH, PIXEL, WHOLE, ADAPTIVE = "patch of 2-16 px", "one pixel", "whole film", "adaptive"
KIND_NOTES = f"Runs with an ASR of {LEARNED} or more whose target is crossed on at most 0.1 of the films without it."
AHEAD_NOTES = (
    "Detectors, our own parts among them, whose TPR at 1 % is higher than the shipped score's with a paired 95 %"
    " interval wholly above zero, both by the threshold of the calibration films that the detector read. Where those"
    " are a part, the last column is the service's TPR on the same films by the threshold of them all."
)
AHEAD_COLUMNS = ("run", "detector", "ahead of the shipped score by", "forwards a film", "the service by all")
BESIDE = {
    SHIPPED: "the service", "every_test": "all its tests on every film", "maximum_probability": "maximum probability",
    "residual_peak": "median residual of the picture alone", "random_map": "random map",
    "last_layer_entropy": "last-layer map, entropy", "layercam_28_entropy": "LayerCAM-28, entropy",
    "purify_compare": "median purify-and-compare", "scale_up_label": "SCALE-UP, of one label",
    "strip_added": "STRIP, summed entropies",
    "sentinet": "SentiNet, last-layer Grad-CAM",
}  # fmt: skip
BESIDE_NOTES = (
    "TPR at 1 % on the same films, thresholds from the same calibration films. `<`, `>`: the paired 95 % interval of"
    " the difference to the service lies wholly below or above zero. STRIP and SentiNet read a part of the films."
)


def write_summary(runs: Sequence[Run], out: Path) -> Path:
    """Write summary.md of the runs that have a result."""
    found = [Outcome(run, out) for run in runs if (out / f"{run.name}.json").exists()]
    lines = [*heading(COLUMNS), *(row(outcome.cells()) for outcome in found), "", NOTES, ""]
    kinds = [line for kind in KINDS for line in _kind(kind, found)]
    if kinds:
        lines += [*heading(KIND_COLUMNS), *kinds, "", KIND_NOTES, ""]
    compared = [outcome for outcome in found if outcome.compared]
    if compared:
        lines += [BESIDE_NOTES, "", *heading(("run", *BESIDE.values()))]
        lines += [*(row(outcome.beside()) for outcome in compared), ""]
        ahead = [line for outcome in compared for line in outcome.ahead()]
        lines += [AHEAD_NOTES, "", *heading(AHEAD_COLUMNS)]
        lines += ahead or [row(("none", *"-" * (len(AHEAD_COLUMNS) - 1)))]
        lines.append("")
    path = out / "summary.md"
    path.write_text("\n".join(lines))
    return path


def _kind(kind: str, found: Sequence["Outcome"]) -> list[str]:
    """The row of one kind of attack; none without runs."""
    of = [outcome for outcome in found if outcome.kind == kind and outcome.is_learned]
    if not of:
        return []
    pointing = [value for outcome in of if (value := outcome.pointing_game) is not None]
    overlaps = [value for outcome in of if outcome.side_px >= 5 and (value := outcome.median_iou) is not None]
    costs = [value for outcome in of if (value := outcome.forwards) is not None]
    ratios = [outcome.found_of_worked for outcome in of]
    return [
        row([
            kind,
            str(len(of)),
            f"{median(ratios):.3f}",
            f"{min(ratios):.3f} ({min(of, key=lambda outcome: outcome.found_of_worked).run.name})",
            plain(min(pointing, default=None)),
            plain(min(overlaps, default=None)),
            f"{max(outcome.twin['suspicious']['value'] for outcome in of):.3f}",
            f"{mean(outcome.attack['clean']['fpr_at_0.01']['value'] for outcome in of):.3f}",
            plain(mean(costs) if costs else None),
        ])
    ]  # fmt: skip


class Outcome:
    """What one run's files say."""

    def __init__(self, run: Run, out: Path) -> None:
        result = read_figures(out / f"{run.name}.json")
        path = out / f"{run.name}{COMPARISON}"
        compared = read_figures(path) if path.exists() else {}
        self.run = run
        self.name = made_by.named(run.name, result)
        self.name_compared = made_by.named(run.name, compared)
        self.attack: dict[str, Any] = result["attack"]
        self.triggered: dict[str, Any] = self.attack["triggered"]
        self.twin: dict[str, Any] = result["clean_twin"]["triggered"]
        self.compared: dict[str, Any] = compared.get("detectors", {})

    @property
    def side_px(self) -> float:
        """Of a patch, in pixels of the model input; 0 for whole-image triggers."""
        trigger, preprocessing = self.run.trigger, self.run.preprocessing
        if trigger is None or not trigger.localised:
            return 0.0
        if trigger.resolution == "network" or not trigger.film_px:
            return float(trigger.size_px)
        return trigger.size_px * preprocessing.size / (trigger.film_px * preprocessing.crop)

    @property
    def kind(self) -> str:
        if self.run.adaptive or (self.run.trigger and self.run.trigger.patches > 1):
            return ADAPTIVE
        if not self.side_px:
            return WHOLE
        return PIXEL if self.side_px < 2 else PATCH

    @property
    def is_learned(self) -> bool:
        attack = self.triggered["attack"]
        return bool(attack["asr_0.5"]["value"] >= LEARNED and attack["asr_0.5_without_trigger"] <= 0.1)

    @property
    def found_of_worked(self) -> float:
        """TPR / ASR."""
        found, worked = self.triggered["tpr_at_0.01"]["value"], self.triggered["attack"]["asr_0.5"]["value"]
        return float(found / worked) if worked else float("nan")

    @property
    def located(self) -> dict[str, Any]:
        return dict(self.compared.get(SHIPPED, {}).get("localisation", {}))

    @property
    def pointing_game(self) -> float | None:
        value: float | None = self.located.get("pointing_game", {}).get("value")
        return value

    @property
    def median_iou(self) -> float | None:
        value: float | None = self.located.get("median_iou", self.triggered.get("median_iou_in_alarms"))
        return value

    @property
    def forwards(self) -> float | None:
        value: float | None = self.compared.get(SHIPPED, {}).get("forward_equivalents")
        return value

    def cells(self) -> list[str]:
        victim, attack = self.attack["victim"], self.triggered["attack"]
        return [
            self.name,
            figure(victim["macro_auroc"]),
            figure(victim["macro_auroc_less_twin"]),
            f"{attack['infected_auroc']:.3f}",
            figure(attack["asr_0.5"]),
            figure(attack["asr_0.9"]),
            plain(attack["asr_0.5_without_trigger"]),
            figure(self.triggered["tpr_at_0.01"]),
            plain(self.found_of_worked),
            figure(self.triggered["tpr_at_0.01_where_it_worked"]),
            f"{self.triggered['suspicious']['value']:.3f}",
            figure(self.attack["clean"]["fpr_at_0.01"]),
            figure(self.twin["tpr_at_0.01"]),
            f"{self.twin['suspicious']['value']:.3f}",
            figure(self.located.get("pointing_game")),
            figure(self.triggered.get("region_contains_trigger_in_alarms")),
            plain(self.median_iou),
            plain(self.forwards),
        ]

    def beside(self) -> list[str]:
        """The row's TPR at 1 % of each detector of BESIDE."""
        return [self.name_compared, *(_beside(self.compared.get(name)) for name in BESIDE)]

    def ahead(self) -> list[str]:
        """Rows of the detectors that are surely better here."""
        return [
            row([
                self.name_compared,
                name,
                figure(lead),
                plain(table["forward_equivalents"]),
                figure(table.get("shipped_by_all_calibration_films_at_0.01")),
            ])
            for name, table in self.compared.items()
            if (lead := table.get("ahead_of_shipped_at_0.01")) is not None and lead["low"] > 0
        ]  # fmt: skip


def _beside(table: dict[str, Any] | None) -> str:
    if table is None:
        return "-"
    lead = table.get("ahead_of_shipped_at_0.01", {"low": 0.0, "high": 0.0})
    sign = " <" if lead["high"] < 0 else " >" if lead["low"] > 0 else ""
    return f"{table['tpr_at_0.01']['value']:.3f}{sign}"
