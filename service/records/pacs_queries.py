"""The statements of DICOM in and out: instances, identities, cursors and deliveries."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session, joinedload, selectinload

from service.records.queries import insert_unless_present
from service.records.tables import CursorRow, DeliveryRow, FilmRow, IdentityRow, InstanceRow, JobRow, SeenRow

PENDING, DELIVERED, DEAD, CANCELLED = "pending", "delivered", "dead", "cancelled"


def keep_identity(session: Session, row: IdentityRow) -> None:
    """Insert it, or keep the one that is there for as long as the new one would have been."""
    if not insert_unless_present(session, row):
        statement = update(IdentityRow).where(IdentityRow.film_sha256 == row.film_sha256)
        session.execute(statement.values(expires_at=row.expires_at))


def identity(session: Session, film_sha256: str) -> IdentityRow | None:
    return session.get(IdentityRow, film_sha256)


def instance(session: Session, film_sha256: str) -> InstanceRow | None:
    return session.get(InstanceRow, film_sha256)


def forget_expired_identities(session: Session, now: datetime) -> None:
    """Identities go with the originals: none stays without one."""
    gone = select(FilmRow.sha256).where(FilmRow.original_expires_at.is_(None))
    session.execute(delete(IdentityRow).where(IdentityRow.expires_at <= now, IdentityRow.film_sha256.in_(gone)))


def films_of_study(session: Session, study_hmac: str) -> Sequence[FilmRow]:
    of_study = select(InstanceRow.film_sha256).where(InstanceRow.study_hmac == study_hmac)
    return session.scalars(select(FilmRow).where(FilmRow.sha256.in_(of_study))).all()


def films_of_instance(session: Session, sop_hmac: str) -> Sequence[str]:
    return session.scalars(select(InstanceRow.film_sha256).where(InstanceRow.sop_hmac == sop_hmac)).all()


def forget_identities(session: Session, films: Sequence[str]) -> None:
    session.execute(delete(IdentityRow).where(IdentityRow.film_sha256.in_(films)))


def cancel_deliveries(session: Session, films: Sequence[str]) -> None:
    jobs = select(JobRow.id).where(JobRow.film_sha256.in_(films))
    statement = update(DeliveryRow).where(DeliveryRow.job_id.in_(jobs), DeliveryRow.state == PENDING)
    session.execute(statement.values(state=CANCELLED))


def cursor(session: Session, name: str) -> int:
    row = session.get(CursorRow, name)
    return row.position if row else 0


def move_cursor(session: Session, name: str, position: int, at: datetime) -> None:
    if not insert_unless_present(session, CursorRow(name=name, position=position, updated_at=at)):
        statement = update(CursorRow).where(CursorRow.name == name)
        session.execute(statement.values(position=position, updated_at=at))


def is_seen(session: Session, source: str, sop_hmac: str) -> bool:
    return session.get(SeenRow, (source, sop_hmac)) is not None


def mark_seen(session: Session, source: str, sop_hmac: str, day: int) -> None:
    insert_unless_present(session, SeenRow(source=source, sop_hmac=sop_hmac, day=day))


def forget_seen(session: Session, source: str, before_day: int) -> None:
    session.execute(delete(SeenRow).where(SeenRow.source == source, SeenRow.day < before_day))


def delivery(session: Session, delivery_id: str) -> DeliveryRow | None:
    return session.get(DeliveryRow, delivery_id)


def deliveries(session: Session, state: str | None, limit: int) -> Sequence[DeliveryRow]:
    """Latest first."""
    statement = select(DeliveryRow).order_by(DeliveryRow.created_at.desc(), DeliveryRow.id).limit(limit)
    return session.scalars(statement.where(DeliveryRow.state == state) if state else statement).all()


def deliveries_by_state(session: Session) -> dict[str, int]:
    counted = select(DeliveryRow.state, func.count()).group_by(DeliveryRow.state)
    return {row[0]: row[1] for row in session.execute(counted)}


def claim_delivery(session: Session, now: datetime, again_at: datetime) -> DeliveryRow | None:
    """The delivery that has been due longest; it becomes due again at `again_at` unless its outcome is recorded."""
    due = select(DeliveryRow).where(DeliveryRow.state == PENDING, DeliveryRow.due_at <= now)
    row = session.scalar(due.order_by(DeliveryRow.due_at, DeliveryRow.id).limit(1).with_for_update(skip_locked=True))
    if row is not None:
        row.due_at, row.attempts = again_at, row.attempts + 1
    return row


def has_due_delivery(session: Session, now: datetime) -> bool:
    due = select(DeliveryRow.id).where(DeliveryRow.state == PENDING, DeliveryRow.due_at <= now).limit(1)
    return session.scalar(due) is not None


def settle_delivery(session: Session, delivery_id: str, **values: object) -> None:
    """Records an outcome, unless somebody cancelled the delivery meanwhile."""
    statement = update(DeliveryRow).where(DeliveryRow.id == delivery_id, DeliveryRow.state == PENDING)
    session.execute(statement.values(**values))


def delivery_of_transaction(session: Session, transaction_uid: str) -> DeliveryRow | None:
    """The delivery whose storage commitment was asked for under this UID and is still awaited."""
    statement = select(DeliveryRow).where(DeliveryRow.transaction_uid == transaction_uid, DeliveryRow.state == PENDING)
    return session.scalar(statement.with_for_update())


def resend(session: Session, delivery_id: str, now: datetime) -> bool:
    """Make a dead or delivered one due again, with all its attempts."""
    row = session.get(DeliveryRow, delivery_id)
    if row is None or row.state not in (DEAD, DELIVERED):
        return False
    row.state, row.attempts, row.due_at = PENDING, 0, now
    row.error_code = row.error_detail = row.proof = row.transaction_uid = None
    return True


def audited_job(session: Session, job_id: str) -> JobRow | None:
    return session.scalar(
        select(JobRow)
        .where(JobRow.id == job_id)
        .options(joinedload(JobRow.audit), joinedload(JobRow.film), selectinload(JobRow.comparisons))
    )
