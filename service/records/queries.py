"""Every statement that the service sends, as a named function."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast, get_args

from sqlalchemy import (
    ColumnElement,
    CursorResult,
    Select,
    Table,
    delete,
    func,
    literal,
    or_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import InstrumentedAttribute, Session, contains_eager, joinedload, selectinload

from service.graphs.protocol import EXAMINER_VERSION
from service.records.tables import (
    NOT_DECODED,
    ActivationRow,
    ApiKeyRow,
    AuditRow,
    ChosenBy,
    ClassifierRow,
    ComparisonRow,
    DeliveryRow,
    EventRow,
    FilmRow,
    IdempotencyRow,
    JobRow,
    PolicyRow,
    Tables,
    UtcDateTime,
)

OPEN_STATES = ("queued", "leased")


@dataclass(frozen=True, slots=True)
class AuditFilters:
    verdict: str | None = None
    state: str | None = None
    classifier: str | None = None
    source: str | None = None
    since_at: datetime | None = None
    until_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Position:
    """Where a page of audits ended."""

    received_at: datetime
    id: str


def ping(session: Session) -> None:
    session.execute(text("SELECT 1"))


def insert_unless_present(session: Session, row: Tables) -> bool:
    """Insert one row; False when a row with one of its unique keys is there already."""
    table = cast(Table, type(row).__table__)
    values = {column.key: getattr(row, column.key) for column in table.columns}
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    statement = insert(table).values(**values).on_conflict_do_nothing().returning(*table.primary_key)
    return session.execute(statement).first() is not None


# API keys


def api_key(session: Session, key_id: str) -> ApiKeyRow | None:
    return session.get(ApiKeyRow, key_id)


def api_key_named(session: Session, name: str) -> ApiKeyRow | None:
    return session.scalar(select(ApiKeyRow).where(ApiKeyRow.name == name))


def api_keys(session: Session) -> Sequence[ApiKeyRow]:
    return session.scalars(select(ApiKeyRow).order_by(ApiKeyRow.created_at)).all()


def touch_api_key(session: Session, key_id: str, at: datetime) -> None:
    session.execute(update(ApiKeyRow).where(ApiKeyRow.id == key_id).values(last_used_at=at))


# Classifiers, policies and what is in force


def classifier(session: Session, sha256: str) -> ClassifierRow | None:
    return session.get(ClassifierRow, sha256)


def registered_classifier(session: Session, sha256: str) -> ClassifierRow:
    """One that is known to be registered."""
    return session.get_one(ClassifierRow, sha256)


def classifier_known_as(session: Session, sha256: str) -> ClassifierRow | None:
    """The version that a hash stands for: of the registered key, of the identity, or of the file handed in."""
    hashes = (ClassifierRow.sha256, ClassifierRow.identity, ClassifierRow.file_sha256)
    statement = select(ClassifierRow).where(or_(*(column == sha256 for column in hashes)))
    return session.scalars(statement.order_by(ClassifierRow.added_at)).first()


def classifiers(session: Session, name: str | None = None) -> Sequence[ClassifierRow]:
    """All versions, newest first within each name."""
    statement = select(ClassifierRow).order_by(ClassifierRow.name, ClassifierRow.added_at.desc())
    return session.scalars(statement if name is None else statement.where(ClassifierRow.name == name)).all()


def policy(session: Session, sha256: str) -> PolicyRow | None:
    return session.get(PolicyRow, sha256)


def policies(session: Session, classifier_sha256: str | None = None, name: str | None = None) -> Sequence[PolicyRow]:
    """Newest first within each name."""
    statement = select(PolicyRow).order_by(PolicyRow.name, PolicyRow.added_at.desc())
    if classifier_sha256 is not None:
        statement = statement.where(PolicyRow.classifier_sha256 == classifier_sha256)
    if name is not None:
        statement = statement.where(PolicyRow.name == name)
    return session.scalars(statement).all()


def activation(session: Session, activation_id: int) -> ActivationRow | None:
    return session.get(ActivationRow, activation_id)


def activation_in_force(session: Session, slot: str) -> ActivationRow | None:
    statement = select(ActivationRow).where(ActivationRow.slot == slot).order_by(ActivationRow.id.desc()).limit(1)
    return session.scalar(statement)


def override(session: Session, policy_sha256: str) -> ActivationRow | None:
    """The last time that a policy was put in force despite its warnings."""
    given = ActivationRow.target == policy_sha256, ActivationRow.despite_warnings.is_not(None)
    return session.scalar(select(ActivationRow).where(*given).order_by(ActivationRow.id.desc()).limit(1))


# Films and the queue


def film(session: Session, sha256: str) -> FilmRow | None:
    return session.get(FilmRow, sha256)


def extend_original(session: Session, film_sha256: str, expires_at: datetime) -> None:
    session.execute(update(FilmRow).where(FilmRow.sha256 == film_sha256).values(original_expires_at=expires_at))


def films_with_expired_original(session: Session, now: datetime, limit: int) -> Sequence[FilmRow]:
    """Films whose original may go: past its time, and no open job or delivery needs it."""
    has_open_job = select(JobRow.id).where(JobRow.film_sha256 == FilmRow.sha256, JobRow.state.in_(OPEN_STATES)).exists()
    has_open_delivery = (
        select(DeliveryRow.id)
        .join(JobRow, JobRow.id == DeliveryRow.job_id)
        .where(JobRow.film_sha256 == FilmRow.sha256, DeliveryRow.state == "pending")
        .exists()
    )
    expired = FilmRow.original_expires_at <= now
    statement = select(FilmRow).where(expired, ~has_open_job, ~has_open_delivery).limit(limit)
    return session.scalars(statement.with_for_update(skip_locked=True)).all()


def describe_film(
    session: Session, film_sha256: str, pixels_sha256: str, width: int, height: int, attributes: dict[str, str]
) -> None:
    """What decoding found out about a film that was accepted undecoded."""
    statement = update(FilmRow).where(FilmRow.sha256 == film_sha256, FilmRow.pixels_sha256 == NOT_DECODED)
    session.execute(statement.values(pixels_sha256=pixels_sha256, width=width, height=height, attributes=attributes))


def known_films(session: Session, hashes: Sequence[str]) -> set[str]:
    return set(session.scalars(select(FilmRow.sha256).where(FilmRow.sha256.in_(hashes))))


def job(session: Session, job_id: str) -> JobRow | None:
    return session.scalar(_jobs().where(JobRow.id == job_id))


def job_for(session: Session, film_sha256: str, classifier_sha256: str, policy_sha256: str) -> JobRow | None:
    return session.scalar(
        select(JobRow).where(
            JobRow.film_sha256 == film_sha256,
            JobRow.classifier_sha256 == classifier_sha256,
            JobRow.policy_sha256 == policy_sha256,
        )
    )


def lock_job(session: Session, job_id: str) -> JobRow:
    """The job, which nobody else finishes before this transaction ends."""
    return session.scalars(select(JobRow).where(JobRow.id == job_id).with_for_update()).one()


def jobs_of_films(session: Session, films: Sequence[str], classifier_name: str | None) -> Sequence[JobRow]:
    """Latest last."""
    statement = _jobs().where(JobRow.film_sha256.in_(films)).order_by(JobRow.received_at, JobRow.id)
    if classifier_name:
        statement = statement.where(JobRow.classifier_name == classifier_name)
    return session.scalars(statement).all()


def queue_depth(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(JobRow).where(JobRow.state == "queued")) or 0


def queue_depth_beside(session: Session, classifier_sha256: str) -> int:
    """Of the queued jobs, those that wait for their classifier where this one's do, else those that do not: films
    that cannot be audited take nobody else's room."""
    this_waits = select(_waits(literal(classifier_sha256))).scalar_subquery()
    alike = select(func.count()).select_from(JobRow).where(JobRow.state == "queued", _waits() == this_waits)
    return session.scalar(alike) or 0


