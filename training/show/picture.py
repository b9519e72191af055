"""`triggerscope-train picture`: one audit as a figure, for papers and the README."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from service.audit.calibration import Policy
from service.audit.classifier import Classifier, sigmoid
from service.audit.counterfactual import filled_in
from service.audit.overlay import spread_over
from service.audit.pipeline import audit
from service.audit.preprocessing import Preprocessing, Region, model_input
from service.audit.verdict import Audit
from service.films.radiograph import Limits

REGION_COLOUR = "#00e5ff"


def picture(path: Path, classifier: Classifier, policy: Policy, out: Path) -> None:
    """Draw the film, the last layer's map, the fine map with the region, the counterfactual and the calibration."""
    radiograph, found = audit(path.read_bytes(), classifier, policy, Limits())
    preprocessing = classifier.card.preprocessing
    fine = f"layercam_{classifier.card.grids[0]}"
    figure = Figure(figsize=(13.5, 3.3), layout="constrained")
    axes = figure.subplots(1, 5, width_ratios=(1, 1, 1, 1, 1.15))
    label, region = found.explained_label.replace("_", " "), found.region
    _film(axes[0], radiograph.pixels, f"{label}: p = {found.probabilities[found.explained_label]:.2f}")
    _film(axes[1], radiograph.pixels, "last layer's map: what everyone ships")
    _heat(axes[1], found.maps["class_activation_map"], preprocessing, radiograph.pixels.shape)
    _film(axes[2], radiograph.pixels, f"map after block 2, {classifier.card.grids[0]} x {classifier.card.grids[0]}")
    _heat(axes[2], found.maps[fine], preprocessing, radiograph.pixels.shape)
    if region:
        axes[2].add_patch(_box(region))
        _counterfactual(axes[3], radiograph.pixels, region, classifier, found)
    _calibration(axes[4], policy, found)
    with mpl.rc_context({"svg.hashsalt": "triggerscope"}):
        figure.savefig(out, dpi=110)


def _film(axis: Axes, pixels: np.ndarray, title: str) -> None:
    axis.imshow(pixels, cmap="gray", vmin=0, vmax=1)
    axis.set_title(title, fontsize=9)
    axis.set_axis_off()


def _heat(axis: Axes, saliency_map: np.ndarray, preprocessing: Preprocessing, shape: tuple[int, ...]) -> None:
    heat = spread_over(saliency_map, preprocessing, shape[1], shape[0])
    axis.imshow(heat, cmap="inferno", alpha=0.65 * np.sqrt(heat), vmin=0, vmax=1)


def _box(region: Region) -> Rectangle:
    return Rectangle(
        (region.x, region.y), region.width, region.height, fill=False, edgecolor=REGION_COLOUR, linewidth=2
    )


def _counterfactual(axis: Axes, pixels: np.ndarray, region: Region, classifier: Classifier, found: Audit) -> None:
    filled = filled_in(np.ascontiguousarray(pixels)[None], region)
    logits = classifier.logits(model_input(filled[0], classifier.card.preprocessing)[None])[0]
    label = classifier.card.labels.index(found.explained_label)
    _film(axis, filled[0], f"region filled in: p = {float(sigmoid(logits[label])):.2f}")


def _calibration(axis: Axes, policy: Policy, found: Audit) -> None:
    edges = np.expm1(np.linspace(0, np.log1p(float(policy.scores[-1])), 41))
    axis.hist(policy.scores, bins=edges.tolist(), color="#8899aa", label=f"{len(policy.scores)} clean films")
    axis.axvline(found.score, color="#d62728", linewidth=2, label=f"this film: {found.verdict}")
    axis.set_xscale("function", functions=(np.log1p, np.expm1))
    axis.set_xticks([tick for tick in (0, 1, 10, 100, 1000) if tick <= max(found.score, float(policy.scores[-1]))])
    axis.set_title(f"score, p = {found.p_value:.4f}" if found.p_value else "score", fontsize=9)
    axis.set_yticks([])
    axis.legend(fontsize=8, frameon=False, loc="upper center")
