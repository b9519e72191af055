import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select

from service.app import limits, open_database, open_registry, open_uploads, open_worker
from service.queue.intake import QueueFull, Submission
from service.queue.record import Outcome
from service.queue.sweep import sweep
from service.queue.worker import Worker
from service.records import queries
from service.records.session import Database, utc_now
from service.records.storage import EvidenceChanged, Kept, Storage
from service.records.stored_evidence import StoredEvidence
from service.records.tables import AuditRow, EventRow, JobRow
from service.settings import Settings
from tests.service.serving import png


class Bench:
    """A worker and an intake on one database, without HTTP."""

    def __init__(self, stack: ExitStack, settings: Settings) -> None:
        self.settings = settings
        self.outcomes: list[Outcome] = []
        self.database: Database = stack.enter_context(open_database(settings))
        registry = open_registry(settings, self.database)
        registry.synchronise()
        self.worker, self.storage, self.decode, decoded, _outbox = stack.enter_context(
            open_worker(settings, self.database, registry, self.outcomes.append)
        )
        self.uploads = open_uploads(settings, self.database, self.decode, decoded)

    def submit(self, seed: int) -> str:
        data = png(seed)
        digest = hashlib.sha256(data).hexdigest()
        return self.uploads.submit(Submission(data, digest, "test", "test")).job_id

    def job(self, job_id: str) -> JobRow:
        with self.database.read() as session:
            found = queries.job(session, job_id)
        assert found is not None
        return found

    def work_until(self, condition: Callable[[], bool]) -> None:
        with working(self.worker):
            until = time.monotonic() + 60
            while not condition():
                assert time.monotonic() < until
                time.sleep(0.01)


@contextmanager
def working(worker: Worker) -> Iterator[None]:
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield
    finally:
        worker.stop()
        thread.join()


@pytest.fixture
def settings(tmp_path: Path, models_dir: Path, empty_database_url: str) -> Settings:
    return Settings(
        data_dir=tmp_path / "data",
        models_dir=models_dir,
        database_url=empty_database_url,
        auto_upgrade=True,
        poll_seconds=0.02,
        decoders=1,
        max_queue_depth=3,
    )


@pytest.fixture
def bench(settings: Settings) -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(stack, settings)


def test_verdict_job_and_event_come_together(bench: Bench) -> None:
    job_id = bench.submit(1)
    bench.work_until(lambda: bool(bench.outcomes))
    job = bench.job(job_id)
    assert job.state == "done"
    assert job.audit is not None
    assert bench.outcomes[0].verdict == job.audit.verdict
    with bench.database.read() as session:
        kinds = [event.kind for event in queries.events_about(session, job_id)]
    assert kinds == ["film.received", "audit.completed"]
    evidence = StoredEvidence(bench.database, bench.storage)
    assert evidence.pixels(job.audit).shape == (224, 224)
    assert any(name.startswith("layercam_") for name in evidence.maps(job.audit))
    assert evidence.original(job) == png(1)


def test_the_same_film_is_audited_once(bench: Bench) -> None:
    assert bench.submit(1) == bench.submit(1)
    bench.work_until(lambda: bool(bench.outcomes))
    bench.submit(1)
    with bench.database.read() as session:
        assert session.scalar(select(func.count()).select_from(AuditRow)) == 1


def test_a_full_queue_refuses(bench: Bench) -> None:
    for seed in range(3):
        bench.submit(seed)
    with pytest.raises(QueueFull):
        bench.submit(3)
    assert bench.submit(0)  # what is known costs nothing


def test_a_job_that_keeps_failing_ends_as_failed_and_can_be_sent_again(bench: Bench) -> None:
    job_id = bench.submit(1)
    film = bench.job(job_id).film_sha256
    bench.worker._decoded.take(film)
    bench.storage.remove_original(film)
    bench.work_until(lambda: bool(bench.outcomes))
    job = bench.job(job_id)
    assert (job.state, job.error_code, job.attempts) == ("failed", "not_stored", bench.settings.max_attempts)
    assert bench.submit(1) == job_id
    assert bench.job(job_id).state == "queued"


