"""May the result of the deployed classifier about a film go on to readers? Whatever is not known to be well is held."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy.orm import Session

from service.desk import comparison
from service.records import queries, review_queries
from service.records.tables import JobRow

Reason = Literal[
    "unremarkable", "dismissed", "suspicious", "indeterminate", "mismatch", "watch_hit", "confirmed",
    "audit_failed", "not_finished", "unknown_film",
]  # fmt: skip
RELEASING: tuple[Reason, ...] = ("unremarkable", "dismissed")
STANDING: tuple[Reason, ...] = ("suspicious", "mismatch", "watch_hit", "confirmed")  # until a reader dismisses it
OPEN: tuple[Reason, ...] = ("not_finished", "unknown_film")  # time may change these


@dataclass(frozen=True, slots=True)
class Release:
    """The answer about one film, and the audit that it rests on."""

    reason: Reason
    audit_id: str | None

    @property
    def may_pass(self) -> bool:
        return self.reason in RELEASING

    @property
    def is_final(self) -> bool:
        """Whether waiting would not change it; a reader's decision still may."""
        return self.reason not in OPEN


def decide(session: Session, films: Sequence[str], classifier: str | None) -> Release:
    """By the latest audit of each classifier (or of the one named) of these films; one that holds decides.

    What was flagged stands until a reader dismisses it: another audit under another policy does not take it back.
    """
    jobs = queries.jobs_of_films(session, films, classifier)
    latest = {(job.film_sha256, job.classifier_name): job.id for job in jobs}.values()
    answers = [Release(_reason(session, job), job.id) for job in jobs]
    answers = [answer for answer in answers if answer.audit_id in latest or answer.reason in STANDING]
    if not answers:
        return Release("unknown_film", None)
    return min(answers, key=lambda answer: (answer.may_pass, not answer.is_final))


def _reason(session: Session, job: JobRow) -> Reason:
    if job.state == "failed":
        return "audit_failed"
    review = review_queries.review(session, job.id)
    if job.audit is None or review is None:
        return "not_finished"
    if review.state == "dismissed":
        return "dismissed"
    if review.state == "confirmed":
        return "confirmed"
    if any(comparison.is_mismatch(row) for row in job.comparisons):
        return "mismatch"
    if job.audit.watch_hit:
        return "watch_hit"
    verdicts: dict[str, Reason] = {"unremarkable": "unremarkable", "suspicious": "suspicious"}
    return verdicts.get(job.audit.verdict, "indeterminate")
