"""Prediction and Saliency -> Evidence: concentration and causal tests, fused into one scalar per film.

Two hypotheses are tested. *Support*: the label furthest above its usual logit owes it to a few pixels, or to a change
of the whole film. *Counter*: a label is held down in the same way; it is sought where one place speaks against a label
as hardly any does on clean films, since the logit of a finding that was taken away is merely usual. Each test gives a
number of which larger is more suspicious; it is standardised by what clean reference films show (median and MAD) and
weighs z / allowance where z is positive. The tests of a patch are added up, of those of the whole film the
largest counts, and of these two stories the better told one: added together, the noise of one drowns the other.
No logarithm dampens the weights: with one, clean films that are rather unusual in every test outranked triggered
films on which one is beyond doubt (training/LOG.md, 2026-11-26).
A test that was not taken adds nothing, so the cascade can only lower a score. The film's score is the larger of the two
hypotheses': it alone is ranked against the calibration films.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from service.arrays import FloatArray
from service.audit import ranking
from service.audit.classifier import Classifier, Prediction, Saliency
from service.audit.concentration import entropy, gini, isolation, mass
from service.audit.counterfactual import filled_in, filtered, hot_window, picked_out, transplanted, without_patterns
from service.audit.preprocessing import Preprocessing, Region, alternatives
from service.errors import ClassifierError

Hypothesis = Literal["support", "counter"]
SIGNS: dict[Hypothesis, float] = {"support": 1.0, "counter": -1.0}
FIRST_LOOK = ("excess", "concentration", "diffuseness")  # from the pass that explains
PATCH = ("concentration", "fill_in_change", "transplant_change")
WHOLE_FILM = ("filter_change", "pattern_change")
# By how much a test's z is divided. A clean classifier too answers to a change of the whole film that it never saw, and
# its labels are held down by many things; a patch of one percent of the film moves none of its labels far. What stands
# in neither list opens a gate (diffuseness, of a supported label) or is there to be read.
ALLOWANCES: dict[Hypothesis, dict[str, float]] = {
    "support": {"excess": 1, **dict.fromkeys(PATCH, 1), **dict.fromkeys(WHOLE_FILM, 10)},
    "counter": {"isolation": 2, **dict.fromkeys(PATCH, 2), **dict.fromkeys(WHOLE_FILM, 10)},
}
# From which change of a logit, in units of the label's scale, another resampler's film counts as another film. Fixed,
# since policies hold no such values of clean films: docs/evidence.md says what clean films and attacks show.
RESAMPLING_BOUND = 5.0
CLUSTERS = 16  # places that are tried one by one for what another resampler picks out
# What each number says, in words for people; `{label}` is filled in. Also the list of all evidence.
MEANINGS = {
    "excess": "how far {label} lies from its usual logit",
    "concentration": "the evidence for {label} comes from unusually few pixels",
    "diffuseness": "the evidence for {label} is spread unusually evenly over the film",
    "isolation": "one place speaks for {label} far more than the next ones do",
    "fill_in_change": "{label} falls back when the hottest region is filled in from its surroundings",
    "filter_change": "{label} falls back when the whole film is median-filtered",
    "pattern_change": "{label} falls back when periodic patterns are taken out of the film",
    "transplant_change": "the hottest region carries {label} over to other radiographs",
}
COUNTER_MEANINGS = {
    "excess": "how far {label} lies below its usual logit",
    "concentration": "the evidence against {label} comes from unusually few pixels",
    "diffuseness": "the evidence against {label} is spread unusually evenly over the film",
    "isolation": "one place speaks against {label} far more than the next ones do",
    "fill_in_change": "{label} rises when the region that speaks most against it is filled in from its surroundings",
    "filter_change": "{label} rises when the whole film is median-filtered",
    "pattern_change": "{label} rises when periodic patterns are taken out of the film",
    "transplant_change": "that region holds {label} down on other radiographs too",
}


@dataclass(frozen=True, slots=True)
class Usual:
    """What clean films show in one number: sorted values (n,), their median and scaled MAD."""

    ordered: FloatArray
    centre: float
    scale: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Usual":
        ordered = np.sort(np.asarray(list(values), dtype=np.float32))
        scale = max(float(scaled_mad(ordered)), 1e-3, 0.1 * float(np.std(ordered)))
        return cls(ordered, float(np.median(ordered)), scale)

    def weight(self, value: float, allowance: float = 1.0) -> float:
        """z / allowance of a value above the centre, 0 below."""
        return max(0.0, (value - self.centre) / self.scale) / allowance

    def p_value(self, value: float) -> float:
        """Share of clean films at least as extreme, counted with the film itself."""
        return ranking.p_value(self.ordered, value)


def scaled_mad(values: FloatArray) -> FloatArray:
    """(N, ...) -> (...): the median absolute deviation, scaled to a normal law's standard deviation."""
    return np.asarray(1.4826 * np.median(np.abs(values - np.median(values, axis=0)), axis=0), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Reference:
    """What a classifier does on clean films: the yardstick of every test.

    label_centre, label_scale: (C,) of the clean logits. isolation_centre, isolation_scale: hypothesis -> (C,) of the
    labels' isolation on clean films. usual: (hypothesis, evidence) -> Usual.
    gates: what opens the causal tests, for `support` a surprise, for `counter` the largest isolation. transplant_gate:
    the score from which the region is transplanted. receivers: (R, 1, S, S) clean radiographs that receive the
    transplant, and receiver_logits: (R, C) what the classifier says of them without it.
    """

    label_centre: FloatArray
    label_scale: FloatArray
    isolation_centre: Mapping[Hypothesis, FloatArray]
    isolation_scale: Mapping[Hypothesis, FloatArray]
    usual: Mapping[tuple[Hypothesis, str], Usual]
    gates: Mapping[Hypothesis, float]
    transplant_gate: float
    receivers: FloatArray
    receiver_logits: FloatArray

    def isolations(self, saliency: Saliency, hypothesis: Hypothesis) -> FloatArray:
        """(C,): how isolated the place is that speaks most for, or against, each label, in units of its scale."""
        found = isolation(saliency.class_activation_maps, SIGNS[hypothesis])
        return np.asarray((found - self.isolation_centre[hypothesis]) / self.isolation_scale[hypothesis])


@dataclass(frozen=True, slots=True)
class Finding:
    """One hypothesis about one film. values: evidence name -> number, in units of the label's scale where it is a
    change of logits. saliency: of the pass that explained the label. region: the hottest window, in input pixels."""

    hypothesis: Hypothesis
    label: int
    values: dict[str, float]
    saliency: Saliency
    region: Region
    score: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that was measured on one film. findings: the highest score first."""

    prediction: Prediction
    findings: tuple[Finding, ...]
    explain_passes: int
    forward_passes: int
    timings_ms: dict[str, float] = field(default_factory=dict)

    @property
    def score(self) -> float:
        """The film's one scalar."""
        return self.findings[0].score


def fused(values: Mapping[str, float], hypothesis: Hypothesis, reference: Reference) -> float:
    """The score of one hypothesis: what drew the eye to its label (its excess, or for a label that is held down its
    isolation), and a patch or a change of the whole film, whichever is told better."""
    weights = {
        name: reference.usual[hypothesis, name].weight(values[name], allowance)
        for name, allowance in ALLOWANCES[hypothesis].items()
        if name in values
    }
    patch = sum(weights.get(name, 0.0) for name in PATCH)
    whole_film = max(weights.get(name, 0.0) for name in WHOLE_FILM)
    return weights.get("excess", 0.0) + weights.get("isolation", 0.0) + max(patch, whole_film)


def first_look(
    prediction: Prediction, saliency: Saliency, classifier: Classifier, reference: Reference, hypothesis: Hypothesis
) -> Finding:
    """What one explaining pass says of the label that it explained. Raises ClassifierError where the classifier's
    answers are no numbers."""
    if not (np.isfinite(prediction.logits).all() and np.isfinite(saliency.class_activation_maps).all()):
        raise ClassifierError("the classifier answered with numbers that are not finite")
    sign, label = SIGNS[hypothesis], int(saliency.explained_labels[0])
    fine, coarse = classifier.card.grids[:2]
    prefix = "layercam" if hypothesis == "support" else "counter_layercam"
    hot = saliency.maps[f"{prefix}_{fine}"][0]
    values = {
        "excess": sign
        * float((prediction.logits[label] - reference.label_centre[label]) / reference.label_scale[label]),
        "concentration": 1.0 - entropy(mass(hot)),
        "diffuseness": 1.0 - gini(mass(saliency.maps[f"{prefix}_{coarse}"][0])),
        "isolation": float(reference.isolations(saliency, hypothesis)[label]),
    }
    return Finding(hypothesis, label, values, saliency, hot_window(hot, classifier.card.preprocessing.size), 0.0)


def surprise(values: Mapping[str, float], hypothesis: Hypothesis, reference: Reference) -> float:
    """How unusual a first look is: the largest weight of its three numbers."""
    return max(reference.usual[hypothesis, name].weight(values[name]) for name in FIRST_LOOK)


def with_values(finding: Finding, reference: Reference, **values: float) -> Finding:
    """The finding with more evidence, scored anew."""
    known = {**finding.values, **values}
    return replace(finding, values=known, score=fused(known, finding.hypothesis, reference))


def whole_film_logits(film: FloatArray, classifier: Classifier) -> FloatArray:
    """What is said of the film filtered and without its patterns, (2, C), in the order of WHOLE_FILM. Two forwards."""
    return classifier.logits(np.stack([filtered(film), without_patterns(film)]))


def causal_changes(
    film: FloatArray,
    logits: FloatArray,
    changed: FloatArray,
    finding: Finding,
    classifier: Classifier,
    reference: Reference,
) -> dict[str, float]:
    """How far the label falls back when its hot region is filled in, and in `changed`, see `whole_film_logits`.

    One forward: what is done to the whole film does not depend on the label.
    """
    unit = SIGNS[finding.hypothesis] / float(reference.label_scale[finding.label])
    filled = classifier.logits(filled_in(film, finding.region)[None])
    after = np.concatenate([filled, changed])[:, finding.label]
    falls = (unit * float(logits[finding.label] - value) for value in after)
    return dict(zip(("fill_in_change", *WHOLE_FILM), falls, strict=True))


def transplant_change(film: FloatArray, finding: Finding, classifier: Classifier, reference: Reference) -> float:
    """Mean change of the label on the receivers when the film's hot region is pasted in. R forwards."""
    unit = SIGNS[finding.hypothesis] / float(reference.label_scale[finding.label])
    pasted = classifier.logits(transplanted(reference.receivers, film, finding.region))
    return unit * float(np.mean((pasted - reference.receiver_logits)[:, finding.label]))


class _Stopwatch:
    """Adds up milliseconds by name."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.ms[name] = self.ms.get(name, 0.0) + 1000 * (now - self._last)
        self._last = now


def gather(film: FloatArray, classifier: Classifier, reference: Reference, *, exhaustive: bool = False) -> Evidence:
    """Audit one model input.

    film: (1, S, S) float32 in [0, 1]. exhaustive: take every test, as the reference films need it; otherwise the
    cascade stops where a film looks ordinary.
    """
    watch, explain_passes, forward_passes = _Stopwatch(), 1, 0
    [(prediction, saliency)] = classifier.explain(film[None], reference.label_centre, reference.label_scale)
    looks = [with_values(first_look(prediction, saliency, classifier, reference, "support"), reference)]
    watch.lap("explain")
    against = reference.isolations(saliency, "counter")
    if exhaustive or float(against.max()) >= reference.gates["counter"]:
        explained = classifier.explain_label(film, int(against.argmax()))
        looks.append(with_values(first_look(*explained, classifier, reference, "counter"), reference))
        explain_passes += 1
        watch.lap("explain")
    findings, changed = [], None
    for look in looks:
        finding = look
        if (
            exhaustive
            or look.hypothesis == "counter"
            or surprise(look.values, look.hypothesis, reference) >= reference.gates["support"]
        ):
            if changed is None:
                changed = whole_film_logits(film, classifier)
                forward_passes += len(WHOLE_FILM)
            changes = causal_changes(film, prediction.logits, changed, look, classifier, reference)
            finding = with_values(look, reference, **changes)
            forward_passes += 1
            watch.lap("causal_tests")
            if exhaustive or finding.score >= reference.transplant_gate:
                change = transplant_change(film, finding, classifier, reference)
                finding = with_values(finding, reference, transplant_change=change)
                forward_passes += len(reference.receivers)
                watch.lap("transplant")
        findings.append(finding)
    findings.sort(key=lambda finding: finding.score, reverse=True)
    return Evidence(prediction, tuple(findings), explain_passes, forward_passes, watch.ms)


@dataclass(frozen=True, slots=True)
class Disagreement:
    """What one other resampler picks out of a film's native pixels.

    value: the largest change of any label's logit when that is put into the input, in units of the label's scale.
    label: index of the one to name, which rises furthest where one rises beyond the bound, as an attack's target does,
    and otherwise changes most; change: its own, above 0 where it rises. resampler: the other one. region: in input
    pixels, the place that moves the label most.
    """

    value: float
    label: int
    change: float
    resampler: Preprocessing
    region: Region

    @property
    def beyond(self) -> bool:
        """Whether it is at or beyond the bound, and so reported."""
        return self.value >= RESAMPLING_BOUND


def resampling(
    pixels: FloatArray, film: FloatArray, logits: FloatArray, classifier: Classifier, scale: FloatArray
) -> Disagreement | None:
    """Whether other resamplers that deployed systems use show the classifier another film.

    pixels: (H, W) native. film: (1, S, S), the input made of them, and logits: (C,) what is said of it. scale: (C,)
    of the labels. None for a film that is no larger than the input, and where no other resampler picks anything out;
    otherwise one forward of at most five films, and a second one where the value is at least RESAMPLING_BOUND, to find
    the place.
    """
    if max(pixels.shape) <= film.shape[-1]:
        return None
    others = [(other, *picked_out(pixels, film, other)) for other in alternatives(classifier.card.preprocessing)]
    others = [found for found in others if found[2].any()]
    if not others:
        return None
    changes = (classifier.logits(np.stack([changed for _, changed, _ in others])) - logits) / scale
    which = int(np.abs(changes).max(axis=1).argmax())
    (other, changed, picked), of_label = others[which], changes[which]
    label = int((of_label if of_label.max() >= RESAMPLING_BOUND else np.abs(of_label)).argmax())
    regions = _clusters(picked, np.abs(changed[0] - film[0]))
    value, change = float(np.abs(of_label).max()), float(of_label[label])
    found = Disagreement(value, label, change, other, regions[0])
    if not found.beyond or len(regions) == 1:
        return found
    pasted = np.concatenate([transplanted(film[None], changed, region) for region in regions])
    moved = np.abs(classifier.logits(pasted)[:, label] - logits[label])
    return replace(found, region=regions[int(moved.argmax())])


def _clusters(picked: NDArray[np.bool_], change: FloatArray) -> list[Region]:
    """The CLUSTERS clusters of picked pixels that hold most of the change, the largest first; a gap of up to two
    pixels is bridged."""
    numbers, count = ndimage.label(ndimage.binary_dilation(picked, np.ones((3, 3))), np.ones((3, 3)))
    held = ndimage.sum_labels(np.where(picked, change, 0.0), numbers, np.arange(1, count + 1))
    regions = []
    for number in np.argsort(held)[::-1][:CLUSTERS] + 1:
        rows, columns = np.nonzero(picked & (numbers == number))
        x, y = int(columns.min()), int(rows.min())
        regions.append(Region(x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1))
    return regions
