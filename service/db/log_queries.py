"""Statements about the log and the state of the service."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, func, select, text
from sqlalchemy.orm import Session

from service.db.chain import Head
from service.db.tables import ActivationRow, AuditRow, CheckpointRow, EventRow, JobRow, ReviewRow

BATCH = 1000


def events(session: Session) -> Iterator[Row[Any]]:
    """All events as plain rows, chain by chain, in their order."""
    statement = select(*EventRow.__table__.columns).order_by(EventRow.writer, EventRow.sequence)
    yield from session.execute(statement.execution_options(yield_per=BATCH))


def heads(session: Session) -> list[Head]:
    """The last event of every chain."""
    last = select(EventRow.writer, func.max(EventRow.sequence).label("sequence")).group_by(EventRow.writer).subquery()
    joined = (EventRow.writer == last.c.writer) & (EventRow.sequence == last.c.sequence)
    rows = session.scalars(select(EventRow).join(last, joined).order_by(EventRow.writer)).all()
    return [Head(row.writer, row.sequence, row.hash) for row in rows]


def audits(session: Session) -> Iterator[AuditRow]:
    for row in session.scalars(select(AuditRow).order_by(AuditRow.id).execution_options(yield_per=BATCH)):
        yield row
        session.expunge(row)


def review_states(session: Session) -> Iterator[tuple[str, str, str]]:
    """Audit, review state and verdict."""
    statement = select(ReviewRow.id, ReviewRow.state, AuditRow.verdict).join(AuditRow, AuditRow.id == ReviewRow.id)
    for row in session.execute(statement.execution_options(yield_per=BATCH)):
        yield row[0], row[1], row[2]


def in_force(session: Session) -> dict[str, str | None]:
    """What the latest activation of each slot set it to."""
    return {row.slot: row.target for row in session.scalars(select(ActivationRow).order_by(ActivationRow.id))}


def latest_checkpoints(session: Session, limit: int) -> Sequence[CheckpointRow]:
    return session.scalars(select(CheckpointRow).order_by(CheckpointRow.id.desc()).limit(limit)).all()


def checkpoint_documents(session: Session) -> Sequence[dict[str, Any]]:
    return session.scalars(select(CheckpointRow.document).order_by(CheckpointRow.id)).all()


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
