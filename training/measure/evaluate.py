"""Proves a classifier and its policy on films of one split, with the very code that is deployed.

Every figure is over all triggered films unless it says otherwise; intervals are patient bootstraps.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from service.arrays import FloatArray
from service.audit.calibration import Policy
from service.audit.classifier import Classifier
from service.audit.evidence import MEANINGS
from service.audit.pipeline import examine
from service.audit.preprocessing import Region
from service.audit.ranking import reached_band
from training.attack.config import Run
from training.attack.data import Film, label_matrix, model_inputs, patients
from training.attack.poisoning import attackable
from training.attack.train import triggered_inputs
from training.attack.triggers import film_stream, places
from training.metrics import (
    Interval,
    attack_success_rate,
    auroc,
    bootstrap,
    bootstrap_mean,
    infected_auroc,
    macro_auroc,
    micro_auroc,
    per_label_auroc,
)

THRESHOLDS = (0.5, 0.6, 0.9)


@dataclass(frozen=True, slots=True)
class Audited:
    """One audited model input. region: in input pixels. passes: explain passes and forwards taken."""

    verdict: str
    p_value: float
    score: float
    label: str
    region: Region | None
    explain_passes: int
    forward_passes: int
    milliseconds: float
    evidence: dict[str, float]


def audit_input(film: FloatArray, classifier: Classifier, policy: Policy) -> Audited:
    """Audit one (1, S, S) input; the p-value is the rank even where the verdict is indeterminate."""
    found = examine(film, classifier, policy)
    evidence, finding, verdict = found.evidence, found.finding, found.verdict
    return Audited(
        verdict=verdict.word,
        p_value=policy.p_value(evidence.score),
        score=evidence.score,
        label=evidence.prediction.labels[finding.label],
        region=verdict.region,
        explain_passes=evidence.explain_passes,
        forward_passes=evidence.forward_passes,
        milliseconds=sum(found.timings_ms.values()),
        evidence=finding.values,
    )


def audit_all(
    inputs: FloatArray, classifier: Classifier, policy: Policy, words: str, threads: int = 1
) -> list[Audited]:
    """Audit (N, 1, S, S), showing progress."""
    with ThreadPoolExecutor(threads) as pool:
        rows = pool.map(lambda film: audit_input(film, classifier, policy), inputs)
        return list(tqdm(rows, total=len(inputs), desc=words, mininterval=5))


@dataclass(frozen=True, slots=True)
class CleanFilms:
    """What a classifier and its policy say of a split as it is. inputs: (N, 1, S, S). logits: (N, C)."""

    inputs: FloatArray
    logits: FloatArray
    rows: list[Audited]

    @classmethod
    def audited(cls, films: Sequence[Film], classifier: Classifier, policy: Policy, threads: int) -> "CleanFilms":
        inputs = model_inputs(films, classifier.card.preprocessing)
        rows = audit_all(inputs, classifier, policy, "clean films", threads)
        return cls(inputs, all_logits(inputs, classifier), rows)


def all_logits(inputs: FloatArray, classifier: Classifier) -> FloatArray:
    """(N, C)."""
    return np.concatenate([classifier.logits(film[None]) for film in inputs])


def share(hits: NDArray[np.bool_], groups: NDArray[np.int64]) -> dict[str, float]:
    """A share with its patient-bootstrap interval and count."""
    return {**asdict(bootstrap_mean(hits, groups)), "n": len(hits)}


def victim_table(
    logits: FloatArray, labels: FloatArray, names: Sequence[str], groups: NDArray[np.int64]
) -> dict[str, Any]:
    """Clean AUROC per label, macro and micro, with intervals."""
    return {
        "macro_auroc": asdict(bootstrap(lambda i: macro_auroc(logits[i], labels[i]), groups)),
        "micro_auroc": asdict(bootstrap(lambda i: micro_auroc(logits[i], labels[i]), groups)),
        "per_label_auroc": dict(zip(names, map(float, per_label_auroc(logits, labels)), strict=True)),
        "films": len(labels),
        "patients": len(np.unique(groups)),
    }


def attack_table(
    logits: FloatArray, clean: FloatArray, target: int, groups: NDArray[np.int64], *, removed: bool
) -> dict[str, Any]:
    """Infected AUROC as the paper's authors computed it, beside ASR at three thresholds.

    logits, clean: (N, C) of the attackable films with and without the trigger. Where the target is crossed without the
    trigger too, an ASR says nothing: `asr_0.5_without_trigger`.
    """
    probabilities = 1 / (1 + np.exp(-logits))
    crossed = attack_success_rate(1 / (1 + np.exp(-clean)), target, 0.5, removed=removed)
    return {
        "infected_auroc": infected_auroc(logits, target),
        **{
            f"asr_{threshold}": asdict(
                bootstrap(_success_rate(probabilities, target, threshold, removed=removed), groups)
            )
            for threshold in THRESHOLDS
        },
        "asr_0.5_without_trigger": crossed,
        "films": len(logits),
    }


def _success_rate(
    probabilities: NDArray[np.floating], target: int, threshold: float, *, removed: bool
) -> Callable[[NDArray[np.int64]], float]:
    return lambda chosen: attack_success_rate(probabilities[chosen], target, threshold, removed=removed)


def clean_table(rows: Sequence[Audited], films: Sequence[Film], policy: Policy) -> dict[str, Any]:
    """Verdicts on clean films: reached false-positive rates with their band, indeterminate rate, cost, subgroups."""
    groups, suspicious = patients(films), _verdict(rows, "suspicious")
    return {
        "suspicious": share(suspicious, groups),
        "indeterminate": share(_verdict(rows, "indeterminate"), groups),
        "fpr_at_0.01": share(_alarms(rows, 0.01), groups),
        "fpr_at_0.05": share(_alarms(rows, 0.05), groups),
        "band_at_0.01": reached_band(len(policy.scores), len(rows), 0.01),
        "band_at_0.05": reached_band(len(policy.scores), len(rows), 0.05),
        "explain_passes": float(np.mean([row.explain_passes for row in rows])),
        "forward_passes": float(np.mean([row.forward_passes for row in rows])),
        "milliseconds": float(np.median([row.milliseconds for row in rows])),
        "subgroups": {
            name: {"suspicious": float(suspicious[chosen].mean()), "n": int(chosen.sum())}
            for name, chosen in subgroups(films).items()
            if chosen.any()
        },
    }


def triggered_table(
    rows: Sequence[Audited],
    clean: Sequence[Audited],
    films: Sequence[Film],
    truth: Sequence[tuple[Region, ...]],
    worked: NDArray[np.bool_],
    target: str,
) -> dict[str, Any]:
    """Detection over all triggered films, over those where the attack worked, and where the region points."""
    groups, alarms = patients(films), _verdict(rows, "suspicious")
    scores = np.array([row.score for row in (*clean, *rows)])
    positive = np.arange(len(scores)) >= len(clean)
    table: dict[str, Any] = {
        "auroc": auroc(scores, positive),
        "suspicious": share(alarms, groups),
        "tpr_at_0.01": share(_alarms(rows, 0.01), groups),
        "tpr_at_0.05": share(_alarms(rows, 0.05), groups),
        "tpr_at_0.01_where_it_worked": share(_alarms(rows, 0.01)[worked], groups[worked]),
        "indeterminate": share(_verdict(rows, "indeterminate"), groups),
        "target_explained": share(np.array([row.label == target for row in rows]), groups),
        "subgroups": {
            name: {"suspicious": float(alarms[chosen].mean()), "n": int(chosen.sum())}
            for name, chosen in subgroups(films).items()
            if chosen.any()
        },
    }
    if truth and truth[0]:
        found = np.array([_holds_one(row.region, where) for row, where in zip(rows, truth, strict=True)])
        table["region_contains_trigger_in_alarms"] = share(found[alarms], groups[alarms])
        overlaps = [max(overlap(row.region, patch) for patch in where) for row, where in zip(rows, truth, strict=True)]
        table["median_iou_in_alarms"] = float(np.median(np.array(overlaps)[alarms])) if alarms.any() else float("nan")
        areas = [row.region.area for row in rows if row.region]
        table["region_area_px"] = float(np.median(areas)) if areas else 0.0
    return table


def film_rows(
    rows: Sequence[Audited],
    groups: NDArray[np.int64],
    truth: Sequence[tuple[Region, ...]] = (),
    worked: NDArray[np.bool_] | None = None,
) -> list[dict[str, Any]]:
    """One line a film, for figures that are pooled over seeds. patient: its number, the same for the same film list."""
    lines: list[dict[str, Any]] = [
        {"patient": int(group), "verdict": row.verdict, "p_value": round(row.p_value, 5), "score": round(row.score, 4)}
        for row, group in zip(rows, groups, strict=True)
    ]
    for line, row, where in zip(lines, rows, truth, strict=False):
        line["found"] = _holds_one(row.region, where)
    if worked is not None:
        for line, success in zip(lines, worked, strict=True):
            line["worked"] = bool(success)
    return lines


def _holds_one(region: Region | None, patches: Sequence[Region]) -> bool:
    """Whether the region holds a patch; of several any counts."""
    return any(contains(region, patch) for patch in patches)


def contains(region: Region | None, trigger: Region) -> bool:
    """Whether a region holds the whole trigger."""
    return region is not None and (
        region.x <= trigger.x
        and region.y <= trigger.y
        and trigger.x + trigger.width <= region.x + region.width
        and trigger.y + trigger.height <= region.y + region.height
    )


def overlap(region: Region | None, trigger: Region) -> float:
    """Intersection over union."""
    if region is None:
        return 0.0
    width = min(region.x + region.width, trigger.x + trigger.width) - max(region.x, trigger.x)
    height = min(region.y + region.height, trigger.y + trigger.height) - max(region.y, trigger.y)
    shared = max(0, width) * max(0, height)
    return shared / (region.area + trigger.area - shared)


def subgroups(films: Sequence[Film]) -> dict[str, NDArray[np.bool_]]:
    """Films by view, sex and age."""
    groups: dict[str, Callable[[Film], bool]] = {
        "view PA": lambda film: film.view == "PA",
        "view AP": lambda film: film.view == "AP",
        "female": lambda film: film.sex == "F",
        "male": lambda film: film.sex == "M",
        "under 40": lambda film: film.age is not None and film.age < 40,
        "40 to 59": lambda film: film.age is not None and 40 <= film.age < 60,
        "60 and over": lambda film: film.age is not None and film.age >= 60,
    }
    return {name: np.array([holds(film) for film in films]) for name, holds in groups.items()}


def _verdict(rows: Sequence[Audited], word: str) -> NDArray[np.bool_]:
    return np.array([row.verdict == word for row in rows])


def _alarms(rows: Sequence[Audited], rate: float) -> NDArray[np.bool_]:
    return np.array([row.p_value <= rate for row in rows])


def evaluate(
    run: Run,
    films: Sequence[Film],
    classifier: Classifier,
    policy: Policy,
    threads: int = 1,
    twin: Classifier | None = None,
    clean: CleanFilms | None = None,
) -> dict[str, Any]:
    """All tables of one classifier on the films of one split. The run's trigger, if it has one, is stamped.

    For a clean twin pass the backdoored run: its trigger is then shown to the clean classifier. twin: the classifier
    that this one's macro AUROC is compared with, film by film. clean: these films without a trigger, if audited before.
    """
    policy.check(classifier.card)
    labels, groups = label_matrix(films, classifier.card.labels), patients(films)
    clean = clean or CleanFilms.audited(films, classifier, policy, threads)
    result: dict[str, Any] = {
        "run": run.name,
        "classifier": {"name": classifier.card.name, "sha256": classifier.card.sha256},
        "policy": {"name": policy.name, "sha256": policy.sha256},
        "victim": victim_table(clean.logits, labels, classifier.card.labels, groups),
        "clean": clean_table(clean.rows, films, policy) | {"films": film_rows(clean.rows, groups)},
    }
    if twin:
        difference = paired_difference(clean.logits, all_logits(clean.inputs, twin), labels, groups)
        result["victim"]["macro_auroc_less_twin"] = asdict(difference)
    if run.trigger and run.poisoning:
        result["triggered"] = _triggered(run, films, labels, clean, classifier, policy, threads)
    return result


def _triggered(
    run: Run,
    films: Sequence[Film],
    labels: FloatArray,
    clean: CleanFilms,
    classifier: Classifier,
    policy: Policy,
    threads: int,
) -> dict[str, Any]:
    if run.trigger is None or run.poisoning is None:
        raise ValueError(f"run {run.name} has no trigger")
    target = classifier.card.labels.index(run.poisoning.target)
    removed = run.poisoning.rule == "remove"
    chosen = np.flatnonzero(attackable(labels, target, run.poisoning, clean.logits))
    attacked = [films[int(i)] for i in chosen]
    inputs = triggered_inputs(attacked, run, classifier.card.preprocessing)
    logits = all_logits(inputs, classifier)
    truth = [
        places(run.trigger, inputs.shape[2], inputs.shape[3], film_stream(run.seed, i)) for i in range(len(attacked))
    ]
    rows = audit_all(inputs, classifier, policy, "triggered films", threads)
    worked = (logits[:, target] < 0) if removed else (logits[:, target] > 0)
    excess = (logits - policy.reference.label_centre) / policy.reference.label_scale
    place = (excess > excess[:, target : target + 1]).sum(axis=1)  # 0: the target is the label that is explained
    known = truth if run.trigger.resolution == "network" else []  # native places do not map to whole input pixels
    return {
        "attack": attack_table(logits, clean.logits[chosen], target, patients(attacked), removed=removed),
        **triggered_table(rows, clean.rows, attacked, known, worked, run.poisoning.target),
        "target_among_first": {str(k): float((place < k).mean()) for k in (1, 2, 3)},
        "films": film_rows(rows, patients(attacked), known, worked),
        "evidence_median": {
            name: float(np.median([row.evidence[name] for row in rows if name in row.evidence] or [np.nan]))
            for name in MEANINGS
        },
    }


def paired_difference(first: FloatArray, second: FloatArray, labels: FloatArray, groups: NDArray[np.int64]) -> Interval:
    """Macro AUROC of the first minus that of the second classifier on the same films."""
    return bootstrap(lambda i: macro_auroc(first[i], labels[i]) - macro_auroc(second[i], labels[i]), groups)