def waiting_for_classifiers(session: Session) -> Sequence[tuple[ClassifierRow, int]]:
    """The versions that cannot be audited, and how many queued films wait for each; those without films left out."""
    waiting = select(JobRow.classifier_sha256, func.count().label("films")).where(JobRow.state == "queued", _waits())
    counted = waiting.group_by(JobRow.classifier_sha256).subquery()
    statement = select(ClassifierRow, counted.c.films).join(
        counted, counted.c.classifier_sha256 == ClassifierRow.sha256
    )
    return [(row[0], row[1]) for row in session.execute(statement.order_by(ClassifierRow.name))]


def has_claimable(session: Session, now: datetime) -> bool:
    """A look that takes no lock, so that idle workers leave the writer alone."""
    queued = select(JobRow.id).where(JobRow.state == "queued", ~_waits()).exists()
    expired = select(JobRow.id).where(JobRow.state == "leased", JobRow.lease_until < now).exists()
    return bool(session.scalar(select(queued | expired)))


def requeue_expired(session: Session, now: datetime) -> int:
    """Give jobs whose worker went silent back to the queue."""
    statement = update(JobRow).where(JobRow.state == "leased", JobRow.lease_until < now)
    return _changed(session.execute(statement.values(state="queued", owner=None, lease_until=None)))


