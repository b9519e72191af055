"""The tables. Audits, activations and events are appended, never changed; jobs is the queue."""

from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    UniqueConstraint,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import TypeDecorator

NO_POLICY = ""  # a job or audit without a policy: an empty string, because NULLs never collide in a unique constraint

ChosenBy = Literal["named", "in_force", "rule"]  # how a job's classifier and policy were chosen; later ones count more
NAMED: ChosenBy = "named"
IN_FORCE: ChosenBy = "in_force"
BY_RULE: ChosenBy = "rule"
NO_RULE = ""  # a job for a film that no routing rule fitted; a film that came outside of routing has None
NO_PASSWORD = ""  # password_hash of an account that only an identity provider lets in
NOT_DECODED = ""  # pixels_sha256 of a film that was accepted and not decoded yet


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC datetimes, kept without their offset so that SQLite and PostgreSQL return the same value."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 -- SQLAlchemy's signature
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 -- SQLAlchemy's signature
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
    type_annotation_map = {datetime: UtcDateTime, dict[str, Any]: JSON, list[str]: JSON, list[float]: JSON}  # noqa: RUF012 -- SQLAlchemy reads it


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
    """One version of a classifier: one forward graph with labels and preprocessing.

    sha256: its identity; of versions from before there was one, the hash of their file. refusal: why what was
    registered cannot be audited any more; its films wait.
    """

    __tablename__ = "classifiers"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), index=True)
    card: Mapped[dict[str, Any]]
    identity: Mapped[str | None] = mapped_column(String(64), index=True)
    file_sha256: Mapped[str | None] = mapped_column(String(64), index=True)
    derived_sha256: Mapped[str | None] = mapped_column(String(64))
    examiner: Mapped[str | None] = mapped_column(String(20))
    report: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    report_signature: Mapped[str | None] = mapped_column(String(128))
    refusal: Mapped[str | None] = mapped_column(String(500))
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
    """What a slot was set to. The latest row of a slot is in force; `previous_id` is where a rollback returns to.

    despite_warnings: why a policy with warnings was put in force all the same.
    """

    __tablename__ = "activations"
    __table_args__ = (Index(None, "slot", "id"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    slot: Mapped[str] = mapped_column(String(160))
    target: Mapped[str | None] = mapped_column(String(64))
    previous_id: Mapped[int | None] = mapped_column(ForeignKey("activations.id"))
    at: Mapped[datetime]
    actor: Mapped[str] = mapped_column(String(80))
    despite_warnings: Mapped[str | None] = mapped_column(String(500))


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
    error_detail: Mapped[str | None] = mapped_column(String(500))  # the error's sentence
    received_at: Mapped[datetime]
    source: Mapped[str] = mapped_column(String(64))
    actor: Mapped[str] = mapped_column(String(80))
    rule: Mapped[str | None] = mapped_column(String(64))  # the routing rule that chose; empty where none fitted
    chosen_by: Mapped[ChosenBy | None] = mapped_column(String(8))  # None in jobs from before it

    film: Mapped[FilmRow] = relationship(lazy="raise")
    audit: Mapped["AuditRow | None"] = relationship(lazy="raise", viewonly=True)
    comparisons: Mapped[list["ComparisonRow"]] = relationship(lazy="raise", viewonly=True)
    classifier: Mapped[ClassifierRow] = relationship(lazy="raise", viewonly=True)
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
        Index(None, "policy_sha256", "completed_at", "id"),
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
    hypothesis: Mapped[str | None] = mapped_column(String(8))  # support or counter; None in audits from before it
    evidence: Mapped[dict[str, Any]]
    region: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    reasons: Mapped[list[str]]
    timings_ms: Mapped[dict[str, Any]]
    code_version: Mapped[str] = mapped_column(String(32))
    received_at: Mapped[datetime]
    completed_at: Mapped[datetime]
    watch_hit: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))  # see service/watch_list.py
    files: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))  # hash and size of pixels and maps
    fingerprint: Mapped[str | None] = mapped_column(String(256))  # of the model input; None in audits from before it


class FingerprintKeyRow(Tables):
    """What the fingerprint of an audit that was ever on the desk is found by; see service/audit/likeness.py."""

    __tablename__ = "fingerprint_keys"

    key: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    audit_id: Mapped[str] = mapped_column(ForeignKey("audits.id"), primary_key=True)


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


