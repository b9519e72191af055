"""The deployed classifier's own answer beside ours: where they disagree, the audited file is not what runs."""

import hashlib
import json
from collections.abc import Mapping, Sequence

import structlog

from service.desk import siblings
from service.desk.review import PRIORITIES
from service.errors import TriggerscopeError
from service.records import queries, review_queries
from service.records.chain import canonical, review_hash
from service.records.session import Unit, utc_now
from service.records.tables import AuditRow, ComparisonRow

ACTOR = "comparison"
MOST_COMPARISONS = 20  # of one film
MAX_LABELS, MAX_LABEL_LENGTH, MAX_TEXT_LENGTH = 200, 64, 16 * 1024
log = structlog.get_logger()


class UnusableProbabilities(TriggerscopeError):
    """Not a JSON object of labels and numbers from 0 to 1, or none of its labels is the audited classifier's."""

    code = "unusable_probabilities"


def read_probabilities(text: str) -> dict[str, float]:
    """Raises UnusableProbabilities."""
    try:
        found = json.loads(text) if len(text) <= MAX_TEXT_LENGTH else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not 0 < len(found) <= MAX_LABELS:
        raise UnusableProbabilities("a JSON object of labels and probabilities is needed")
    if not all(len(label) <= MAX_LABEL_LENGTH and _is_probability(value) for label, value in found.items()):
        raise UnusableProbabilities("every probability is a number from 0 to 1")
    return {label: float(value) for label, value in found.items()}


def keep(unit: Unit, job_id: str, deployed: Mapping[str, float], actor: str, tolerance: float) -> None:
    """Keep what was sent, and compare it at once where the audit is done already; the worker does it otherwise.

    Locks the job, so that either this or the worker sees the other's row. Raises UnusableProbabilities.
    """
    job = queries.lock_job(unit.session, job_id)
    classifier = queries.classifier(unit.session, job.classifier_sha256)
    if classifier is None or not set(deployed) & set(classifier.card["labels"]):
        raise UnusableProbabilities("none of the labels is one of the audited classifier's")
    fingerprint = hashlib.sha256(canonical(dict(deployed))).hexdigest()
    known = {row.fingerprint for row in queries.comparisons(unit.session, job_id)}
    if fingerprint not in known and len(known) >= MOST_COMPARISONS:
        raise UnusableProbabilities(f"{MOST_COMPARISONS} different sets of probabilities are kept for this film")
    row = ComparisonRow(
        job_id=job_id,
        fingerprint=fingerprint,
        probabilities=dict(deployed),
        actor=actor,
        received_at=utc_now(),
        label=None,
        deployed=None,
        audited=None,
        tolerance=tolerance,
    )
    audit = queries.audit(unit.session, job_id)
    if queries.insert_unless_present(unit.session, row) and audit is not None:
        settle(unit, audit)


def settle(unit: Unit, audit: AuditRow) -> None:
    """Compare what was kept for this audit; part of the transaction that records it, or of `keep`."""
    for row in queries.comparisons(unit.session, audit.id):
        if row.label is not None:
            continue
        row.label = max(set(row.probabilities) & set(audit.probabilities), key=lambda name: _gap(row, audit, name))
        row.deployed, row.audited = row.probabilities[row.label], audit.probabilities[row.label]
        if is_mismatch(row):
            _report(unit, row)


def is_mismatch(row: ComparisonRow) -> bool:
    """False as long as there is nothing to compare with."""
    if row.deployed is None or row.audited is None:
        return False
    return abs(row.deployed - row.audited) > row.tolerance


def worst(rows: Sequence[ComparisonRow]) -> ComparisonRow | None:
    """The comparison that lies furthest apart."""
    settled = [row for row in rows if row.label is not None]
    return max(settled, key=lambda row: abs((row.deployed or 0.0) - (row.audited or 0.0)), default=None)


def reasons(rows: Sequence[ComparisonRow]) -> list[str]:
    """What the record says about it, before the verdict's own reasons."""
    row = worst(rows)
    if row is None or not is_mismatch(row):
        return []
    answers = f"the deployed classifier gave {row.label} {row.deployed:.3f} where the audited file gives"
    return [f"{answers} {row.audited:.3f}: the audited file is not what runs"]


def _gap(row: ComparisonRow, audit: AuditRow, label: str) -> float:
    return abs(float(row.probabilities[label]) - float(audit.probabilities[label]))


def _report(unit: Unit, row: ComparisonRow) -> None:
    """Onto the desk, as urgent as a suspicious film, whatever the verdict about the audited file is."""
    review = review_queries.review(unit.session, row.job_id)
    if review is None:
        raise LookupError("an audit has its review")
    review.priority = max(review.priority, PRIORITIES["suspicious"])
    if review.state in ("unflagged", "dismissed"):
        review.state = "open"
    siblings.keep_keys(unit.session, row.job_id)
    unit.record(
        "review.mismatch",
        row.job_id,
        ACTOR,
        state=review.state,
        label=row.label,
        deployed=row.deployed,
        audited=row.audited,
        tolerance=row.tolerance,
        review_sha256=review_hash(review),
    )
    log.warning("audit.mismatch", audit=row.job_id, label=row.label)


def _is_probability(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1  # NaN is not