def claim(session: Session, owner: str, lease_until: datetime, limit: int) -> Sequence[JobRow]:
    """Lease the oldest queued jobs; other workers' claims pass over them."""
    queued = select(JobRow).where(JobRow.state == "queued", ~_waits())
    oldest = queued.order_by(JobRow.received_at, JobRow.id).limit(limit)
    jobs = session.scalars(oldest.with_for_update(skip_locked=True, of=JobRow)).all()
    for claimed in jobs:
        claimed.state, claimed.owner, claimed.lease_until = "leased", owner, lease_until
        claimed.attempts += 1
    return jobs


def _waits(sha256: ColumnElement[str] | InstrumentedAttribute[str] = JobRow.classifier_sha256) -> ColumnElement[bool]:
    """The job's classifier is refused, or was not examined yet by the examiner of this version."""
    unexamined = ClassifierRow.examiner.is_distinct_from(EXAMINER_VERSION)
    waited_for = select(ClassifierRow.sha256).where(
        ClassifierRow.sha256 == sha256, or_(ClassifierRow.refusal.is_not(None), unexamined)
    )
    return waited_for.exists()


def renew_leases(session: Session, owner: str, lease_until: datetime) -> None:
    statement = update(JobRow).where(JobRow.state == "leased", JobRow.owner == owner)
    session.execute(statement.values(lease_until=lease_until))


def release_leases(session: Session, owner: str) -> None:
    """Hand back what this worker did not get to; an attempt that never ran does not count."""
    statement = update(JobRow).where(JobRow.state == "leased", JobRow.owner == owner)
    session.execute(statement.values(state="queued", owner=None, lease_until=None, attempts=JobRow.attempts - 1))


def finish_job(session: Session, job_id: str, owner: str) -> bool:
    """Mark a leased job done; False when the lease went to somebody else."""
    return _leave_lease(session, job_id, owner, state="done")


def fail_job(session: Session, job_id: str, owner: str, code: str, detail: str) -> bool:
    return _leave_lease(session, job_id, owner, state="failed", error_code=code, error_detail=detail)


def retry_job(session: Session, job_id: str, owner: str) -> bool:
    return _leave_lease(session, job_id, owner, state="queued")


def revive_job(session: Session, job_id: str) -> bool:
    """Queue a failed job again."""
    statement = update(JobRow).where(JobRow.id == job_id, JobRow.state == "failed")
    return (
        _changed(session.execute(statement.values(state="queued", attempts=0, error_code=None, error_detail=None))) == 1
    )


def choose_again(
    session: Session, job_id: str, classifier_sha256: str, policy_sha256: str, chosen_by: ChosenBy
) -> bool:
    """Keep that a job with this classifier and policy was chosen so too, where that counts more than how it was."""
    less = get_args(ChosenBy)[: get_args(ChosenBy).index(chosen_by)]
    if not less:
        return False
    statement = update(JobRow).where(
        JobRow.id == job_id,
        JobRow.classifier_sha256 == classifier_sha256,
        JobRow.policy_sha256 == policy_sha256,
        or_(JobRow.chosen_by.is_(None), JobRow.chosen_by.in_(less)),
    )
    return _changed(session.execute(statement.values(chosen_by=chosen_by))) == 1