class InstanceRow(Tables):
    """Where a DICOM film came from, kept with its audit: keyed hashes of its UIDs, never the UIDs."""

    __tablename__ = "instances"

    film_sha256: Mapped[str] = mapped_column(ForeignKey("films.sha256"), primary_key=True)
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    study_hmac: Mapped[str] = mapped_column(String(64), index=True)
    series_hmac: Mapped[str] = mapped_column(String(64))
    sop_hmac: Mapped[str] = mapped_column(String(64), index=True)
    calling_ae: Mapped[str] = mapped_column(String(16))
    called_ae: Mapped[str] = mapped_column(String(16))
    address: Mapped[str] = mapped_column(String(45))
    certificate_sha256: Mapped[str] = mapped_column(String(64))
    received_at: Mapped[datetime]


class IdentityRow(Tables):
    """The raw UIDs of a film, for as long as its original is kept and no longer."""

    __tablename__ = "identities"

    film_sha256: Mapped[str] = mapped_column(ForeignKey("films.sha256"), primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(String(64))
    series_instance_uid: Mapped[str] = mapped_column(String(64))
    sop_instance_uid: Mapped[str] = mapped_column(String(64))
    expires_at: Mapped[datetime] = mapped_column(index=True)


class CursorRow(Tables):
    """How far a watcher has read; moved in the transaction that commits the film."""

    __tablename__ = "cursors"

    name: Mapped[str] = mapped_column(String(160), primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger)
    updated_at: Mapped[datetime]


class SeenRow(Tables):
    """An instance that a DICOMweb watcher has dealt with; forgotten when its study leaves the watched days."""

    __tablename__ = "seen_instances"

    source: Mapped[str] = mapped_column(String(64), primary_key=True)
    sop_hmac: Mapped[str] = mapped_column(String(64), primary_key=True)
    day: Mapped[int]  # proleptic ordinal of the study's date

    __table_args__ = (Index(None, "source", "day"),)


class DeliveryRow(Tables):
    """One result that has to reach one destination: the outbox. The object itself is made when it is sent.

    One whose commitment is awaited is pending and due again when the waiting ends.
    """

    __tablename__ = "deliveries"
    __table_args__ = (
        UniqueConstraint("job_id", "destination", "kind"),
        Index(None, "state", "due_at"),
        Index(None, "transaction_uid"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    destination: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(10))  # pending, delivered, dead or cancelled
    attempts: Mapped[int]
    due_at: Mapped[datetime]
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_detail: Mapped[str | None] = mapped_column(String(500))  # the error's sentence
    created_at: Mapped[datetime]
    delivered_at: Mapped[datetime | None]
    proof: Mapped[str | None] = mapped_column(String(16))  # how its arrival was shown; None: it was only accepted
    transaction_uid: Mapped[str | None] = mapped_column(String(64))  # of the storage commitment asked for last


class ComparisonRow(Tables):
    """What a deployed classifier said about a film, and where that lies furthest from the audited file's answer."""

    __tablename__ = "comparisons"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64), primary_key=True)  # of the probabilities
    probabilities: Mapped[dict[str, Any]]
    actor: Mapped[str] = mapped_column(String(80))
    received_at: Mapped[datetime]
    label: Mapped[str | None] = mapped_column(String(64))  # the label furthest apart; None until the audit is done
    deployed: Mapped[float | None]
    audited: Mapped[float | None]
    tolerance: Mapped[float]


class ReviewRow(Tables):
    """Where an audit stands on the auditor's desk; every change of it is an event. Its indexes are the queue's."""

    __tablename__ = "reviews"
    __table_args__ = (
        Index(None, "priority", "received_at", "id"),
        Index(None, "state", "priority", "received_at", "id"),
        Index(None, "classifier_name", "state", "priority", "received_at", "id"),
        Index(None, "source", "state", "priority", "received_at", "id"),
        Index(None, "classifier_name", "priority", "received_at", "id"),
        Index(None, "source", "priority", "received_at", "id"),
        Index(None, "group_key", "state"),
        Index(None, "group_key", "priority", "received_at", "id"),
        Index(None, "assignee", "state", "priority", "received_at", "id"),
    )

    id: Mapped[str] = mapped_column(ForeignKey("audits.id"), primary_key=True)
    state: Mapped[str] = mapped_column(String(16))  # see service/review.py
    priority: Mapped[int]  # 2 suspicious, 1 indeterminate, 0 unremarkable; 3 more where the watch list was hit
    received_at: Mapped[datetime]
    classifier_name: Mapped[str] = mapped_column(String(64))
    source: Mapped[str] = mapped_column(String(64))
    group_key: Mapped[str | None] = mapped_column(String(32))  # like findings; None without a region
    proposal: Mapped[str | None] = mapped_column(String(16))  # the first of two readers' decision
    first_reader: Mapped[str | None] = mapped_column(String(80))
    decided_by: Mapped[str | None] = mapped_column(String(80))
    decided_at: Mapped[datetime | None]
    assignee: Mapped[str | None] = mapped_column(String(80))

    audit: Mapped[AuditRow] = relationship(lazy="raise", viewonly=True)


