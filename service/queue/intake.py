"""Taking a film in: decoded first, its original stored, its job committed as queued, and only then acknowledged."""

import hashlib
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from service.desk import comparison
from service.errors import TriggerscopeError
from service.films.radiograph import Radiograph
from service.records import queries
from service.records.chain import canonical
from service.records.session import Database, Unit, utc_now
from service.records.storage import Storage
from service.records.tables import NOT_DECODED, FilmRow, IdempotencyRow, JobRow
from service.registry.registry import Choice, choose


class QueueFull(TriggerscopeError):
    code = "queue_full"


class IdempotencyKeyReused(TriggerscopeError):
    """The same Idempotency-Key came with another film, classifier or policy."""

    code = "idempotency_key_reused"


@dataclass(frozen=True, slots=True)
class Submission:
    """Received bytes and what the caller asks for. `source` says where films come from, not which film it is."""

    data: bytes
    sha256: str
    source: str
    actor: str
    classifier: str | None = None
    policy: str | None = None
    idempotency_key: str | None = None
    deployed: dict[str, float] | None = None  # the deployed classifier's own probabilities

    @property
    def fingerprint(self) -> str:
        """Of what the caller sent, so that a repeat is the same request also after an activation."""
        answer = canonical(self.deployed).decode() if self.deployed else ""
        parts = (self.sha256, self.classifier or "", self.policy or "", *filter(None, (answer,)))
        return hashlib.sha256("/".join(parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Accepted:
    job_id: str
    is_new: bool


@dataclass(frozen=True, slots=True)
class FilmFacts:
    """What the record says of a film; of one that is not decoded yet, what its header says."""

    width: int
    height: int
    attributes: dict[str, str]
    pixels_sha256: str = NOT_DECODED


@dataclass(frozen=True, slots=True)
class Decoded:
    radiograph: Radiograph
    decode_ms: float


def decode_timed(decode: Callable[[bytes], Radiograph], data: bytes) -> Decoded:
    started = time.perf_counter()
    radiograph = decode(data)
    return Decoded(radiograph, 1000.0 * (time.perf_counter() - started))


class DecodedFilms:
    """The films decoded last, so that an embedded worker need not decode them again."""

    def __init__(self, max_bytes: int = 256 * 1024 * 1024) -> None:
        self._max_bytes = max_bytes
        self._films: OrderedDict[str, Decoded] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, decoded: Decoded) -> None:
        with self._lock:
            self._films[decoded.radiograph.sha256] = decoded
            while sum(film.radiograph.pixels.nbytes for film in self._films.values()) > self._max_bytes:
                self._films.popitem(last=False)

    def take(self, sha256: str) -> Decoded | None:
        with self._lock:
            return self._films.pop(sha256, None)


@dataclass(frozen=True, slots=True)
class Intake:
    database: Database
    storage: Storage
    decode: Callable[[bytes], Radiograph]
    decoded: DecodedFilms
    retention: timedelta
    max_queue_depth: int
    tolerance: float  # between the deployed classifier's probabilities and ours

    def submit(self, submission: Submission) -> Accepted:
        """The audit that these bytes, classifier and policy already have, or a newly queued one."""
        with self.database.read() as session:
            choice = choose(session, submission.classifier, submission.policy)
            job = _job_of_idempotency_key(session, submission) or _job_of_choice(session, submission, choice)
            is_known = job is not None and job.state != "failed"
            if not is_known and queries.queue_depth(session) >= self.max_queue_depth:
                raise QueueFull("too many films are waiting")
        if job is not None and is_known:
            self._compare_known(submission, job.id)
            return Accepted(job.id, is_new=False)
        decoded = decode_timed(self.decode, submission.data)
        self.decoded.put(decoded)
        return self._accept(submission, choice, decoded.radiograph)

    def _accept(self, submission: Submission, choice: Choice, radiograph: Radiograph) -> Accepted:
        """Acknowledges nothing before original and job are on disk."""
        self.storage.put_original(submission.sha256, submission.data)
        now = utc_now()
        with self.database.write() as unit:
            facts = FilmFacts(
                radiograph.width, radiograph.height, dict(radiograph.attributes), radiograph.pixels_sha256
            )
            keep_film(unit, submission, facts, now, now + self.retention)
            accepted = queue_job(unit, submission, choice, now)
            if submission.deployed:
                comparison.keep(unit, accepted.job_id, submission.deployed, submission.actor, self.tolerance)
            _keep_idempotency_key(unit, submission, accepted.job_id, now)
        # A sweep that ran before this commit may have removed an expired original; none that runs after it will.
        self.storage.put_original(submission.sha256, submission.data)
        return accepted

    def _compare_known(self, submission: Submission, job_id: str) -> None:
        if submission.deployed:
            with self.database.write() as unit:
                comparison.keep(unit, job_id, submission.deployed, submission.actor, self.tolerance)


def keep_film(unit: Unit, submission: Submission, facts: FilmFacts, now: datetime, expires_at: datetime) -> None:
    row = FilmRow(
        sha256=submission.sha256,
        pixels_sha256=facts.pixels_sha256,
        byte_count=len(submission.data),
        width=facts.width,
        height=facts.height,
        attributes=facts.attributes,
        received_at=now,
        source=submission.source,
        actor=submission.actor,
        original_expires_at=expires_at,
    )
    if not queries.insert_unless_present(unit.session, row):
        queries.extend_original(unit.session, submission.sha256, expires_at)


def queue_job(unit: Unit, submission: Submission, choice: Choice, now: datetime, rule: str | None = None) -> Accepted:
    row = JobRow(
        id=secrets.token_hex(16),
        film_sha256=submission.sha256,
        classifier_sha256=choice.classifier_sha256,
        classifier_name=choice.classifier_name,
        policy_sha256=choice.policy_sha256,
        state="queued",
        attempts=0,
        received_at=now,
        source=submission.source,
        actor=submission.actor,
        rule=rule,
    )
    if not queries.insert_unless_present(unit.session, row):
        return _requeue_if_failed(unit, submission, choice)
    unit.record(
        "film.received",
        row.id,
        submission.actor,
        film_sha256=submission.sha256,
        source=submission.source,
        classifier_sha256=choice.classifier_sha256,
        policy_sha256=choice.policy_sha256,
    )
    return Accepted(row.id, is_new=True)


def _requeue_if_failed(unit: Unit, submission: Submission, choice: Choice) -> Accepted:
    job = _job_of_choice(unit.session, submission, choice)
    if job is None:
        raise LookupError("a job that could not be inserted is not there either")
    revived = queries.revive_job(unit.session, job.id)
    if revived:
        unit.record("audit.requeued", job.id, submission.actor)
    return Accepted(job.id, is_new=revived)


def _job_of_choice(session: Session, submission: Submission, choice: Choice) -> JobRow | None:
    return queries.job_for(session, submission.sha256, choice.classifier_sha256, choice.policy_sha256)


def _job_of_idempotency_key(session: Session, submission: Submission) -> JobRow | None:
    if submission.idempotency_key is None:
        return None
    row = queries.idempotency_key(session, submission.actor, submission.idempotency_key)
    if row is None:
        return None
    if row.fingerprint != submission.fingerprint:
        raise IdempotencyKeyReused("this Idempotency-Key came with another request before")
    return queries.job(session, row.job_id)


def _keep_idempotency_key(unit: Unit, submission: Submission, job_id: str, now: datetime) -> None:
    if submission.idempotency_key is None:
        return
    row = IdempotencyRow(
        actor=submission.actor,
        key=submission.idempotency_key,
        fingerprint=submission.fingerprint,
        job_id=job_id,
        created_at=now,
    )
    if not queries.insert_unless_present(unit.session, row):
        _job_of_idempotency_key(unit.session, submission)
