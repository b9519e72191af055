"""Statements about the log and the state of the service."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, delete, func, select, text
from sqlalchemy.orm import Session

from service.db.chain import Head
from service.db.tables import ActivationRow, AuditRow, CheckpointRow, EventRow, JobRow, PruningRow, ReviewRow

BATCH = 1000
CARRIED = "carried."  # a fact out of events that were pruned, recorded anew under the kind that it had
COMPLETED = ("audit.completed", f"{CARRIED}audit.completed")


def events(session: Session, writer: str | None = None, last_sequence: int | None = None) -> Iterator[Row[Any]]:
    """Events as plain rows, chain by chain, in their order: all, or the first of one chain."""
    statement = select(*EventRow.__table__.columns).order_by(EventRow.writer, EventRow.sequence)
    if writer is not None:
        statement = statement.where(EventRow.writer == writer)
    if last_sequence is not None:
        statement = statement.where(EventRow.sequence <= last_sequence)
    yield from session.execute(statement.execution_options(yield_per=BATCH))


def heads(session: Session) -> list[Head]:
    """The last event of every chain."""
    last = select(EventRow.writer, func.max(EventRow.sequence).label("sequence")).group_by(EventRow.writer).subquery()
    joined = (EventRow.writer == last.c.writer) & (EventRow.sequence == last.c.sequence)
    rows = session.scalars(select(EventRow).join(last, joined).order_by(EventRow.writer)).all()
    return [Head(row.writer, row.sequence, row.hash) for row in rows]


def audits(session: Session) -> Iterator[Row[Any]]:
    """Every audit with the `payload` of the event that vouches for it, or None."""
    columns = (*AuditRow.__table__.columns, EventRow.__table__.c.payload)
    statement = select(*columns).select_from(AuditRow).outerjoin(EventRow, _vouches())
    yield from session.execute(statement.execution_options(yield_per=BATCH))


def audits_that_events_name(session: Session) -> Iterator[tuple[str, bool]]:
    """The audit of each completion, and whether it is there."""
    statement = select(EventRow.subject, AuditRow.id).outerjoin(AuditRow, AuditRow.id == EventRow.subject)
    for row in session.execute(statement.where(EventRow.kind.in_(COMPLETED)).execution_options(yield_per=BATCH)):
        yield row[0], row[1] is not None


def reviews(session: Session) -> Iterator[Row[Any]]:
    """Every audit's review (nulls where there is none) with `audit_id`, `verdict` and its completion's `payload`."""
    columns = (*ReviewRow.__table__.columns, AuditRow.id.label("audit_id"), AuditRow.verdict, EventRow.payload)
    joined = select(*columns).select_from(AuditRow).outerjoin(ReviewRow, ReviewRow.id == AuditRow.id)
    yield from session.execute(joined.outerjoin(EventRow, _vouches()).execution_options(yield_per=BATCH))


def _vouches() -> ColumnElement[bool]:
    return (EventRow.subject == AuditRow.id) & EventRow.kind.in_(COMPLETED)


def activations(session: Session) -> Iterator[tuple[str, str | None, str]]:
    """Slot, target and actor of each activation, oldest first."""
    for row in session.execute(select(ActivationRow).order_by(ActivationRow.id)).scalars():
        yield row.slot, row.target, row.actor


def latest_checkpoints(session: Session, limit: int) -> Sequence[CheckpointRow]:
    return session.scalars(select(CheckpointRow).order_by(CheckpointRow.id.desc()).limit(limit)).all()


def checkpoints(session: Session) -> Iterator[CheckpointRow]:
    yield from session.scalars(select(CheckpointRow).order_by(CheckpointRow.id).execution_options(yield_per=100))


def checkpoints_behind(session: Session, checkpoint_id: int, limit: int) -> Sequence[CheckpointRow]:
    behind = select(CheckpointRow).where(CheckpointRow.id > checkpoint_id)
    return session.scalars(behind.order_by(CheckpointRow.id).limit(limit)).all()


def events_behind(session: Session, writer: str, sequence: int, limit: int) -> Sequence[EventRow]:
    behind = select(EventRow).where(EventRow.writer == writer, EventRow.sequence > sequence)
    return session.scalars(behind.order_by(EventRow.sequence).limit(limit)).all()


def prunings(session: Session) -> Iterator[PruningRow]:
    """Chain by chain, in order."""
    ordered = select(PruningRow).order_by(PruningRow.writer, PruningRow.last_sequence)
    yield from session.scalars(ordered.execution_options(yield_per=100))


def last_pruning(session: Session, writer: str) -> PruningRow | None:
    of_writer = select(PruningRow).where(PruningRow.writer == writer)
    return session.scalar(of_writer.order_by(PruningRow.last_sequence.desc()).limit(1))


def prunable(session: Session, before: datetime) -> list[tuple[str, int]]:
    """For each chain that has events before `before`, the last one of those that no later event precedes."""
    later = select(EventRow.writer, func.min(EventRow.sequence).label("sequence")).where(EventRow.at >= before)
    kept = later.group_by(EventRow.writer).subquery()
    old = select(EventRow.writer, func.max(EventRow.sequence)).outerjoin(kept, kept.c.writer == EventRow.writer)
    old = old.where(EventRow.at < before, kept.c.sequence.is_(None) | (EventRow.sequence < kept.c.sequence))
    return [(row[0], row[1]) for row in session.execute(old.group_by(EventRow.writer).order_by(EventRow.writer))]


def delete_events(session: Session, writer: str, last_sequence: int) -> None:
    """The database refuses this unless a statement about these events is there."""
    session.execute(delete(EventRow).where(EventRow.writer == writer, EventRow.sequence <= last_sequence))


def jobs_by_state(session: Session) -> dict[str, int]:
    counted = select(JobRow.state, func.count()).group_by(JobRow.state)
    return {row[0]: row[1] for row in session.execute(counted)}


def workers(session: Session, now: datetime) -> list[tuple[str, int]]:
    """Workers that hold leases now, and how many."""
    held = select(JobRow.owner, func.count()).where(JobRow.state == "leased", JobRow.lease_until > now)
    return [(str(owner), number) for owner, number in session.execute(held.group_by(JobRow.owner)).all()]


def failed_jobs(session: Session, limit: int) -> Sequence[JobRow]:
    failed = select(JobRow).where(JobRow.state == "failed")
    return session.scalars(failed.order_by(JobRow.received_at.desc(), JobRow.id.desc()).limit(limit)).all()


def revision(session: Session) -> str:
    return str(session.scalar(text("SELECT version_num FROM alembic_version")))
