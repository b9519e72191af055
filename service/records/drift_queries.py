"""Statements about the blocks of films by which a policy's fit is watched."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, func, literal, select, tuple_
from sqlalchemy.orm import Session

from service.records.queries import insert_unless_present
from service.records.tables import AuditRow, DriftBlockRow, DriftProgressRow, JobRow, UtcDateTime

START = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Audited:
    """What of an audit tells whether its policy fits."""

    id: str
    completed_at: datetime
    source: str
    score: float
    evidence: dict[str, Any]


def has_audits_behind(session: Session, policy_sha256: str) -> bool:
    progress = session.get(DriftProgressRow, policy_sha256)
    return session.execute(_behind(progress or _start(policy_sha256)).limit(1)).first() is not None


def progress_for_update(session: Session, policy_sha256: str) -> DriftProgressRow:
    """The policy's progress; other workers wait for this transaction."""
    insert_unless_present(session, _start(policy_sha256))
    mine = select(DriftProgressRow).where(DriftProgressRow.policy_sha256 == policy_sha256)
    return session.scalars(mine.with_for_update()).one()


def audits_behind(session: Session, progress: DriftProgressRow, limit: int) -> list[Audited]:
    """The policy's audits that have not been taken in, in the order in which they were completed."""
    ordered = _behind(progress).order_by(AuditRow.completed_at, AuditRow.id).limit(limit)
    return [Audited(*row) for row in session.execute(ordered)]


def latest_blocks(session: Session, policy_sha256: str) -> dict[str, DriftBlockRow]:
    """The last block of each source."""
    return _last_of_each_source(session, DriftBlockRow.policy_sha256 == policy_sha256)


def latest_full_blocks(session: Session, policy_sha256: str) -> dict[str, DriftBlockRow]:
    """The last block of each source that was tested."""
    of_policy = DriftBlockRow.policy_sha256 == policy_sha256
    return _last_of_each_source(session, of_policy & DriftBlockRow.p_values.is_not(None))


def block(session: Session, policy_sha256: str, source: str, number: int) -> DriftBlockRow | None:
    return session.get(DriftBlockRow, (policy_sha256, source, number))


def blocks(session: Session, policy_sha256: str, source: str, limit: int) -> Sequence[DriftBlockRow]:
    """The latest blocks of one source, oldest first."""
    of_source = select(DriftBlockRow).where(
        DriftBlockRow.policy_sha256 == policy_sha256, DriftBlockRow.source == source
    )
    return session.scalars(of_source.order_by(DriftBlockRow.number.desc()).limit(limit)).all()[::-1]


def _last_of_each_source(session: Session, wanted: ColumnElement[bool]) -> dict[str, DriftBlockRow]:
    last = select(DriftBlockRow.source, func.max(DriftBlockRow.number)).where(wanted).group_by(DriftBlockRow.source)
    place = tuple_(DriftBlockRow.source, DriftBlockRow.number)
    rows = session.scalars(select(DriftBlockRow).where(wanted, place.in_(last))).all()
    return {row.source: row for row in rows}


def _start(policy_sha256: str) -> DriftProgressRow:
    return DriftProgressRow(policy_sha256=policy_sha256, after_at=START, after_id="")


def _behind(progress: DriftProgressRow) -> Select[Any]:
    columns = (AuditRow.id, AuditRow.completed_at, JobRow.source, AuditRow.score, AuditRow.evidence)
    bound = tuple_(literal(progress.after_at, UtcDateTime()), literal(progress.after_id))
    place = tuple_(AuditRow.completed_at, AuditRow.id)
    statement = select(*columns).join(JobRow, JobRow.id == AuditRow.id)
    return statement.where(AuditRow.policy_sha256 == progress.policy_sha256, place > bound)
