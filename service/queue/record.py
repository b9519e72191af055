"""What an attempt leaves: verdict, job state, review and event in one transaction, or the reason why there is none."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import structlog

from service import __version__
from service.audit.verdict import Audit
from service.desk import comparison, reasons
from service.desk.review import open_review
from service.desk.watch_list import Hit
from service.errors import DecodeFailed, RadiographError, TriggerscopeError
from service.films.radiograph import Radiograph
from service.records import queries
from service.records.chain import record_hash, review_hash
from service.records.session import Database, Unit, utc_now
from service.records.storage import EvidenceChanged, Kept
from service.records.tables import NO_POLICY, AuditRow, FilmRow, JobRow

ACTOR = "worker"
log = structlog.get_logger()


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorder:
    """owner: whose leases count. deliveries: plans the results that go back, in the verdict's transaction."""

    database: Database
    owner: str
    max_attempts: int
    deliveries: Callable[[Unit, JobRow], None] = no_deliveries

    def verdict(
        self, job: JobRow, audit: Audit, film: Radiograph, hit: Hit | None, kept: dict[str, Kept]
    ) -> Outcome | None:
        """kept: the files that were written, by name. None when the lease went to another worker meanwhile: its verdict
        counts, not this one."""
        with self.database.write() as unit:
            if not queries.finish_job(unit.session, job.id, self.owner):
                return None
            queries.describe_film(
                unit.session, film.sha256, film.pixels_sha256, film.width, film.height, film.attributes
            )
            row = audit_row(job, audit, hit, kept)
            unit.session.add(row)
            self.deliveries(unit, job)
            review = open_review(unit, job, row, ACTOR)
            comparison.settle(unit, row)
            hashes = {"record_sha256": record_hash(row), "review_sha256": review_hash(review)}
            original = Kept(job.film_sha256, unit.session.get_one(FilmRow, job.film_sha256).byte_count)
            files = {"original": asdict(original), **(row.files or {})}
            unit.record("audit.completed", job.id, ACTOR, verdict=audit.verdict, **hashes, files=files)
        log.info("audit.completed", audit=job.id, verdict=audit.verdict)
        return Outcome(job.id, job.classifier_name, verdict=audit.verdict, timings_ms=dict(audit.timings_ms))

    def failure(self, job: JobRow, error: BaseException) -> Outcome | None:
        """None when the job is tried again, or went to another worker meanwhile."""
        code, detail = _reason(error)
        log.error(
            "audit.attempt_failed",
            audit=job.id,
            attempt=job.attempts,
            code=code,
            detail=detail,
            error=type(error).__name__,
        )
        with self.database.write() as unit:
            if job.attempts < self.max_attempts and not _is_final(error):
                queries.retry_job(unit.session, job.id, self.owner)
                return None
            if not queries.fail_job(unit.session, job.id, self.owner, code, detail):
                return None
            unit.record("audit.failed", job.id, ACTOR, code=code, detail=detail, attempts=job.attempts)
        return Outcome(job.id, job.classifier_name, error_code=code)


def _reason(error: BaseException) -> tuple[str, str]:
    """Code and sentence; of an error that nobody foresaw only its kind, for its own words may quote the film."""
    if isinstance(error, TriggerscopeError):
        return error.code, error.detail
    return TriggerscopeError.code, f"an error that was not foreseen ({type(error).__name__})"


def _is_final(error: BaseException) -> bool:
    """Whether another attempt would end the same; a decoder may also have run out of time or memory."""
    return isinstance(error, (RadiographError, EvidenceChanged)) and not isinstance(error, DecodeFailed)


def audit_row(job: JobRow, audit: Audit, hit: Hit | None, kept: dict[str, Kept]) -> AuditRow:
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
        reasons=reasons.recorded(audit, hit, job.rule),
        timings_ms=dict(audit.timings_ms),
        code_version=__version__,
        received_at=job.received_at,
        completed_at=utc_now(),
        watch_hit=hit.record() if hit else None,
        files={name: asdict(file) for name, file in kept.items()},
        fingerprint=audit.fingerprint,
    )