class WatchRow(Tables):
    """A confirmed trigger's patch, which later films of its classifier are compared with first."""

    __tablename__ = "watch_list"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    audit_id: Mapped[str] = mapped_column(ForeignKey("audits.id"))
    group_key: Mapped[str] = mapped_column(String(32), index=True)
    classifier_name: Mapped[str] = mapped_column(String(64), index=True)
    preprocessing_sha256: Mapped[str] = mapped_column(String(64))
    label: Mapped[str] = mapped_column(String(64))
    region: Mapped[dict[str, Any]]  # in pixels of the model input
    pixels: Mapped[bytes] = mapped_column(LargeBinary)  # float32, row by row
    sha256: Mapped[str] = mapped_column(String(64))  # of pixels
    added_at: Mapped[datetime]
    actor: Mapped[str] = mapped_column(String(80))
    retired_at: Mapped[datetime | None]


class AccountRow(Tables):
    """A person who signs in; programs have API keys instead."""

    __tablename__ = "accounts"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    password_hash: Mapped[str] = mapped_column(String(160))
    role: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime]
    disabled_at: Mapped[datetime | None]
    last_login_at: Mapped[datetime | None]


class SubjectRow(Tables):
    """Who an account is at an identity provider."""

    __tablename__ = "subjects"

    issuer: Mapped[str] = mapped_column(String(255), primary_key=True)
    subject: Mapped[str] = mapped_column(String(255), primary_key=True)
    account_name: Mapped[str] = mapped_column(ForeignKey("accounts.name"), index=True)
    linked_at: Mapped[datetime]

    account: Mapped[AccountRow] = relationship(lazy="raise", viewonly=True)


class SignOnRow(Tables):
    """A browser that was sent to the identity provider and has not come back. Of its state only the hash is kept."""

    __tablename__ = "sign_ons"

    state_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    nonce: Mapped[str] = mapped_column(String(64))
    code_verifier: Mapped[str] = mapped_column(String(128))
    return_to: Mapped[str] = mapped_column(String(2000))
    expires_at: Mapped[datetime] = mapped_column(index=True)


class LoginRow(Tables):
    """One signed-in browser. Of its cookie only the hash is kept."""

    __tablename__ = "logins"

    token_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    account_name: Mapped[str] = mapped_column(ForeignKey("accounts.name"), index=True)
    csrf_token: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    issuer: Mapped[str | None] = mapped_column(String(255))  # the identity provider that vouched, if one did

    account: Mapped[AccountRow] = relationship(lazy="raise", viewonly=True)


class ThrottleRow(Tables):
    """Failed logins under one name, also a name that has no account."""

    __tablename__ = "throttles"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    failures: Mapped[int]
    retry_at: Mapped[datetime]


class SetupRow(Tables):
    """A one-time token, printed on the console, that makes the first administrator."""

    __tablename__ = "setups"

    token_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    expires_at: Mapped[datetime]


class CheckpointRow(Tables):
    """A signed statement of where every chain of events stood."""

    __tablename__ = "checkpoints"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    at: Mapped[datetime]
    events: Mapped[int] = mapped_column(BigInteger)
    root: Mapped[str] = mapped_column(String(64))
    document: Mapped[dict[str, Any]]


class DriftProgressRow(Tables):
    """Up to which audit a policy's films have been taken into blocks."""

    __tablename__ = "drift_progress"

    policy_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    after_at: Mapped[datetime]
    after_id: Mapped[str] = mapped_column(String(32))


class DriftBlockRow(Tables):
    """Consecutive films of one source under one policy, and once there are enough, whether the policy fits them."""

    __tablename__ = "drift_blocks"

    policy_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    source: Mapped[str] = mapped_column(String(64), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    from_at: Mapped[datetime]
    to_at: Mapped[datetime]
    scores: Mapped[list[float]]
    distances: Mapped[list[float]]
    p_values: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))  # None until the block is full
    alarms: Mapped[list[str]]


class PruningRow(Tables):
    """A signed statement about the oldest part of one chain, which was removed; only with it can events be deleted."""

    __tablename__ = "prunings"

    writer: Mapped[str] = mapped_column(String(32), primary_key=True)
    last_sequence: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    document: Mapped[dict[str, Any]]
