"""The stages of one audit, in order: Radiograph -> model input -> Prediction -> Saliency -> Evidence -> Verdict.

SCORES_VERSION is the number by which a stored figure is known to be today's: two results with the same number were
found by code that gives the same evidence, scores, verdicts and regions of a model input, however its text may have
changed. What other resamplers show of a film's native pixels stands beside them: it changes no score, and makes a film
suspicious by itself.
tests/service/audit/scores.json holds it to that: what some ninety films give under every shipped pair, compared at a
tolerance that another processor or runtime keeps and a changed weight does not. Whoever exceeds the tolerance raises
the number and records the table anew in the same commit: `python -m tests.service.audit.record_scores`. Results of a
lower number stay, and say so where they are shown.
"""

import time
from dataclasses import dataclass, replace

import numpy as np

from service.audit.calibration import Policy
from service.audit.classifier import Classifier, Saliency
from service.audit.evidence import Disagreement, Evidence, Finding, gather, resampling
from service.audit.likeness import fingerprint_of
from service.audit.localisation import searched, tightened
from service.audit.preprocessing import model_input, to_source
from service.audit.verdict import Audit, Measurement, Verdict, judge, ranked, reported, resampled, resampling_reason
from service.films.radiograph import Limits, Radiograph, decode

SCORES_VERSION = 1
NO_POLICY = "there is no policy for this classifier, so nothing can be ranked"
OUTDATED_POLICY = "the policy was made for an earlier version of the score, so nothing can be ranked: calibrate anew"
SEARCHED = "no map points at the place: it was found by filling in one part of the film after another"


@dataclass(frozen=True, slots=True)
class Examination:
    """What was found on one model input. finding: the one that the verdict is put into words with.

    distance: of the film from the reference films.
    """

    evidence: Evidence
    finding: Finding
    verdict: Verdict
    distance: float
    timings_ms: dict[str, float]


def examine(film: np.ndarray, classifier: Classifier, policy: Policy) -> Examination:
    """Audit one model input, (1, S, S) float32 in [0, 1]; where it alarms, the region is tightened."""
    evidence = gather(film, classifier, policy.reference)
    distance = policy.likeness.distance(film)
    finding, verdict = reported(evidence, policy), judge(evidence, distance, policy)
    timings = evidence.timings_ms
    if verdict.word == "suspicious" and verdict.region:
        started = time.perf_counter()
        region = tightened(film, evidence.prediction.logits, finding, classifier)
        verdict = replace(verdict, region=region)
        timings = timings | {"localisation": 1000 * (time.perf_counter() - started)}
    return Examination(evidence, finding, verdict, distance, timings)


def audit(data: bytes, classifier: Classifier, policy: Policy | None, limits: Limits) -> tuple[Radiograph, Audit]:
    """Decode the bytes of one film and audit it. Raises RadiographError, or PolicyError for a foreign policy."""
    started = time.perf_counter()
    radiograph = decode(data, limits)
    decode_ms = 1000 * (time.perf_counter() - started)
    return radiograph, audit_radiograph(radiograph, classifier, policy, decode_ms=decode_ms)


