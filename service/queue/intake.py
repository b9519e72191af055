"""The one way in: a film's original stored and its job committed as queued, and only then acknowledged.

Who comes by REST has the film decoded first (uploads.py), who comes from a PACS its header read (pacs/acceptance.py);
both end here.
"""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from service.errors import TriggerscopeError
from service.records import queries
from service.records.chain import canonical
from service.records.session import Database, Unit, utc_now
from service.records.storage import Storage
from service.records.tables import NAMED, NOT_DECODED, FilmRow, IdempotencyRow, JobRow
from service.registry.registry import Choice, choose


class QueueFull(TriggerscopeError):
    code = "queue_full"


class IdempotencyKeyReused(TriggerscopeError):
    """The same Idempotency-Key came with another film, classifier or policy."""

    code = "idempotency_key_reused"


class ChoiceForbidden(TriggerscopeError):
    """A classifier or policy was named that is not in force, by somebody who may not choose."""

    code = "choice_forbidden"


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
    rule: str | None = None  # the routing rule that chose; NO_RULE where none fitted
    may_choose: bool = False  # whether the caller may name what is not in force

    @property
    def fingerprint(self) -> str:
        """Of what the caller sent, so that a repeat is the same request also after an activation."""
        answer = canonical(self.deployed).decode() if self.deployed else ""
        parts = (self.sha256, self.classifier or "", self.policy or "", *filter(None, (answer,)))
        return hashlib.sha256("/".join(parts).encode()).hexdigest()

    def chosen(self, session: Session) -> Choice:
        """The classifier and policy that the caller names, or those in force. Raises ChoiceForbidden too."""
        choice = choose(session, self.classifier, self.policy)
        if choice.chosen_by == NAMED and not self.may_choose:
            raise ChoiceForbidden(
                "the classifier or policy named is not the one in force for this film; to name another needs the scope "
                "audits:choose"
            )
        return choice


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


Choose = Callable[[Session], Choice]
Also = Callable[[Unit, Accepted], None]


def nothing(_unit: Unit, _accepted: Accepted) -> None:
    """Nothing else belongs to this acceptance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """retention: how long an original stays after it came last. max_queue_depth: jobs that may wait."""

    database: Database
    storage: Storage
    retention: timedelta
    max_queue_depth: int

    def accept(
        self, submission: Submission, choose: Choose, facts: Callable[[], FilmFacts], also: Also = nothing
    ) -> Accepted:
        """Queue one film, or find the audit that it already has with this classifier and policy.

        facts: asked for only where the film has no such audit yet, or one that failed; may raise RadiographError.
        also: what else belongs to the transaction. Acknowledges nothing before original and job are on disk; a film
        whose audit failed takes a place in the queue again, so it needs room there like a new one.
        Raises QueueFull, IdempotencyKeyReused, OSError, SQLAlchemyError and what `choose` raises.
        """
        with self.database.read() as session:
            choice = choose(session)
            job = _job_of_idempotency_key(session, submission) or _job_of_choice(session, submission, choice)
            known = None if job is None or job.state == "failed" else job
            if known is None and self._is_full(session, choice.classifier_sha256):
                raise QueueFull("too many films are waiting")
        found = known or facts()
        self.storage.put_original(submission.sha256, submission.data)
        now = utc_now()
        until = now + self.retention
        with self.database.write() as unit:
            if isinstance(found, JobRow):
                queries.extend_original(unit.session, submission.sha256, until)
                _choose_again(unit, found.id, choice, submission.actor)
                accepted = Accepted(found.id, is_new=False)
            else:
                _keep_film(unit, submission, found, now, until)
                accepted = _queue(unit, submission, choice, now)
            also(unit, accepted)
            _keep_idempotency_key(unit, submission, accepted.job_id, now)
        # A sweep that ran before this commit may have removed an expired original; none that runs after it will.
        if not self.storage.original_path(submission.sha256).exists():
            self.storage.put_original(submission.sha256, submission.data)
        return accepted

    def _is_full(self, session: Session, classifier_sha256: str) -> bool:
        return queries.queue_depth_beside(session, classifier_sha256) >= self.max_queue_depth


def _keep_film(unit: Unit, submission: Submission, facts: FilmFacts, now: datetime, until: datetime) -> None:
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
        original_expires_at=until,
    )
    if not queries.insert_unless_present(unit.session, row):
        queries.extend_original(unit.session, submission.sha256, until)


def _queue(unit: Unit, submission: Submission, choice: Choice, now: datetime) -> Accepted:
    job = JobRow(
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
        rule=submission.rule,
        chosen_by=choice.chosen_by,
    )
    if not queries.insert_unless_present(unit.session, job):
        return _requeue_if_failed(unit, submission, choice)
    unit.record(
        "film.received",
        job.id,
        submission.actor,
        film_sha256=submission.sha256,
        source=submission.source,
        classifier_sha256=choice.classifier_sha256,
        policy_sha256=choice.policy_sha256,
        chosen_by=choice.chosen_by,
    )
    return Accepted(job.id, is_new=True)


def _requeue_if_failed(unit: Unit, submission: Submission, choice: Choice) -> Accepted:
    job = _job_of_choice(unit.session, submission, choice)
    if job is None:
        raise LookupError("a job that could not be inserted is not there either")
    _choose_again(unit, job.id, choice, submission.actor)
    revived = queries.revive_job(unit.session, job.id)
    if revived:
        unit.record("audit.requeued", job.id, submission.actor)
    return Accepted(job.id, is_new=revived)


def _choose_again(unit: Unit, job_id: str, choice: Choice, actor: str) -> None:
    """What was named counts once it comes without a name; see `counts_towards_release`."""
    hashes = choice.classifier_sha256, choice.policy_sha256
    if queries.choose_again(unit.session, job_id, *hashes, choice.chosen_by):
        unit.record("audit.chosen_again", job_id, actor, chosen_by=choice.chosen_by)


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
