"""Makes rows that the database tests need."""

from datetime import UTC, datetime, timedelta

from sqlalchemy.orm import Session

from service.graphs.protocol import EXAMINER_VERSION
from service.records.tables import AuditRow, ClassifierRow, FilmRow, JobRow

START = datetime(2026, 1, 1, tzinfo=UTC)


def sha(number: int) -> str:
    return f"{number:064x}"


def add_classifier(session: Session, number: int = 1, name: str = "small") -> None:
    row = ClassifierRow(sha256=sha(number), name=name, card={}, added_at=START, actor="test", examiner=EXAMINER_VERSION)
    session.add(row)
    session.flush()


def add_job(session: Session, number: int, *, seconds: float = 0.0, state: str = "queued", **changes: object) -> JobRow:
    received_at = START + timedelta(seconds=seconds)
    session.add(
        FilmRow(
            sha256=sha(number),
            pixels_sha256=sha(number),
            byte_count=1,
            width=2,
            height=3,
            attributes={"format": "png"},
            received_at=received_at,
            source="er",
            actor="test",
            original_expires_at=received_at + timedelta(hours=1),
        )
    )
    values: dict[str, object] = {
        "id": f"{number:032x}",
        "film_sha256": sha(number),
        "classifier_sha256": sha(1),
        "classifier_name": "small",
        "policy_sha256": "",
        "state": state,
        "attempts": 0,
        "received_at": received_at,
        "source": "er",
        "actor": "test",
    }
    job = JobRow(**(values | changes))
    session.flush()
    session.add(job)
    session.flush()
    return job


def add_audit(session: Session, job: JobRow, verdict: str = "unremarkable", **changes: object) -> AuditRow:
    job.state = "done"
    session.flush()
    values: dict[str, object] = {
        "id": job.id,
        "film_sha256": job.film_sha256,
        "pixels_sha256": job.film_sha256,
        "classifier_name": job.classifier_name,
        "classifier_sha256": job.classifier_sha256,
        "preprocessing_sha256": sha(9),
        "policy_name": None,
        "policy_sha256": job.policy_sha256,
        "verdict": verdict,
        "score": 1.5,
        "p_value": None,
        "probabilities": {"Mass": 0.25},
        "explained_label": "Mass",
        "evidence": {},
        "region": None,
        "reasons": ["none"],
        "timings_ms": {},
        "code_version": "0",
        "received_at": job.received_at,
        "completed_at": job.received_at,
    }
    audit = AuditRow(**(values | changes))
    session.add(audit)
    session.flush()
    return audit
