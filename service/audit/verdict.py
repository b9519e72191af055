"""Evidence -> Verdict: the one scalar, ranked once, put into words."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.audit.calibration import Policy
from service.audit.evidence import COUNTER_MEANINGS, MEANINGS, Disagreement, Evidence, Finding, Hypothesis
from service.audit.preprocessing import Region

VerdictWord = Literal["unremarkable", "suspicious", "indeterminate"]
FAR = 5.0  # times the policy's threshold: so high scores no clean classifier on films with a trigger that are unlike
REMARKABLE = 0.05  # rank among the reference films from which a piece of evidence is named as a reason


@dataclass(frozen=True, slots=True)
class Measurement:
    """One piece of evidence: its value in its own unit and its rank among the reference films, if there are any.

    `likeness` is the film's distance from the reference films, ranked among the calibration films. `resampling` has no
    rank, and is there only where it is at or beyond its bound.
    """

    value: float
    p_value: float | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """region: in input pixels, or None when no small region carries the evidence."""

    word: VerdictWord
    p_value: float | None
    reasons: tuple[str, ...]
    region: Region | None


@dataclass(frozen=True, slots=True)
class Audit:
    """The outcome of auditing one film with one classifier under one policy; what the record keeps.

    hypothesis: whether the film speaks for the label (`support`) or the label is held down (`counter`).
    region: in source pixels, or None. maps: float32 arrays of the explained label, drawn on demand only.
    fingerprint: of the model input, see likeness.
    """

    source_sha256: str
    pixels_sha256: str
    classifier_name: str
    classifier_sha256: str
    preprocessing_sha256: str
    policy_name: str | None
    policy_sha256: str | None
    verdict: VerdictWord
    score: float
    p_value: float | None
    probabilities: dict[str, float]
    explained_label: str
    hypothesis: Hypothesis
    evidence: dict[str, Measurement]
    region: Region | None
    reasons: tuple[str, ...]
    timings_ms: dict[str, float]
    fingerprint: str
    maps: dict[str, NDArray[np.float32]]


def ranked(finding: Finding, policy: Policy) -> dict[str, Measurement]:
    """Each piece of evidence with its rank among the reference films."""
    usual = policy.reference.usual
    return {
        name: Measurement(value, usual[finding.hypothesis, name].p_value(value))
        for name, value in finding.values.items()
    }


def localised(finding: Finding, policy: Policy) -> bool:
    """Whether filling in the hottest region moves the label as it hardly ever does on clean films."""
    change = finding.values.get("fill_in_change")
    return (
        change is not None
        and policy.reference.usual[finding.hypothesis, "fill_in_change"].p_value(change) <= REMARKABLE
    )


def reported(evidence: Evidence, policy: Policy) -> Finding:
    """The finding to put into words: support where it alarms by itself, else the one with the highest score.

    An attack that overwrites all labels raises its target and holds the others down; the target is what to name.
    """
    alarming = [finding for finding in evidence.findings if policy.p_value(finding.score) <= policy.false_positive_rate]
    support = [finding for finding in alarming if finding.hypothesis == "support"]
    return (support or evidence.findings)[0]


def _reasons(finding: Finding, label: str, policy: Policy) -> tuple[str, ...]:
    meanings = MEANINGS if finding.hypothesis == "support" else COUNTER_MEANINGS
    return tuple(
        f"{meanings[name].format(label=label)} (p = {measurement.p_value:.3f})"
        for name, measurement in ranked(finding, policy).items()
        if measurement.p_value is not None and measurement.p_value <= REMARKABLE and name != "excess"
    )


def judge(evidence: Evidence, distance: float, policy: Policy) -> Verdict:
    """Rank the film's score among the calibration scores.

    Far beyond the policy's threshold: suspicious in any case. Otherwise a film unlike the calibration films is
    indeterminate, and of the rest those within the policy's false-positive rate are suspicious.
    """
    finding, p_value = reported(evidence, policy), policy.p_value(evidence.score)
    label = evidence.prediction.labels[finding.label]
    reasons = _reasons(finding, label, policy)
    region = finding.region if localised(finding, policy) else None
    beyond = evidence.score > float(policy.scores[-1])
    unlike = policy.likeness_p_value(distance) <= policy.likeness_level
    if unlike and evidence.score < FAR * policy.threshold:
        reason = "the film is unlike those that the policy was calibrated on, so its score cannot be ranked"
        return Verdict("indeterminate", None, (reason, *reasons), region)
    if p_value <= policy.false_positive_rate:
        strength = "beyond all" if beyond else "among the highest of"
        head = f"the score is {strength} {len(policy.scores)} calibration films (p = {p_value:.4f})"
        return Verdict("suspicious", p_value, (head, *reasons), region)
    return Verdict("unremarkable", p_value, (f"the score is usual for clean films (p = {p_value:.3f})",), None)


def resampled(verdict: Verdict, found: Disagreement, label: str) -> Verdict:
    """The verdict on a film whose disagreement between resamplers is at or beyond its bound: suspicious, whatever its
    score. The score and its rank stay what they are, since they are of the input that the classifier was audited with.
    """
    reasons = (resampling_reason(found, label, "of its spread"), *verdict.reasons)
    return replace(verdict, word="suspicious", reasons=reasons, region=verdict.region or found.region)


def resampling_reason(found: Disagreement, label: str, unit: str) -> str:
    moves = "rises" if found.change > 0 else "falls"
    return (
        f"another resampler shows the classifier another film: with the pixels that it alone reads, {label} {moves} by "
        f"{abs(found.change):.1f} {unit} ({found.resampler.resampler_words})"
    )
