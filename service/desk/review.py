"""What people decide about an audit: open -> confirmed or dismissed, by one reader or two; every change is an event."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from service.desk import siblings
from service.errors import TriggerscopeError
from service.people import accounts
from service.records import queries, review_queries
from service.records.chain import review_hash
from service.records.session import Database, Unit, utc_now
from service.records.tables import AuditRow, FilmRow, JobRow, ReviewRow

State = Literal["unflagged", "open", "second_reader", "confirmed", "dismissed"]
Decision = Literal["confirm", "dismiss", "refer", "reopen"]
STATES: dict[str, str] = {
    "open": "to review",
    "second_reader": "second reader",
    "confirmed": "confirmed",
    "dismissed": "dismissed",
    "unflagged": "not flagged",
}
OUTCOMES: dict[str, State] = {"confirm": "confirmed", "dismiss": "dismissed"}
PRIORITIES = {"suspicious": 2, "indeterminate": 1, "unremarkable": 0}
WATCHED = 3  # what a hit on the watch list adds to the priority: such films come first, whatever their verdict
GRID = 8  # regions whose centres share a cell of this grid over the film count as alike


class SameReader(TriggerscopeError):
    """The second of two readers has to be somebody else."""

    code = "same_reader"


class UnsuitableReader(TriggerscopeError):
    """Audits are given to people who may decide about them."""

    code = "unsuitable_reader"


@dataclass(frozen=True, slots=True)
class Review:
    """One audit's place in the review. `proposal` is what the first of two readers decided."""

    state: State
    proposal: State | None = None
    first_reader: str | None = None
    decided_by: str | None = None
    decided_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that a reader does to one or many audits."""

    decision: Decision | None
    comment: str
    actor: str


def advance(review: Review, decision: Decision, actor: str, at: datetime, readers: int) -> Review:
    """The review after one decision. Raises SameReader where the second signature would be the first one's."""
    if decision == "reopen":
        return Review("open")
    if decision == "refer":
        return Review("second_reader", first_reader=actor)
    outcome = OUTCOMES[decision]
    if review.first_reader == actor:
        raise SameReader("somebody else has to sign this one")
    if review.proposal is not None and review.proposal != outcome:
        return Review("open")
    if readers == 2 and review.proposal is None:
        return Review("second_reader", outcome, actor)
    return replace(review, state=outcome, proposal=None, decided_by=actor, decided_at=at)


Follow = Callable[[Unit, ReviewRow, str], None]


def nothing_follows(_unit: Unit, _row: ReviewRow, _actor: str) -> None:
    """A decision stays with its audit."""


def record(database: Database, ids: Sequence[str], step: Step, readers: int, follow: Follow = nothing_follows) -> int:
    """Apply one step to audits, all or none; returns how many there were. `follow` is told of each decision."""
    with database.write() as unit:
        rows = review_queries.reviews_for_update(unit.session, ids)
        for row in rows:
            _apply(unit, row, step, readers)
            if step.decision is not None:
                follow(unit, row, step.actor)
        return len(rows)


def assign(database: Database, ids: Sequence[str], assignee: str | None, comment: str, actor: str) -> int:
    """Give audits to a reader, or to nobody; returns how many there were. Raises UnsuitableReader."""
    with database.write() as unit:
        if assignee not in (None, actor) and assignee not in accounts.reviewers(unit.session):
            raise UnsuitableReader("there is nobody of this name who may review")
        rows = review_queries.reviews_for_update(unit.session, ids)
        for row in rows:
            row.assignee = assignee
            unit.record(
                "review.assign",
                row.id,
                actor,
                state=row.state,
                assignee=assignee,
                comment=comment,
                review_sha256=review_hash(row),
            )
        return len(rows)


def _apply(unit: Unit, row: ReviewRow, step: Step, readers: int) -> None:
    if step.decision is None:
        unit.record(
            "review.comment",
            row.id,
            step.actor,
            state=row.state,
            comment=step.comment,
            review_sha256=review_hash(row),
        )
        return
    after = advance(_of(row), step.decision, step.actor, utc_now(), readers)
    if row.state == "unflagged":
        siblings.keep_keys(unit.session, row.id)
    row.state, row.proposal, row.first_reader = after.state, after.proposal, after.first_reader
    row.decided_by, row.decided_at = after.decided_by, after.decided_at
    if row.state == "second_reader" and row.assignee == step.actor:
        row.assignee = None  # it is for somebody else now
    unit.record(
        f"review.{step.decision}",
        row.id,
        step.actor,
        state=row.state,
        proposal=row.proposal,
        assignee=row.assignee,
        comment=step.comment,
        review_sha256=review_hash(row),
    )


def _of(row: ReviewRow) -> Review:
    return Review(row.state, row.proposal, row.first_reader, row.decided_by, row.decided_at)  # type: ignore[arg-type]  # columns hold words of these types


def new_review(job: JobRow, audit: AuditRow, film: FilmRow | None) -> ReviewRow:
    """The row that puts a fresh audit on the desk."""
    hit = audit.watch_hit
    return ReviewRow(
        id=audit.id,
        state="unflagged" if audit.verdict == "unremarkable" and not hit else "open",
        priority=PRIORITIES[audit.verdict] + (WATCHED if hit else 0),
        received_at=audit.received_at,
        classifier_name=audit.classifier_name,
        source=job.source,
        group_key=(group_key(audit, film) if film else None) or (hit["group"] if hit else None),
    )


def group_key(audit: AuditRow, film: FilmRow) -> str | None:
    """The same for findings at the same place, about the same label, under the same classifier."""
    if audit.region is None or not film.width or not film.height:
        return None
    column = int(GRID * (audit.region["x"] + audit.region["width"] / 2) / film.width)
    row = int(GRID * (audit.region["y"] + audit.region["height"] / 2) / film.height)
    parts = f"{audit.classifier_sha256}/{audit.explained_label}/{column}/{row}"
    return hashlib.sha256(parts.encode()).hexdigest()[:32]


def open_review(unit: Unit, job: JobRow, audit: AuditRow, actor: str) -> ReviewRow:
    """Called in the transaction that records the audit."""
    unit.session.flush()
    row = new_review(job, audit, queries.film(unit.session, job.film_sha256))
    unit.session.add(row)
    if row.state != "unflagged":
        siblings.keep_keys(unit.session, audit.id)
    if audit.watch_hit:
        unit.record("review.watch_hit", audit.id, actor, state=row.state, **audit.watch_hit)
    return row
