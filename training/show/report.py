"""`triggerscope-train report`: comparisons as one HTML page that needs no network and no script."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from training.attack.data import DataError
from training.measure.results import read_figures, read_result
from training.show.charts import Axis, line_chart
from training.show.made_by import named
from training.show.tables import figure

Table = dict[str, Any]

# Detectors of the short table, in its order; `*` stands for a grid's side. The long table has them all.
HEADLINE = {
    "shipped": "Triggerscope's score, as shipped",
    "every_test": "the same without the cascade",
    "fill_in_change": "hottest region filled in, alone",
    "filter_change": "whole film filtered, alone",
    "transplant_change": "region transplanted, alone",
    "pattern_change": "periodic patterns taken out, alone",
    "layercam_*_entropy": "LayerCAM {} x {}, entropy",
    "coarse_to_fine": "coarse-to-fine search, no map",
    "occlusion_scan": "occlusion scan, no map",
    "last_layer_gini": "last-layer Grad-CAM, gini",
    "last_layer_entropy": "last-layer Grad-CAM, entropy",
    "sentinet": "SentiNet, last-layer Grad-CAM",
    "strip": "STRIP",
    "strip_added": "STRIP, overlays added as in its code",
    "strip_persistence": "STRIP, persistence of the label",
    "scale_up": "SCALE-UP",
    "scale_up_label": "SCALE-UP, mean excess of the label",
    "purify_compare": "median purify-and-compare",
    "residual_peak": "high-frequency residual, peak (no classifier)",
    "residual_mean": "high-frequency residual, mean (no classifier)",
    "maximum_probability": "maximum probability",
    "random_map": "random map",
}
CHARTED = ("shipped", "fill_in_change", "filter_change", "last_layer_gini", "strip", "maximum_probability")
BASELINES = (
    "last_layer_gini", "last_layer_entropy", "sentinet", "strip", "strip_added", "strip_label", "strip_persistence",
    "scale_up", "scale_up_label", "purify_compare", "residual_peak", "residual_mean", "maximum_probability",
    "random_map", "occlusion_scan",
)  # fmt: skip


def report(results: Sequence[Path], galleries: Sequence[Path] = ()) -> str:
    """The page. results: files of `compare`. galleries: its files of pictures, matched by the classifier's hash.

    Raises DataError for a file of something else.
    """
    comparisons = [read_result(path) for path in results]
    for path, comparison in zip(results, comparisons, strict=True):
        if comparison.get("kind") != "comparison":
            raise DataError(f"{path.name} was not written by `triggerscope-train compare`")
    pictures = {found["classifier_sha256"]: found["entries"] for found in _read(galleries)}
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    sections = [_section(comparison, pictures) for comparison in comparisons]
    pairs = _pairs(comparisons)
    ahead = [f"{words}, by {signed(difference)}" for words, difference in pairs if difference["low"] > 0]
    return environment.get_template("report.html").render(
        sections=sections,
        overview=[_overview(comparison) for comparison in comparisons],
        ahead=ahead,
        pairs=len(pairs),
    )


def _read(paths: Sequence[Path]) -> list[Table]:
    return [read_figures(path) for path in paths]


def names_of(detectors: Mapping[str, Table]) -> dict[str, str]:
    """The headline detectors that were read, with their words."""
    found = {}
    for name, words in HEADLINE.items():
        head, star, tail = name.partition("*")
        for detector in detectors:
            grid = detector.removeprefix(head).removesuffix(tail)
            if star and detector.startswith(head) and detector.endswith(tail) and grid.isdigit():
                found[detector] = words.format(grid, grid)
            elif detector == name:
                found[detector] = words
    return found


def _section(comparison: Table, pictures: Mapping[str, list[Table]]) -> Table:
    detectors = comparison["detectors"]
    names = names_of(detectors)
    rest = {name: name.replace("_", " ") for name in detectors if name not in names}
    located = {name: detectors[name]["localisation"] for name in detectors if "localisation" in detectors[name]}
    return {
        "title": named(comparison["title"], comparison),
        "facts": _facts(comparison),
        "victim": comparison["victim"],
        "attack": comparison.get("attack"),
        "rows": [_row(words, detectors[name]) for name, words in names.items()],
        "more": [_row(words, detectors[name]) for name, words in rest.items()],
        "localisation": [_located(names.get(name, name.replace("_", " ")), found) for name, found in located.items()],
        "charts": [Markup(chart) for chart in _charts(comparison, names)],  # noqa: S704  # escaped where it is made
        "pictures": pictures.get(comparison["classifier"]["sha256"], []),
    }


def _facts(comparison: Table) -> list[str]:
    trigger, poisoning = comparison["trigger"], comparison["poisoning"]
    facts = [f"classifier {comparison['classifier']['name']} (SHA-256 {comparison['classifier']['sha256'][:12]})"]
    if trigger:
        where = (
            f"{trigger['size_px']} px, {trigger['place']}, {trigger['patches']} patch(es), " if _local(trigger) else ""
        )
        facts.append(
            f"trigger of run {comparison['run']['name']}: {trigger['look']}, {where}stamped at {trigger['resolution']}"
            f" resolution; target {poisoning['target']}, rule {poisoning['rule']}"
        )
    sets = (
        f"{name} {found['films']} films of {found['patients']} patients" for name, found in comparison["sets"].items()
    )
    sampling = comparison["sampling"]
    facts.append("; ".join(sets))
    facts.append(
        f"costly detectors read the first {sampling['costly']} films of each set in an order drawn with seed"
        f" {sampling['seed']}; a pass with maps costs {comparison['explain_pass_in_forwards']:.2f} forwards here"
    )
    return facts


def _local(trigger: Table) -> bool:
    return trigger["look"] in ("white", "black", "checker", "low_contrast")


def _row(words: str, table: Table) -> list[str]:
    """Cells of one detector, in the order of the template's heading."""
    band = table.get("band_at_0.01")
    return [
        words,
        figure(table.get("auroc")),
        figure(table.get("tpr_at_0.01")),
        figure(table.get("tpr_at_0.05")),
        figure(table.get("tpr_at_0.01_where_it_worked")),
        signed(table.get("ahead_of_shipped_at_0.01")),
        percent(table.get("fpr_at_0.01")) + (f" ({100 * band[0]:.1f}-{100 * band[1]:.1f})" if band else ""),
        percent(table.get("fpr_at_0.05")),
        percent(table.get("other_site_fpr_at_0.01")),
        "-" if table.get("tie_share_at_0.01") is None else f"{100 * table['tie_share_at_0.01']:.1f} %",
        f"{table['forward_equivalents']:.1f}",
        f"{table['family_cpu_ms']:.0f}",
        f"{table['calibration_films']} / {table.get('triggered_films', '-')}",
    ]