def test_a_changed_original_is_not_audited_until_the_film_comes_again(bench: Bench) -> None:
    job_id = bench.submit(1)
    film = bench.job(job_id).film_sha256
    bench.worker._decoded.take(film)
    bench.storage.original_path(film).write_bytes(png(2))
    bench.work_until(lambda: bool(bench.outcomes))
    job = bench.job(job_id)
    assert (job.state, job.error_code, job.attempts) == ("failed", "evidence_changed", 1)
    assert bench.submit(1) == job_id
    assert bench.job(job_id).state == "queued"
    assert StoredEvidence(bench.database, bench.storage).original(bench.job(job_id)) == png(1)


def test_the_log_names_every_file_of_an_audit(bench: Bench) -> None:
    job_id = bench.submit(1)
    bench.work_until(lambda: bool(bench.outcomes))
    job = bench.job(job_id)
    assert job.audit is not None
    with bench.database.read() as session:
        [told] = [event.payload for event in queries.events_about(session, job_id) if event.kind == "audit.completed"]
    original = {"sha256": job.film_sha256, "byte_count": len(png(1))}
    assert told["files"] == {"original": original, **(job.audit.files or {})}
    stored = [
        path.read_bytes()
        for folder in (bench.storage.originals, bench.storage.pixels, bench.storage.maps)
        for path in folder.glob("*/*")
    ]
    assert {Kept.of(data).sha256 for data in stored} == {file["sha256"] for file in told["files"].values()}


def test_changed_pixels_are_told_once_by_all_who_read_them(bench: Bench) -> None:
    """At once, as a page asks for its pictures, and by two processes."""
    job_id = bench.submit(1)
    bench.work_until(lambda: bool(bench.outcomes))
    row = bench.job(job_id).audit
    assert row is not None
    bench.storage.pixels_path(row.pixels_sha256).write_bytes(b"another")

    def refused(evidence: StoredEvidence) -> bool:
        with pytest.raises(EvidenceChanged):
            evidence.pixels(row)
        return True

    other = Database(bench.settings.database_url or "")
    with ThreadPoolExecutor(6) as readers:
        both = [StoredEvidence(database, bench.storage) for database in (bench.database, other)]
        assert all(readers.map(refused, both * 3))
    other.close()
    with bench.database.read() as session:
        kinds = [event.kind for event in queries.events_about(session, job_id)]
    assert kinds.count("evidence.changed") == 1


def test_a_worker_that_went_silent_loses_its_job(bench: Bench) -> None:
    job_id = bench.submit(1)
    with bench.database.write() as unit:
        queries.claim(unit.session, "killed", utc_now() - timedelta(seconds=1), 1)
    bench.work_until(lambda: bool(bench.outcomes))
    assert (bench.job(job_id).state, bench.job(job_id).attempts) == ("done", 2)


def test_a_job_whose_workers_all_died_ends_as_failed(bench: Bench) -> None:
    job_id = bench.submit(1)
    for _ in range(bench.settings.max_attempts):
        with bench.database.write() as unit:
            queries.claim(unit.session, "killed", utc_now() - timedelta(seconds=1), 1)
            queries.requeue_expired(unit.session, utc_now())
    bench.work_until(lambda: bool(bench.outcomes))
    assert (bench.job(job_id).state, bench.job(job_id).error_code) == ("failed", "attempts_exhausted")


def test_many_threads_and_two_workers_give_one_verdict_each(bench: Bench, settings: Settings) -> None:
    with ExitStack() as stack:
        other = Bench(stack, settings)
        ids = [bench.submit(seed) for seed in range(3)]
        with working(other.worker):
            bench.work_until(lambda: len(bench.outcomes) + len(other.outcomes) == len(ids))
    with bench.database.read() as session:
        assert session.scalar(select(func.count()).select_from(AuditRow)) == len(ids)
        completed = select(func.count()).select_from(EventRow).where(EventRow.kind == "audit.completed")
        assert session.scalar(completed) == len(ids)


def test_originals_go_when_their_time_is_over(bench: Bench) -> None:
    job_id = bench.submit(1)
    bench.work_until(lambda: bool(bench.outcomes))
    film = bench.job(job_id).film_sha256
    with bench.database.write() as unit:
        queries.extend_original(unit.session, film, utc_now() - timedelta(seconds=1))
    sweep(bench.database, bench.storage)
    assert bench.job(job_id).film.original_expires_at is None
    assert list(Storage(bench.settings.data_dir).originals_older_than(-10)) == []
    with bench.database.read() as session:
        assert [event.kind for event in queries.events_about(session, film)] == ["film.original_removed"]


def test_limits_come_from_the_settings(settings: Settings) -> None:
    assert limits(settings).max_pixels == settings.max_pixels