def idempotency_key(session: Session, actor: str, key: str) -> IdempotencyRow | None:
    return session.get(IdempotencyRow, (actor, key))


def forget_idempotency_keys(session: Session, before: datetime) -> None:
    session.execute(delete(IdempotencyRow).where(IdempotencyRow.created_at < before))


# Audits


def audits_page(session: Session, filters: AuditFilters, after: Position | None, limit: int) -> Sequence[JobRow]:
    """Jobs with their audits, latest first, from just behind `after`."""
    statement = _jobs_with_verdict(filters) if filters.verdict else _jobs_of_any_state(filters)
    received_at: InstrumentedAttribute[datetime] = AuditRow.received_at if filters.verdict else JobRow.received_at
    row_id: InstrumentedAttribute[str] = AuditRow.id if filters.verdict else JobRow.id
    if filters.source:
        statement = statement.where(JobRow.source == filters.source)
    if filters.since_at:
        statement = statement.where(received_at >= filters.since_at)
    if filters.until_at:
        statement = statement.where(received_at < filters.until_at)
    if after:
        bound = tuple_(literal(after.received_at, UtcDateTime()), literal(after.id))
        statement = statement.where(tuple_(received_at, row_id) < bound)
    return session.scalars(statement.order_by(received_at.desc(), row_id.desc()).limit(limit)).all()


def audit(session: Session, audit_id: str) -> AuditRow | None:
    return session.get(AuditRow, audit_id)


def comparisons(session: Session, job_id: str) -> Sequence[ComparisonRow]:
    return session.scalars(select(ComparisonRow).where(ComparisonRow.job_id == job_id)).all()


def mismatch_counts(session: Session) -> dict[str, int]:
    """By classifier, how many answers of the deployed one were further from ours than is tolerated."""
    apart = func.abs(ComparisonRow.deployed - ComparisonRow.audited) > ComparisonRow.tolerance
    statement = select(JobRow.classifier_name, func.count()).join(ComparisonRow, ComparisonRow.job_id == JobRow.id)
    return {row[0]: row[1] for row in session.execute(statement.where(apart).group_by(JobRow.classifier_name))}


def events_about(session: Session, subject: str) -> Sequence[EventRow]:
    return session.scalars(select(EventRow).where(EventRow.subject == subject).order_by(EventRow.at)).all()


def _jobs() -> Select[JobRow]:
    with_parts = select(JobRow).options(joinedload(JobRow.film), joinedload(JobRow.audit), joinedload(JobRow.policy))
    why_it_waits = joinedload(JobRow.classifier).load_only(ClassifierRow.examiner, ClassifierRow.refusal)
    return with_parts.options(selectinload(JobRow.comparisons), why_it_waits)


def _jobs_of_any_state(filters: AuditFilters) -> Select[JobRow]:
    statement = _jobs()
    if filters.state:
        statement = statement.where(JobRow.state == filters.state)
    if filters.classifier:
        statement = statement.where(JobRow.classifier_name == filters.classifier)
    return statement


def _jobs_with_verdict(filters: AuditFilters) -> Select[JobRow]:
    """The verdict's own indexes drive this one, so that a rare verdict is found at once."""
    statement = select(JobRow).join(AuditRow, AuditRow.id == JobRow.id).where(AuditRow.verdict == filters.verdict)
    if filters.state:
        statement = statement.where(JobRow.state == filters.state)
    if filters.classifier:
        statement = statement.where(AuditRow.classifier_name == filters.classifier)
    with_parts = statement.options(contains_eager(JobRow.audit), joinedload(JobRow.film), joinedload(JobRow.policy))
    return with_parts.options(selectinload(JobRow.comparisons))


def _leave_lease(session: Session, job_id: str, owner: str, **values: str | None) -> bool:
    statement = update(JobRow).where(JobRow.id == job_id, JobRow.state == "leased", JobRow.owner == owner)
    return _changed(session.execute(statement.values(owner=None, lease_until=None, **values))) == 1


def _changed(result: Any) -> int:
    return result.rowcount if isinstance(result, CursorResult) else 0