def _located(words: str, found: Table) -> list[str]:
    return [
        words,
        figure(found["pointing_game"]),
        _plain(found["median_iou"]),
        figure(found["iou_at_least_0.3"]),
        f"{found['region_share']:.0f}",
        _plain(found["recovering_rate"]),
        _plain(found["fill_in_restores"]),
        _plain(found["fill_in_logit_drop"]),
    ]


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def percent(table: Table | None) -> str:
    return "-" if table is None or table["value"] is None else f"{100 * table['value']:.1f} %"


def signed(table: Table | None) -> str:
    """A difference with its interval."""
    if table is None or table["value"] is None:
        return "-"
    return f"{table['value']:+.3f} ({table['low']:+.3f} to {table['high']:+.3f})"


def _charts(comparison: Table, names: Mapping[str, str]) -> list[str]:
    detectors = comparison["detectors"]
    shown = [name for name in CHARTED if name in detectors]
    share = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    charts = []
    if comparison["attack"]:
        curves = {names[name]: list(zip(*detectors[name]["roc"], strict=True)) for name in shown}
        charts.append(
            line_chart(
                "True-positive rate against false-positive rate on a logarithmic axis",
                curves,
                Axis("false-positive rate, clean films (left edge: 0.001 or less)", (0.001, 0.01, 0.1, 1.0), log=True),
                Axis("true-positive rate, all triggered films", share),
            )
        )
    reached = {names[name]: [(x, y) for x, y in detectors[name]["calibration_curve"]] for name in shown}
    ticks = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
    charts.append(
        line_chart(
            "Reached against nominal false-positive rate; on the thin line they are equal",
            reached,
            Axis("nominal false-positive rate", ticks, log=True),
            Axis("reached on clean films (bottom: 0.01 or less)", ticks, log=True),
            diagonal=True,
        )
    )
    return charts


def _overview(comparison: Table) -> list[str]:
    detectors, attack = comparison["detectors"], comparison.get("attack")
    shipped = detectors.get("shipped", {})
    rated = {
        name: detectors[name]["tpr_at_0.01"]["value"]
        for name in BASELINES
        if detectors.get(name, {}).get("tpr_at_0.01") and detectors[name]["tpr_at_0.01"]["value"] is not None
    }
    best = max(rated, key=lambda name: rated[name]) if rated else None
    found = shipped.get("localisation")
    return [
        named(comparison["title"], comparison),
        figure(comparison["victim"]["macro_auroc"]),
        figure(attack["asr_0.5"]) if attack else "-",
        figure(shipped.get("tpr_at_0.01")),
        figure(shipped.get("tpr_at_0.01_where_it_worked")),
        percent(shipped.get("fpr_at_0.01")),
        f"{HEADLINE.get(best, best)}: {rated[best]:.3f}" if best else "-",
        figure(found["pointing_game"]) if found else "-",
        _plain(found["median_iou"]) if found else "-",
        f"{shipped['forward_equivalents']:.2f}" if shipped else "-",
    ]


def _pairs(comparisons: Sequence[Table]) -> list[tuple[str, Table]]:
    """Every baseline that has a figure at 1 % beside the shipped score's: where and which, and the difference."""
    return [
        (f"{comparison['title']}: {HEADLINE.get(name, name)}", table["ahead_of_shipped_at_0.01"])
        for comparison in comparisons
        for name, table in comparison["detectors"].items()
        if name in BASELINES and table.get("ahead_of_shipped_at_0.01", {}).get("low") is not None
    ]