def audit_radiograph(
    radiograph: Radiograph, classifier: Classifier, policy: Policy | None, *, decode_ms: float = 0.0
) -> Audit:
    """Audit one decoded film. Without a policy for today's score nothing can be ranked: indeterminate.

    Where it alarms and no map points at a place, one is searched for.
    Where another resampler shows the classifier another film, it is suspicious whatever its score, and the evidence
    `resampling` says how far; score and p_value are those of the input that the classifier was audited with. The region
    is then the place of those pixels where the score's finding has none. Without a policy the unit is one logit and the
    verdict stays indeterminate.
    Raises PolicyError for a foreign policy.
    """
    started = time.perf_counter()
    film = model_input(radiograph.pixels, classifier.card.preprocessing)
    prepared_ms = 1000 * (time.perf_counter() - started)
    if policy is None or policy.outdated:
        timings = {"decode": decode_ms, "model_input": prepared_ms}
        return _without_policy(radiograph, film, classifier, NO_POLICY if policy is None else OUTDATED_POLICY, timings)
    policy.check(classifier.card)
    found = examine(film, classifier, policy)
    evidence, finding = found.evidence, found.finding
    started = time.perf_counter()
    verdict = _placed(film, found, classifier, policy)
    search_ms = 1000 * (time.perf_counter() - started)
    started = time.perf_counter()
    scale = policy.reference.label_scale
    disagreement = _beyond(resampling(radiograph.pixels, film, evidence.prediction.logits, classifier, scale))
    resampling_ms = 1000 * (time.perf_counter() - started)
    if disagreement:
        verdict = resampled(verdict, disagreement, classifier.card.labels[disagreement.label])
    source = None
    if verdict.region:
        source = to_source(verdict.region, classifier.card.preprocessing, radiograph.width, radiograph.height)
    timings = {
        "decode": decode_ms,
        "model_input": prepared_ms,
        **found.timings_ms,
        "search": search_ms,
        "resampling": resampling_ms,
    }
    return Audit(
        source_sha256=radiograph.sha256,
        pixels_sha256=radiograph.pixels_sha256,
        classifier_name=classifier.card.name,
        classifier_sha256=classifier.card.sha256,
        preprocessing_sha256=classifier.card.preprocessing.sha256,
        policy_name=policy.name,
        policy_sha256=policy.sha256,
        verdict=verdict.word,
        score=evidence.score,
        p_value=verdict.p_value,
        probabilities=_by_label(classifier, evidence.prediction.probabilities),
        explained_label=classifier.card.labels[finding.label],
        hypothesis=finding.hypothesis,
        evidence=ranked(finding, policy)
        | {"likeness": Measurement(found.distance, policy.likeness_p_value(found.distance))}
        | _unranked(disagreement),
        region=source,
        reasons=verdict.reasons,
        timings_ms=timings | {"total": sum(timings.values())},
        fingerprint=fingerprint_of(film),
        maps=_maps(finding.saliency, finding.label),
    )


def _placed(film: np.ndarray, found: Examination, classifier: Classifier, policy: Policy) -> Verdict:
    """The verdict, with a place that was searched for where it alarms and no map points at one."""
    verdict, logits, label = found.verdict, found.evidence.prediction.logits, found.finding.label
    if verdict.word != "suspicious" or verdict.region:
        return verdict
    region = searched(film, logits, found.finding, classifier, float(policy.reference.label_centre[label]))
    return replace(verdict, region=region, reasons=(*verdict.reasons, SEARCHED)) if region else verdict


def _beyond(found: Disagreement | None) -> Disagreement | None:
    return found if found and found.beyond else None


def _unranked(found: Disagreement | None) -> dict[str, Measurement]:
    return {"resampling": Measurement(found.value, None)} if found else {}


def _maps(saliency: Saliency, label: int) -> dict[str, np.ndarray]:
    gradients = {name: grids[0] for name, grids in saliency.maps.items()}
    return gradients | {"class_activation_map": saliency.class_activation_maps[label]}


def _by_label(classifier: Classifier, values: np.ndarray) -> dict[str, float]:
    return {label: float(value) for label, value in zip(classifier.card.labels, values, strict=True)}


def _without_policy(
    radiograph: Radiograph, film: np.ndarray, classifier: Classifier, reason: str, timings: dict[str, float]
) -> Audit:
    count = len(classifier.card.labels)
    started = time.perf_counter()
    centre, scale = np.zeros(count, dtype=np.float32), np.ones(count, dtype=np.float32)
    [(prediction, saliency)] = classifier.explain(film[None], centre, scale)
    timings["explain"] = 1000 * (time.perf_counter() - started)
    label = int(saliency.explained_labels[0])
    disagreement = _beyond(resampling(radiograph.pixels, film, prediction.logits, classifier, scale))
    timings["resampling"] = 1000 * (time.perf_counter() - started) - timings["explain"]
    reasons: tuple[str, ...] = (reason,)
    if disagreement:  # in logits, since no policy says how far a label's spread
        reasons += (resampling_reason(disagreement, classifier.card.labels[disagreement.label], "logits"),)
    return Audit(
        source_sha256=radiograph.sha256,
        pixels_sha256=radiograph.pixels_sha256,
        classifier_name=classifier.card.name,
        classifier_sha256=classifier.card.sha256,
        preprocessing_sha256=classifier.card.preprocessing.sha256,
        policy_name=None,
        policy_sha256=None,
        verdict="indeterminate",
        score=0.0,
        p_value=None,
        probabilities=_by_label(classifier, prediction.probabilities),
        explained_label=classifier.card.labels[label],
        hypothesis="support",
        evidence=_unranked(disagreement),
        region=None,
        reasons=reasons,
        timings_ms=timings | {"total": sum(timings.values())},
        fingerprint=fingerprint_of(film),
        maps=_maps(saliency, label),
    )
