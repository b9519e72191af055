"""/v1/audits: the list of audits, and one of them."""

import base64
import binascii
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import AwareDatetime
from sqlalchemy.orm import Session

from service.names import NAME_PATTERN
from service.records import queries
from service.records.queries import AuditFilters, Position
from service.records.tables import JobRow
from service.web.api.parameters import AuditId
from service.web.api.schemas import (
    AuditPage,
    AuditResource,
    State,
    Verdict,
)
from service.web.api.view import audit_resource, find_job
from service.web.dependencies import Reader, SessionDep
from service.web.errors import RequestError, problems

router = APIRouter(prefix="/v1/audits", tags=["audits"])


@router.get("", responses=problems("invalid_request", "invalid_cursor", "unauthenticated", "forbidden"))
def list_audits(
    session: SessionDep,
    _reader: Reader,
    verdict: Verdict | None = None,
    state: State | None = None,
    classifier: Annotated[str | None, Query(pattern=NAME_PATTERN)] = None,
    source: Annotated[str | None, Query(pattern=NAME_PATTERN)] = None,
    since: Annotated[AwareDatetime | None, Query(description="Received at or after.")] = None,
    until: Annotated[AwareDatetime | None, Query(description="Received before.")] = None,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> AuditPage:
    """Latest first, a page at a time."""
    filters = AuditFilters(verdict, state, classifier, source, since, until)
    jobs, following = page(session, filters, cursor, limit)
    return AuditPage(items=[audit_resource(job) for job in jobs], next=following)


@router.get("/{audit_id}", responses=problems("audit_not_found", "unauthenticated", "forbidden"))
def get_audit(session: SessionDep, _reader: Reader, audit_id: AuditId) -> AuditResource:
    return audit_resource(find_job(session, audit_id))


def page(session: Session, filters: AuditFilters, cursor: str | None, limit: int) -> tuple[list[JobRow], str | None]:
    jobs = list(queries.audits_page(session, filters, _position(cursor) if cursor else None, limit + 1))
    return jobs[:limit], _cursor(jobs[limit - 1]) if len(jobs) > limit else None


def _cursor(job: JobRow) -> str:
    return base64.urlsafe_b64encode(f"{job.received_at.isoformat()}|{job.id}".encode()).decode()


def _position(cursor: str) -> Position:
    try:
        received_at, _, job_id = base64.b64decode(cursor, altchars=b"-_", validate=True).decode().partition("|")
        at = datetime.fromisoformat(received_at)
    except (binascii.Error, ValueError):
        raise RequestError("invalid_cursor", "take cursors from `next` as they are") from None
    if at.tzinfo is None:
        raise RequestError("invalid_cursor", "take cursors from `next` as they are")
    return Position(at, job_id)
