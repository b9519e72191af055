"""The queue's other end: leases jobs, audits them in threads, and has the outcome recorded."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial

from service.audit import pipeline
from service.audit.verdict import Audit
from service.desk import watch_list
from service.desk.watch_list import Hit
from service.errors import TriggerscopeError
from service.films.radiograph import Radiograph
from service.loops import Loop
from service.queue.leases import Leases
from service.queue.record import Outcome, Recorder, no_deliveries
from service.queue.sweep import sweep
from service.queue.uploads import DecodedFilms, decode_timed
from service.records.session import Database, Unit
from service.records.storage import Storage
from service.records.stored_evidence import StoredEvidence
from service.records.tables import JobRow
from service.registry.blocks import watch
from service.registry.registry import Registry


class AttemptsExhausted(TriggerscopeError):
    """The job was started as often as is allowed and its worker never came back."""

    code = "attempts_exhausted"


@dataclass(frozen=True, slots=True)
class Pace:
    threads: int = 2
    lease_seconds: float = 30.0
    max_attempts: int = 3
    poll_seconds: float = 0.5
    sweep_seconds: float = 300.0


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
        self._database, self._storage, self._registry = database, storage, registry
        self._evidence = StoredEvidence(database, storage)
        self._decode, self._pace, self._decoded, self._on_outcome = decode, pace, decoded, on_outcome
        self._leases = Leases(database, pace.lease_seconds)
        self._recorder = Recorder(
            database=database, owner=self._leases.owner, max_attempts=pace.max_attempts, deliveries=deliveries
        )
        self._stop, self._wake = threading.Event(), threading.Event()
        self._running: dict[Future[Outcome | None], JobRow] = {}
        self.loop, self._sweeping, self._drifting = Loop("worker"), Loop("sweep"), Loop("drift")
        self._swept_at = 0.0

    @property
    def owner(self) -> str:
        return self._leases.owner

    @property
    def loops(self) -> tuple[Loop, ...]:
        return self.loop, self._sweeping, self._drifting

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
        self._leases.release()

    def _turn(self, pool: ThreadPoolExecutor) -> bool:
        self._wake.clear()
        self._collect()
        if self._running:
            self._leases.renew()
        self._sweep()
        free = 2 * self._pace.threads - len(self._running)
        for job in self._leases.claim(free) if free > 0 else []:
            future = pool.submit(self._work, job)
            self._running[future] = job
            future.add_done_callback(lambda _: self._wake.set())
        self._wake.wait(self._pace.poll_seconds)
        return True

    def _collect(self) -> None:
        done, _ = wait(self._running, timeout=0, return_when=FIRST_COMPLETED)
        for future in done:
            job = self._running.pop(future)
            error = future.exception()
            outcome = future.result() if error is None else self._recorder.failure(job, error)
            if outcome is not None:
                self._on_outcome(outcome)

    def _work(self, job: JobRow) -> Outcome | None:
        if job.attempts > self._pace.max_attempts:  # its worker was killed again and again
            raise AttemptsExhausted("the job's worker died too often")
        radiograph, audit, hit = self._audit(job)
        kept = {
            "pixels": self._storage.put_pixels(radiograph.pixels_sha256, radiograph.pixels),
            "maps": self._storage.put_maps(audit.maps),
        }
        return self._recorder.verdict(job, audit, radiograph, hit, kept)

    def _audit(self, job: JobRow) -> tuple[Radiograph, Audit, Hit | None]:
        classifier = self._registry.classifier(job.classifier_sha256)
        policy = self._registry.policy(job.policy_sha256)
        decoded = self._decoded.take(job.film_sha256) or decode_timed(self._decode, self._evidence.original(job))
        hit = watch_list.check(self._database, decoded.radiograph, classifier)
        audit = pipeline.audit_radiograph(decoded.radiograph, classifier, policy, decode_ms=decoded.decode_ms)
        return decoded.radiograph, audit, hit

    def _sweep(self) -> None:
        if self._swept_at and time.monotonic() - self._swept_at < self._pace.sweep_seconds:
            return
        self._swept_at = time.monotonic()
        self._sweeping.attempt(partial(sweep, self._database, self._storage))
        self._drifting.attempt(partial(watch, self._database, self._registry))
