"""May the result of the deployed classifier about a film go on to readers? Whatever is not known to be well is held."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy.orm import Session

from service.desk import comparison, siblings
from service.records import queries, review_queries
from service.records.tables import JobRow
from service.registry.registry import counts_towards_release

Reason = Literal[
    "unremarkable", "dismissed", "suspicious", "indeterminate", "mismatch", "watch_hit", "confirmed",
    "audit_failed", "flagged_elsewhere", "not_finished", "not_in_force", "unknown_film",
]  # fmt: skip
RELEASING: tuple[Reason, ...] = ("unremarkable", "dismissed")
STANDING: tuple[Reason, ...] = ("suspicious", "mismatch", "watch_hit", "confirmed")  # until a reader dismisses it
OPEN: tuple[Reason, ...] = ("not_finished", "not_in_force", "unknown_film")  # time may change these


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

    Only audits by what is in force, or by a routing rule, can release. What any audit flagged, on these bytes or on
    other bytes of the same film (`siblings`), stands until a reader dismisses it: neither another audit under another
    policy nor another file takes it back.
    """
    jobs = queries.jobs_of_films(session, films, classifier)
    if not jobs:
        return Release("unknown_film", None)
    counting = [job for job in jobs if counts_towards_release(session, job)]
    latest = {(job.film_sha256, job.classifier_name): job.id for job in counting}.values()
    answers = [Release(_reason(session, job), job.id) for job in jobs]
    answers = [answer for answer in answers if answer.audit_id in latest or answer.reason in STANDING]
    answers = answers or [Release("not_in_force", jobs[-1].id)]
    answers += _flagged_elsewhere(session, jobs, classifier)
    return min(answers, key=lambda answer: (answer.may_pass, not answer.is_final))


def _flagged_elsewhere(session: Session, jobs: Sequence[JobRow], classifier: str | None) -> Iterator[Release]:
    for job in siblings.other_jobs(session, jobs, classifier):
        if _reason(session, job) in STANDING:
            yield Release("flagged_elsewhere", job.id)


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
