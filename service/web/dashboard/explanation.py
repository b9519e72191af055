"""An audit in words, plots and before-and-after numbers, from its record and its policy alone."""

import math
from dataclasses import dataclass

import numpy as np

from service.audit import ranking
from service.audit.calibration import Policy
from service.audit.classifier import sigmoid
from service.audit.evidence import MEANINGS, SIGNS, Hypothesis
from service.desk.explainer import DECISIVE_MAPS, ChangeName, hypothesis_of
from service.records.tables import AuditRow, FilmRow
from service.web.dashboard.plots import Plot, histogram

REMARKABLE = 0.05
USUAL_SHARES = (0.5, 0.95, 0.99)
TITLES = {
    "excess": "Confidence",
    "concentration": "Concentration",
    "diffuseness": "Diffuseness",
    "isolation": "Isolation",
    "fill_in_change": "Filling in the region",
    "filter_change": "Filtering the film",
    "pattern_change": "Taking patterns out",
    "transplant_change": "Transplanting the region",
    "likeness": "Likeness",
    "resampling": "Resampling",
}
SENTENCES = {
    "excess": "{label} lies {value:.1f} of its spread {direction} its usual value{role}.",
    "concentration": "How far the evidence {side} {label} comes from few pixels: 0 is the whole film, 1 a single cell.",
    "diffuseness": "How evenly the evidence {side} {label} is spread: whole-image triggers spread it unusually.",
    "isolation": "One place speaks {side} {label} more than the next ones do: {value:.1f} spreads above what is usual.",
    "fill_in_change": "Filled in from around it, the hottest region moves {label} back by {value:.1f} of its spread.",
    "filter_change": "Median-filtering the whole film moves {label} back by {value:.1f} of its spread.",
    "pattern_change": "Without its periodic patterns the film moves {label} back by {value:.1f} of its spread.",
    "transplant_change": "Pasted into clean films, the region moves {label} by {value:.1f} of its spread on average.",
    "likeness": "How far the picture as such lies from the clean films. Right of the dashed line it cannot be judged.",
    "resampling": "Pixels of the film that the classifier's own resampler averages away, and another one reads, move a"
    " label by {value:.1f} {unit}.",
}
CHANGES: dict[str, tuple[ChangeName, str]] = {
    "fill_in_change": ("fill_in", "Region filled in"),
    "filter_change": ("filter", "Whole film filtered"),
    "pattern_change": ("pattern", "Periodic patterns taken out"),
}
MAP_WORDS = {
    "layercam": "Evidence for it",
    "counter_layercam": "Evidence against it",
    "gradcam": "Grad-CAM",
    "class_activation_map": "Last layer (class activation map)",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One piece of evidence, beside what clean films show."""

    title: str
    sentence: str
    value: float
    p_value: float | None
    plot: Plot | None
    is_remarkable: bool


@dataclass(frozen=True, slots=True)
class Usual:
    """One piece of evidence on clean films: what half of them, 1 in 20 and 1 in 100 reach."""

    title: str
    quantiles: tuple[float, ...]
    plot: Plot


@dataclass(frozen=True, slots=True)
class Change:
    """What the classifier says of the explained label, of the film as it came or with a causal test's change."""

    name: ChangeName
    words: str
    logit: float

    @property
    def probability(self) -> float:
        return float(sigmoid(self.logit))


@dataclass(frozen=True, slots=True)
class MapChoice:
    name: str
    words: str


@dataclass(frozen=True, slots=True)
class Explanation:
    headline: str
    certainty: str
    hypothesis: Hypothesis
    lines: tuple[Line, ...]
    changes: tuple[Change, ...]
    score_plot: Plot | None


def explain(row: AuditRow, film: FilmRow, policy: Policy | None) -> Explanation:
    hypothesis = hypothesis_of(row, policy)
    lines = tuple(_line(row, name, hypothesis, policy) for name in TITLES if name in row.evidence)
    return Explanation(
        headline=headline(row, film, policy, hypothesis),
        certainty=certainty(row, policy),
        hypothesis=hypothesis,
        lines=lines,
        changes=_changes(row, hypothesis, policy) if policy else (),
        score_plot=score_plot(policy, row.score) if policy else None,
    )


def headline(row: AuditRow, film: FilmRow, policy: Policy | None, hypothesis: Hypothesis = "support") -> str:
    """What was found, in one sentence for somebody who knows nothing of the method."""
    if row.verdict == "unremarkable":
        return "The classifier reads this film the way it reads clean films."
    if policy is None:
        return "Nothing can be said: the classifier has no policy, so there are no clean films to compare with."
    if row.verdict == "indeterminate":
        return "This film is unlike those that the policy was calibrated on, so its score cannot be ranked."
    if _by_resampling_alone(row, policy):
        return "Another way to resize this film shows the classifier another film: its pixels were made for that."
    label = _plain(row.explained_label)
    said = f"{label} rests on" if hypothesis == "support" else f"{label} is held down by"
    if row.region is None:
        return f"{said} something unusual that no small region explains."
    share = 100 * row.region["width"] * row.region["height"] / (film.width * film.height)
    words = f"{share:.1f} %" if share >= 0.1 else "less than 0.1 %"
    return f"{said} {words} of the film, at the {place(row.region, film)}."


def _by_resampling_alone(row: AuditRow, policy: Policy) -> bool:
    by_score = row.p_value is not None and row.p_value <= policy.false_positive_rate
    return "resampling" in row.evidence and not by_score


def certainty(row: AuditRow, policy: Policy | None) -> str:
    """How sure that is, as a count of clean films."""
    if policy is None or row.p_value is None:
        return "No rank among clean films can be given."
    films = len(policy.scores)
    as_high = round(row.p_value * (films + 1)) - 1
    said = f"{as_high} of" if as_high else "None of"
    return f"{said} the {films} clean films of its calibration scored as high (p = {row.p_value:.4f})."


def place(region: dict[str, int], film: FilmRow) -> str:
    """Where a region lies, as a person looking at the picture would say."""
    x = (region["x"] + region["width"] / 2) / film.width
    y = (region["y"] + region["height"] / 2) / film.height
    row = "top" if y < 1 / 3 else "bottom" if y > 2 / 3 else ""
    column = "left" if x < 1 / 3 else "right" if x > 2 / 3 else ""
    return " ".join(word for word in (row, column) if word) + (" of the picture" if row or column else "middle")


def score_plot(policy: Policy, score: float | None = None) -> Plot:
    threshold = ranking.threshold(policy.scores, policy.false_positive_rate)
    return histogram(policy.scores, score, threshold, "calibration films", logarithmic=True)


def usual_evidence(policy: Policy) -> tuple[Usual, ...]:
    """Of the hypothesis that a film speaks for its label; the last is of the calibration films."""
    usual = policy.reference.usual
    found = {name: usual["support", name].ordered for name in MEANINGS if ("support", name) in usual}
    found["likeness"] = policy.distances
    return tuple(
        Usual(TITLES[name], tuple(float(q) for q in np.quantile(found[name], USUAL_SHARES)), histogram(found[name]))
        for name in TITLES
        if name in found
    )


def map_choices(names: list[str], hypothesis: Hypothesis = "support") -> list[MapChoice]:
    """The layers' maps, the one that the detector read first."""
    decisive = DECISIVE_MAPS[hypothesis]

    def order(name: str) -> tuple[bool, str, int]:
        kind, _, grid = name.rpartition("_")
        return kind != decisive, kind, -int(grid) if grid.isdecimal() else 0

    return [MapChoice(name, map_words(name)) for name in sorted(names, key=order)]


def map_words(name: str) -> str:
    kind, _, grid = name.rpartition("_")
    if not grid.isdecimal():
        return MAP_WORDS.get(name, name)
    return f"{MAP_WORDS.get(kind, kind)}, {grid} × {grid} cells"  # noqa: RUF001 -- for people


def _line(row: AuditRow, name: str, hypothesis: Hypothesis, policy: Policy | None) -> Line:
    value, p_value = row.evidence[name]["value"], row.evidence[name]["p_value"]
    supports = hypothesis == "support"
    least = policy.likeness_level if name == "likeness" and policy else REMARKABLE
    return Line(
        title=TITLES[name],
        sentence=SENTENCES[name].format(
            label=_plain(row.explained_label),
            value=abs(value) if name == "excess" else value,
            direction="above" if SIGNS[hypothesis] * value > 0 else "below",
            role=", which counts beside the tests" if supports else "",
            side="for" if supports else "against",
            unit="of its spread" if policy else "logits",
        ),
        value=value,
        p_value=p_value,
        plot=_evidence_plot(name, value, hypothesis, policy) if policy else None,
        is_remarkable=name == "resampling" or (p_value is not None and p_value <= least and name != "excess"),
    )


def _evidence_plot(name: str, value: float, hypothesis: Hypothesis, policy: Policy) -> Plot | None:
    if name == "resampling":
        return None
    if name == "likeness":
        return histogram(policy.distances, value, ranking.threshold(policy.distances, policy.likeness_level))
    return histogram(policy.reference.usual[hypothesis, name].ordered, value)


def _changes(row: AuditRow, hypothesis: Hypothesis, policy: Policy) -> tuple[Change, ...]:
    """What the label's logit became in each causal test: the recorded change, taken back from its unit."""
    unit = SIGNS[hypothesis] * float(policy.reference.label_scale[list(row.probabilities).index(row.explained_label)])
    before = Change("none", "As it came", _logit(row.probabilities[row.explained_label]))
    after = tuple(
        Change(name, words, before.logit - unit * row.evidence[test]["value"])
        for test, (name, words) in CHANGES.items()
        if test in row.evidence
    )
    return (before, *after) if after else ()


def _plain(label: str) -> str:
    return label.replace("_", " ")


def _logit(probability: float) -> float:
    inside = min(max(probability, 1e-7), 1 - 1e-7)
    return math.log(inside / (1 - inside))
