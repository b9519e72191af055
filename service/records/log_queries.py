"""Statements about the log and the state of the service."""

import hashlib
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select, text
from sqlalchemy.orm import Session

from service.records.chain import Head, StoredEvent
from service.records.tables import (
    AccountRow,
    ActivationRow,
    ApiKeyRow,
    AuditRow,
    CheckpointRow,
    EventRow,
    FilmRow,
    JobRow,
    PruningRow,
    ReviewRow,
    WatchRow,
)

BATCH = 1000
CARRIED = "carried."  # a fact out of events that were pruned, recorded anew under the kind that it had
COMPLETED = ("audit.completed", f"{CARRIED}audit.completed")


def events(session: Session, writer: str | None = None, last_sequence: int | None = None) -> Iterator[StoredEvent]:
    """Events, chain by chain, in their order: all, or the first of one chain."""
    statement = select(*EventRow.__table__.columns).order_by(EventRow.writer, EventRow.sequence)
    if writer is not None:
        statement = statement.where(EventRow.writer == writer)
    if last_sequence is not None:
        statement = statement.where(EventRow.sequence <= last_sequence)
    for row in session.execute(statement.execution_options(yield_per=BATCH)):
        yield StoredEvent._make(row)


def heads(session: Session) -> list[Head]:
    """The last event of every chain."""
    last = select(EventRow.writer, func.max(EventRow.sequence).label("sequence")).group_by(EventRow.writer).subquery()
    joined = (EventRow.writer == last.c.writer) & (EventRow.sequence == last.c.sequence)
    rows = session.scalars(select(EventRow).join(last, joined).order_by(EventRow.writer)).all()
    return [Head(row.writer, row.sequence, row.hash) for row in rows]


def audits(session: Session) -> Iterator[tuple[Sequence[Any], Sequence[Any], dict[str, Any] | None]]:
    """Every audit's columns, its review's (nulls where there is none), and the payload of the event that vouches for
    both, or None."""
    audit_columns, review_columns = AuditRow.__table__.columns, ReviewRow.__table__.columns
    vouches = (EventRow.subject == AuditRow.id) & EventRow.kind.in_(COMPLETED)
    joined = select(*audit_columns, *review_columns, EventRow.__table__.c.payload).select_from(AuditRow)
    joined = joined.outerjoin(ReviewRow, ReviewRow.id == AuditRow.id).outerjoin(EventRow, vouches)
    split = len(audit_columns)
    for row in session.execute(joined.execution_options(yield_per=BATCH)):
        yield row[:split], row[split:-1], row[-1]


def record_told(session: Session, audit_id: str) -> str | None:
    """The hash of an audit's record as the event that vouches for it has it."""
    told = select(EventRow.payload).where(EventRow.subject == audit_id, EventRow.kind.in_(COMPLETED))
    payload = session.scalar(told.order_by(EventRow.at.desc()).limit(1))
    return None if payload is None else payload.get("record_sha256")


def was_recorded(session: Session, kind: str, subject: str, file: str) -> bool:
    """Whether an event of this kind tells of one of the subject's files."""
    told = session.scalars(select(EventRow.payload).where(EventRow.subject == subject, EventRow.kind == kind))
    return any(payload.get("file") == file for payload in told)


def audit_files(session: Session, after_id: str, limit: int) -> list[tuple[str, str, dict[str, Any] | None]]:
    """Audits in the order of their ids: id, name of the pixels, and the files that the log tells of, if it does."""
    vouches = (EventRow.subject == AuditRow.id) & EventRow.kind.in_(COMPLETED)
    columns = select(AuditRow.id, AuditRow.pixels_sha256, EventRow.payload).outerjoin(EventRow, vouches)
    rows = session.execute(columns.where(AuditRow.id > after_id).order_by(AuditRow.id).limit(limit))
    return [(row[0], row[1], (row[2] or {}).get("files")) for row in rows]


def originals(session: Session, after_sha256: str, limit: int) -> list[tuple[str, int, datetime | None]]:
    """Films in the order of their hashes: hash, number of bytes, and until when the original is kept, if it is."""
    columns = select(FilmRow.sha256, FilmRow.byte_count, FilmRow.original_expires_at)
    rows = session.execute(columns.where(FilmRow.sha256 > after_sha256).order_by(FilmRow.sha256).limit(limit))
    return [(row[0], row[1], row[2]) for row in rows]


def audits_missing(session: Session) -> Sequence[str]:
    """Those that events name as completed, and that are not there."""
    there = select(AuditRow.id).where(AuditRow.id == EventRow.subject).exists()
    return session.scalars(select(EventRow.subject).where(EventRow.kind.in_(COMPLETED), ~there)).all()


def standing(session: Session) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Accounts, keys and watched patches: what kind of event tells of each, its subject there, and how it stands."""
    for account in session.scalars(select(AccountRow)):
        yield "account", account.name, {"role": account.role, "disabled": account.disabled_at is not None}
    for key in session.scalars(select(ApiKeyRow)):
        yield "key", key.name, {"scopes": key.scopes, "revoked": key.revoked_at is not None}
    for entry in session.scalars(select(WatchRow)):
        patch_sha256 = hashlib.sha256(entry.pixels).hexdigest()
        yield "watch", entry.id, {"patch_sha256": patch_sha256, "active": entry.retired_at is None}


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
