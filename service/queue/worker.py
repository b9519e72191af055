"""The queue's other end: leases jobs, audits, and records verdict, job state and event in one transaction."""

import os
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import partial

import structlog

from service import __version__
from service.audit import pipeline
from service.audit.verdict import Audit
from service.desk import comparison, watch_list
from service.desk.review import open_review
from service.desk.watch_list import Hit
from service.errors import DecodeFailed, RadiographError, TriggerscopeError
from service.films.radiograph import Radiograph
from service.loops import Loop
from service.queue.uploads import DecodedFilms, decode_timed
from service.records import pacs_queries, queries
from service.records.chain import record_hash, review_hash
from service.records.session import Database, Unit, utc_now
from service.records.storage import Storage
from service.records.tables import NO_POLICY, NO_RULE, AuditRow, JobRow
from service.registry.blocks import watch
from service.registry.registry import Registry

ACTOR = "worker"
ORPHAN_SECONDS = 3600.0
SWEEP_BATCH = 500
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Pace:
    threads: int = 2
    lease_seconds: float = 30.0
    max_attempts: int = 3
    poll_seconds: float = 0.5
    sweep_seconds: float = 300.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one job: a verdict, or the code of the error that ended it."""

    job_id: str
    classifier_name: str
    verdict: str | None = None
    error_code: str | None = None
    timings_ms: dict[str, float] | None = None


def no_deliveries(_unit: Unit, _job: JobRow) -> None:
    """Results stay here."""


class Worker:
    """N threads over one queue. At least once: the unique constraint and the lease make one verdict of it."""

    def __init__(
        self,
        *,
        database: Database,
        storage: Storage,
        registry: Registry,
        decode: Callable[[bytes], Radiograph],
        pace: Pace,
        decoded: DecodedFilms,
        on_outcome: Callable[[Outcome], None],
        deliveries: Callable[[Unit, JobRow], None] = no_deliveries,
    ) -> None:
        self.owner = f"{os.getpid()}-{secrets.token_hex(8)}"
        self._database, self._storage, self._registry = database, storage, registry
        self._decode, self._pace, self._decoded, self._on_outcome = decode, pace, decoded, on_outcome
        self._deliveries = deliveries
        self._stop, self._wake = threading.Event(), threading.Event()
        self._running: dict[Future[Outcome | None], JobRow] = {}
        self.loop, self._sweeping, self._drifting = Loop("worker"), Loop("sweep"), Loop("drift")
        self._renewed_at = self._swept_at = 0.0

    def wake(self) -> None:
        """Look at the queue now instead of at the next poll."""
        self._wake.set()

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()

    def run(self) -> None:
        """Work until `stop`; then finish what runs and hand the rest back."""
        with ThreadPoolExecutor(self._pace.threads, thread_name_prefix="audit") as pool:
            self.loop.run(partial(self._turn, pool), self._stop, self._pace.poll_seconds)
            wait(self._running)
            self._collect()
        with self._database.write() as unit:
            queries.release_leases(unit.session, self.owner)

    @property
    def loops(self) -> tuple[Loop, ...]:
        return self.loop, self._sweeping, self._drifting

    def _turn(self, pool: ThreadPoolExecutor) -> bool:
        self._wake.clear()
        self._collect()
        self._renew()
        self._sweep()
        free = 2 * self._pace.threads - len(self._running)
        for job in self._claim(free) if free > 0 else []:
            future = pool.submit(self._work, job)
            self._running[future] = job
            future.add_done_callback(lambda _: self._wake.set())
        self._wake.wait(self._pace.poll_seconds)
        return True

    def _claim(self, limit: int) -> list[JobRow]:
        with self._database.read() as session:
            if not queries.has_claimable(session, utc_now()):
                return []
        with self._database.write() as unit:
            now = utc_now()
            queries.requeue_expired(unit.session, now)
            return list(queries.claim(unit.session, self.owner, now + self._lease, limit))

    def _renew(self) -> None:
        if self._running and time.monotonic() - self._renewed_at > self._pace.lease_seconds / 3:
            with self._database.write() as unit:
                queries.renew_leases(unit.session, self.owner, utc_now() + self._lease)
            self._renewed_at = time.monotonic()

    def _collect(self) -> None:
        done, _ = wait(self._running, timeout=0, return_when=FIRST_COMPLETED)
        for future in done:
            job = self._running.pop(future)
            error = future.exception()
            outcome = future.result() if error is None else self._fail(job, error)
            if outcome is not None:
                self._on_outcome(outcome)

    def _work(self, job: JobRow) -> Outcome | None:
        if job.attempts > self._pace.max_attempts:  # its worker was killed again and again
            raise AttemptsExhausted("the job's worker died too often")
        radiograph, audit, hit = self._audit(job)
        if hit:
            audit = replace(audit, reasons=(hit.words, *audit.reasons))
        if job.rule == NO_RULE:
            audit = replace(audit, reasons=("no routing rule fits this film", *audit.reasons))
        self._storage.put_pixels(radiograph.pixels_sha256, radiograph.pixels)
        self._storage.put_maps(job.id, audit.maps)
        return self._record(job, audit, radiograph, hit)

    def _audit(self, job: JobRow) -> tuple[Radiograph, Audit, Hit | None]:
        classifier = self._registry.classifier(job.classifier_sha256)
        policy = self._registry.policy(job.policy_sha256)
        decoded = self._decoded.take(job.film_sha256) or decode_timed(
            self._decode, self._storage.original(job.film_sha256)
        )
        hit = watch_list.check(self._database, decoded.radiograph, classifier)
        audit = pipeline.audit_radiograph(decoded.radiograph, classifier, policy, decode_ms=decoded.decode_ms)
        return decoded.radiograph, audit, hit

    def _record(self, job: JobRow, audit: Audit, film: Radiograph, hit: Hit | None) -> Outcome | None:
        """None when the lease went to another worker meanwhile: its verdict counts, not this one."""
        with self._database.write() as unit:
            if not queries.finish_job(unit.session, job.id, self.owner):
                return None
            queries.describe_film(
                unit.session, film.sha256, film.pixels_sha256, film.width, film.height, film.attributes
            )
            row = audit_row(job, audit, hit)
            unit.session.add(row)
            self._deliveries(unit, job)
            review = open_review(unit, job, row, ACTOR)
            comparison.settle(unit, row)
            hashes = {"record_sha256": record_hash(row), "review_sha256": review_hash(review)}
            unit.record("audit.completed", job.id, ACTOR, verdict=audit.verdict, **hashes)
        log.info("audit.completed", audit=job.id, verdict=audit.verdict)
        return Outcome(job.id, job.classifier_name, verdict=audit.verdict, timings_ms=dict(audit.timings_ms))

    def _fail(self, job: JobRow, error: BaseException) -> Outcome | None:
        code, detail = _reason(error)
        log.error(
            "audit.attempt_failed",
            audit=job.id,
            attempt=job.attempts,
            code=code,
            detail=detail,
            error=type(error).__name__,
        )
        with self._database.write() as unit:
            if job.attempts < self._pace.max_attempts and not _is_final(error):
                queries.retry_job(unit.session, job.id, self.owner)
                return None
            if not queries.fail_job(unit.session, job.id, self.owner, code, detail):
                return None
            unit.record("audit.failed", job.id, ACTOR, code=code, detail=detail, attempts=job.attempts)
        return Outcome(job.id, job.classifier_name, error_code=code)

    def _sweep(self) -> None:
        if self._swept_at and time.monotonic() - self._swept_at < self._pace.sweep_seconds:
            return
        self._swept_at = time.monotonic()
        self._sweeping.attempt(partial(sweep, self._database, self._storage))
        self._drifting.attempt(partial(watch, self._database, self._registry))

    @property
    def _lease(self) -> timedelta:
        return timedelta(seconds=self._pace.lease_seconds)


def _reason(error: BaseException) -> tuple[str, str]:
    """Code and sentence; of an error that nobody foresaw only its kind, for its own words may quote the film."""
    if isinstance(error, TriggerscopeError):
        return error.code, error.detail
    return TriggerscopeError.code, f"an error that was not foreseen ({type(error).__name__})"


def _is_final(error: BaseException) -> bool:
    """Whether another attempt would end the same; a decoder may also have run out of time or memory."""
    return isinstance(error, RadiographError) and not isinstance(error, DecodeFailed)


class AttemptsExhausted(TriggerscopeError):
    """The job was started as often as is allowed and its worker never came back."""

    code = "attempts_exhausted"


def sweep(database: Database, storage: Storage) -> None:
    """Remove originals past their time, files that a killed process left, and old Idempotency-Keys."""
    storage.sweep_partials(ORPHAN_SECONDS)
    _remove_orphans(database, storage)
    with database.write() as unit:
        now = utc_now()
        queries.forget_idempotency_keys(unit.session, now - timedelta(hours=24))
        for film in queries.films_with_expired_original(unit.session, now, SWEEP_BATCH):
            storage.remove_original(film.sha256)
            film.original_expires_at = None
            unit.record("film.original_removed", film.sha256, ACTOR)
        pacs_queries.forget_expired_identities(unit.session, now)


def audit_row(job: JobRow, audit: Audit, hit: Hit | None) -> AuditRow:
    return AuditRow(
        id=job.id,
        film_sha256=job.film_sha256,
        pixels_sha256=audit.pixels_sha256,
        classifier_name=audit.classifier_name,
        classifier_sha256=audit.classifier_sha256,
        preprocessing_sha256=audit.preprocessing_sha256,
        policy_name=audit.policy_name,
        policy_sha256=audit.policy_sha256 or NO_POLICY,
        verdict=audit.verdict,
        score=audit.score,
        p_value=audit.p_value,
        probabilities=dict(audit.probabilities),
        explained_label=audit.explained_label,
        hypothesis=audit.hypothesis,
        evidence={name: asdict(measurement) for name, measurement in audit.evidence.items()},
        region=asdict(audit.region) if audit.region else None,
        reasons=list(audit.reasons),
        timings_ms=dict(audit.timings_ms),
        code_version=__version__,
        received_at=job.received_at,
        completed_at=utc_now(),
        watch_hit=hit.record() if hit else None,
    )


def _remove_orphans(database: Database, storage: Storage) -> None:
    """Originals whose intake was killed before its commit."""
    found = list(storage.originals_older_than(ORPHAN_SECONDS))
    for start in range(0, len(found), SWEEP_BATCH):
        batch = found[start : start + SWEEP_BATCH]
        with database.read() as session:
            known = queries.known_films(session, batch)
        for sha256 in set(batch) - known:
            storage.remove_original(sha256)
