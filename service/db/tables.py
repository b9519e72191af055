"""The tables. Audits, activations and events are appended, never changed; jobs is the queue."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, ForeignKey, Index, Integer, MetaData, String, UniqueConstraint
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import TypeDecorator

NO_POLICY = ""  # a job or audit without a policy: an empty string, because NULLs never collide in a unique constraint


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC datetimes, kept without their offset so that SQLite and PostgreSQL return the same value."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else value.replace(tzinfo=UTC)


class Tables(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime, dict[str, Any]: JSON, list[str]: JSON}  # noqa: RUF012


class ApiKeyRow(Tables):
    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    secret_sha256: Mapped[str] = mapped_column(String(64))
    scopes: Mapped[list[str]]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class ClassifierRow(Tables):
    """One version of a classifier: one ONNX file."""

    __tablename__ = "classifiers"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), index=True)
    card: Mapped[dict[str, Any]]
    added_at: Mapped[datetime]
    actor: Mapped[str] = mapped_column(String(80))


class PolicyRow(Tables):
    __tablename__ = "policies"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    classifier_sha256: Mapped[str] = mapped_column(ForeignKey("classifiers.sha256"), index=True)
    preprocessing_sha256: Mapped[str] = mapped_column(String(64))
    source: Mapped[str] = mapped_column(String(64))
    false_positive_rate: Mapped[float]
    created_at: Mapped[str] = mapped_column(String(40))
    added_at: Mapped[datetime]
    actor: Mapped[str] = mapped_column(String(80))


class ActivationRow(Tables):
    """What a slot was set to. The latest row of a slot is in force; `previous_id` is where a rollback returns to."""

    __tablename__ = "activations"
    __table_args__ = (Index(None, "slot", "id"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    slot: Mapped[str] = mapped_column(String(160))
    target: Mapped[str | None] = mapped_column(String(64))
    previous_id: Mapped[int | None] = mapped_column(ForeignKey("activations.id"))
    at: Mapped[datetime]
    actor: Mapped[str] = mapped_column(String(80))


class FilmRow(Tables):
    """One received file, free of identifiers."""

    __tablename__ = "films"
    __table_args__ = (Index(None, "original_expires_at"),)

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    pixels_sha256: Mapped[str] = mapped_column(String(64), index=True)
    byte_count: Mapped[int] = mapped_column(BigInteger)
    width: Mapped[int]
    height: Mapped[int]
    attributes: Mapped[dict[str, Any]]
    received_at: Mapped[datetime]
    source: Mapped[str] = mapped_column(String(64))
    actor: Mapped[str] = mapped_column(String(80))
    original_expires_at: Mapped[datetime | None]  # None once the original has been removed


class JobRow(Tables):
    """One audit that was asked for: the queue, and the ledger that the list of audits pages through."""

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("film_sha256", "classifier_sha256", "policy_sha256"),
        Index(None, "received_at", "id"),
        Index(None, "state", "received_at", "id"),
        Index(None, "classifier_name", "received_at", "id"),
        Index(None, "source", "received_at", "id"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    film_sha256: Mapped[str] = mapped_column(ForeignKey("films.sha256"))
    classifier_sha256: Mapped[str] = mapped_column(ForeignKey("classifiers.sha256"))
    classifier_name: Mapped[str] = mapped_column(String(64))
    policy_sha256: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(8))  # queued, leased, done or failed
    owner: Mapped[str | None] = mapped_column(String(40))
    lease_until: Mapped[datetime | None]
    attempts: Mapped[int]
    error_code: Mapped[str | None] = mapped_column(String(64))
    received_at: Mapped[datetime]
    source: Mapped[str] = mapped_column(String(64))
    actor: Mapped[str] = mapped_column(String(80))

    film: Mapped[FilmRow] = relationship(lazy="raise")
    audit: Mapped["AuditRow | None"] = relationship(lazy="raise", viewonly=True)
    policy: Mapped[PolicyRow | None] = relationship(
        lazy="raise",
        viewonly=True,
        primaryjoin="foreign(JobRow.policy_sha256) == PolicyRow.sha256",
    )


class AuditRow(Tables):
    """One verdict and everything it rests on."""

    __tablename__ = "audits"
    __table_args__ = (
        UniqueConstraint("film_sha256", "classifier_sha256", "policy_sha256"),
        Index(None, "verdict", "received_at", "id"),
        Index(None, "classifier_name", "verdict", "received_at", "id"),
    )

    id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    film_sha256: Mapped[str] = mapped_column(String(64))
    pixels_sha256: Mapped[str] = mapped_column(String(64))
    classifier_name: Mapped[str] = mapped_column(String(64))
    classifier_sha256: Mapped[str] = mapped_column(String(64))
    preprocessing_sha256: Mapped[str] = mapped_column(String(64))
    policy_name: Mapped[str | None] = mapped_column(String(64))
    policy_sha256: Mapped[str] = mapped_column(String(64))
    verdict: Mapped[str] = mapped_column(String(16))
    score: Mapped[float]
    p_value: Mapped[float | None]
    probabilities: Mapped[dict[str, Any]]
    explained_label: Mapped[str] = mapped_column(String(64))
    evidence: Mapped[dict[str, Any]]
    region: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    reasons: Mapped[list[str]]
    timings_ms: Mapped[dict[str, Any]]
    code_version: Mapped[str] = mapped_column(String(32))
    received_at: Mapped[datetime]
    completed_at: Mapped[datetime]


class EventRow(Tables):
    """One line of the append-only log; each writer's lines form a hash chain (see chain.py)."""

    __tablename__ = "events"
    __table_args__ = (Index(None, "subject", "at"), Index(None, "at"))

    writer: Mapped[str] = mapped_column(String(32), primary_key=True)
    sequence: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    actor: Mapped[str] = mapped_column(String(80))
    kind: Mapped[str] = mapped_column(String(48))
    subject: Mapped[str] = mapped_column(String(160))
    payload: Mapped[dict[str, Any]]
    previous_hash: Mapped[str] = mapped_column(String(64))
    hash: Mapped[str] = mapped_column(String(64), unique=True)


class IdempotencyRow(Tables):
    """An Idempotency-Key that a caller sent, and the job that it made."""

    __tablename__ = "idempotency_keys"

    actor: Mapped[str] = mapped_column(String(80), primary_key=True)
    key: Mapped[str] = mapped_column(String(128), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    created_at: Mapped[datetime] = mapped_column(index=True)
