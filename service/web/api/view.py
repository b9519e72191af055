"""One audit as the API says it."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from service.desk import comparison, reasons
from service.records import queries
from service.records.tables import AuditRow, ComparisonRow, JobRow
from service.registry.examinations import waits_because
from service.web.api.schemas import (
    AuditReceipt,
    AuditResource,
    Deployed,
    Film,
    Links,
    Measurement,
    Named,
    Region,
    WatchHit,
)
from service.web.errors import RequestError


def find_job(session: Session, audit_id: str) -> JobRow:
    job = queries.job(session, audit_id)
    if job is None:
        raise RequestError("audit_not_found", "there is no audit of this id")
    return job


def finished(job: JobRow) -> AuditRow:
    if job.audit is None:
        raise RequestError("not_finished", f"its state is {job.state}")
    return job.audit


def audit_resource(job: JobRow) -> AuditResource:
    row, film = job.audit, job.film
    address = f"/v1/audits/{job.id}"
    return AuditResource.model_validate(
        {
            "id": job.id,
            "state": job.state,
            "source": job.source,
            "sha256": job.film_sha256,
            "received_at": job.received_at,
            "film": Film(
                pixels_sha256=film.pixels_sha256,
                bytes=film.byte_count,
                width=film.width,
                height=film.height,
                attributes=film.attributes,
            ),
            "classifier": Named(name=job.classifier_name, sha256=job.classifier_sha256),
            "policy": Named(name=job.policy.name, sha256=job.policy.sha256) if job.policy else None,
            "error_code": job.error_code,
            "error_detail": job.error_detail,
            "waits_because": waits_because(job.classifier) if job.state == "queued" else None,
            "links": Links(
                self=address,
                overlay=f"{address}/overlay.png" if row else None,
                radiograph=f"{address}/radiograph.png" if row else None,
            ),
            "deployed": _deployed(job),
            **_findings(row, job.comparisons),
        }
    )


def audit_receipt(job: JobRow) -> AuditReceipt:
    return AuditReceipt.model_validate({"id": job.id, "state": job.state, "links": {"self": f"/v1/audits/{job.id}"}})


def _deployed(job: JobRow) -> Deployed | None:
    row = comparison.worst(job.comparisons)
    if row is None:
        return None
    values = {name: getattr(row, name) for name in ("label", "deployed", "audited", "tolerance")}
    return Deployed(**values, mismatch=comparison.is_mismatch(row))


def _findings(row: AuditRow | None, comparisons: Sequence[ComparisonRow]) -> dict[str, Any]:
    names = (
        "verdict", "score", "p_value", "probabilities", "explained_label", "hypothesis", "reasons", "timings_ms",
        "code_version", "completed_at",
    )  # fmt: skip
    if row is None:
        return dict.fromkeys((*names, "evidence", "region", "watch_hit"))
    found = {name: getattr(row, name) for name in names}
    found["reasons"] = reasons.told(row, comparisons)
    found["evidence"] = {name: Measurement(**value) for name, value in row.evidence.items()}
    found["region"] = Region(**row.region) if row.region else None
    found["watch_hit"] = WatchHit(**row.watch_hit) if row.watch_hit else None
    return found
