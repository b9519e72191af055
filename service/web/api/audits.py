"""Submitting films, and reading what became of them."""

import asyncio
import base64
import binascii
import hashlib
import io
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Header, Path, Query, Request, Response
from PIL import Image
from pydantic import AwareDatetime
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from service.audit import overlay
from service.audit import preprocessing as core
from service.desk import comparison
from service.desk.comparison import read_probabilities
from service.desk.explainer import ChangeName, Maps
from service.queue.intake import Submission
from service.records import queries
from service.records.queries import AuditFilters, Position
from service.records.tables import AuditRow, JobRow
from service.registry.registry import preprocessing
from service.web.api.schemas import (
    AuditPage,
    AuditResource,
    Deployed,
    Film,
    Links,
    Measurement,
    Named,
    Region,
    SaliencyMap,
    State,
    Verdict,
    WatchHit,
)
from service.web.dependencies import Reader, ResourcesDep, SessionDep, Uploader
from service.web.errors import RequestError, problems
from service.web.resources import Resources
from service.web.upload import MULTIPART, PROBABILITIES_HEADER, RAW_TYPES, read_upload, upload_slot

POLL_SECONDS = 0.5  # how soon a verdict of a separate worker is noticed
ENDED = ("done", "failed")
AUDIT_ID = r"^[0-9a-f]{32}$"
LABEL = r"^[A-Za-z0-9._-]{1,64}$"
LABEL_LENGTH = 64
CACHE = {"Cache-Control": "private, max-age=3600"}

AuditId = Annotated[str, Path(pattern=AUDIT_ID)]
router = APIRouter(prefix="/v1/audits", tags=["audits"])

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_PROBABILITIES = {
    "type": "string",
    "description": "The deployed classifier's own answer: a JSON object of labels and probabilities.",
    "example": '{"Atelectasis": 0.97}',
}
_FORM = {
    "type": "object",
    "required": ["file"],
    "properties": {"file": {"type": "string", "format": "binary"}, "probabilities": _PROBABILITIES},
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {MULTIPART: {"schema": _FORM}} | dict.fromkeys(RAW_TYPES, _BINARY),
    },
    "parameters": [
        {
            "name": PROBABILITIES_HEADER,
            "in": "header",
            "required": False,
            "description": "As the field `probabilities` of a form, for a film sent raw.",
            "schema": {"type": "string"},
        }
    ],
}
_FINEST = "Default: the finest LayerCAM."
_LABEL = "Default: the explained label, whose maps are stored. Those of others are made on demand."
MapLabel = Annotated[str | None, Query(max_length=LABEL_LENGTH, description=_LABEL)]
_PNG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": _BINARY}}}


_REFUSALS = problems(
    "empty_body", "unsupported_format", "unsupported_transfer_syntax", "unsupported_radiograph", "several_frames",
    "too_many_bytes", "too_many_pixels", "truncated", "decode_failed", "malformed_multipart", "missing_file",
    "unsupported_media_type", "idempotency_key_reused", "upload_timeout", "unknown_classifier", "unknown_policy",
    "no_active_classifier", "queue_full", "too_busy", "audit_failed", "unusable_probabilities",
    "unauthenticated", "forbidden", "invalid_request",
)  # fmt: skip
_SUBMITTED: dict[int | str, dict[str, Any]] = {
    200: {"model": AuditResource, "description": "These bytes already had this audit."},
    202: {"model": AuditResource, "description": "Queued; its address is in Location."},
}


@router.post("", status_code=201, response_model=AuditResource, responses=_SUBMITTED | _REFUSALS, openapi_extra=_BODY)
async def create_audit(
    request: Request,
    response: Response,
    principal: Uploader,
    held: ResourcesDep,
    classifier: Annotated[str | None, Query(pattern=LABEL, description="Default: the default classifier.")] = None,
    policy: Annotated[str | None, Query(pattern=LABEL, description="Name or SHA-256; default: the active one.")] = None,
    source: Annotated[str, Query(pattern=LABEL, description="Where films come from; no identifiers.")] = "api",
    wait: Annotated[float | None, Query(ge=0, description="Seconds to wait for the verdict; capped.")] = None,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=128)] = None,
) -> AuditResource:
    """Submit one radiograph: queued durably first, then awaited for at most `wait` seconds."""
    async with upload_slot(held):
        upload = await read_upload(request, held)
        deployed = read_probabilities(upload.probabilities) if upload.probabilities else None
        digest = await run_in_threadpool(lambda: hashlib.sha256(upload.film).hexdigest())
        submission = Submission(
            upload.film, digest, source, principal.actor, classifier, policy, idempotency_key, deployed
        )
        accepted = await run_in_threadpool(held.submissions.submit, submission)
    if held.worker:
        held.worker.wake()
    cap = held.http.wait_seconds
    job = await _ended_or_timed_out(held, accepted.job_id, cap if wait is None else min(wait, cap))
    return _answer(response, job, is_new=accepted.is_new)


@router.get("", responses=problems("invalid_request", "invalid_cursor", "unauthenticated", "forbidden"))
def list_audits(
    session: SessionDep,
    _reader: Reader,
    verdict: Verdict | None = None,
    state: State | None = None,
    classifier: Annotated[str | None, Query(pattern=LABEL)] = None,
    source: Annotated[str | None, Query(pattern=LABEL)] = None,
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


@router.get(
    "/{audit_id}/overlay.png",
    response_class=Response,
    responses=_PNG | problems("audit_not_found", "not_finished", "map_not_found", "not_stored", "too_busy"),
)
def get_overlay(
    session: SessionDep,
    held: ResourcesDep,
    _reader: Reader,
    audit_id: AuditId,
    map_name: Annotated[str | None, Query(alias="map", pattern=LABEL, description=_FINEST)] = None,
    label: MapLabel = None,
    opacity: Annotated[float, Query(ge=0, le=1)] = 0.55,
    size: Annotated[int, Query(ge=32, le=2048, description="Longest side in pixels; never enlarged.")] = 1024,
) -> Response:
    """A label's map and the region over the radiograph, drawn on demand."""
    row = _finished(find_job(session, audit_id))
    picture = draw(session, held, row, map_name, label=label, opacity=opacity, size=size)
    return Response(picture, media_type="image/png", headers=CACHE)


@router.get(
    "/{audit_id}/maps/{map_name}",
    responses=problems("audit_not_found", "not_finished", "map_not_found", "not_stored", "too_busy"),
)
def get_map(
    session: SessionDep,
    held: ResourcesDep,
    _reader: Reader,
    audit_id: AuditId,
    map_name: Annotated[str, Path(pattern=LABEL)],
    label: MapLabel = None,
) -> SaliencyMap:
    """One map, raw, on its own grid."""
    job = find_job(session, audit_id)
    row = _finished(job)
    maps = _maps(held, row, label)
    if map_name not in maps:
        raise RequestError("map_not_found", f"maps: {', '.join(sorted(maps))}")
    box = core.crop_box(job.film.width, job.film.height, preprocessing(session, row.classifier_sha256).crop)
    return SaliencyMap(
        name=map_name, label=label or row.explained_label, values=maps[map_name].tolist(), covers=Region(**asdict(box))
    )


@router.get(
    "/{audit_id}/radiograph.png",
    response_class=Response,
    responses=_PNG | problems("audit_not_found", "not_finished", "not_stored"),
)
def get_radiograph(session: SessionDep, held: ResourcesDep, _reader: Reader, audit_id: AuditId) -> Response:
    """The decoded film, 8 bits, without tags."""
    row = _finished(find_job(session, audit_id))
    buffer = io.BytesIO()
    Image.fromarray(held.storage.grey_pixels(row.pixels_sha256)).save(buffer, "PNG", compress_level=1)
    return Response(buffer.getvalue(), media_type="image/png", headers=CACHE)


@router.get(
    "/{audit_id}/counterfactual.png",
    response_class=Response,
    responses=_PNG | problems("audit_not_found", "not_finished", "not_stored", "too_busy"),
)
def get_counterfactual(
    session: SessionDep,
    held: ResourcesDep,
    _reader: Reader,
    audit_id: AuditId,
    change: Annotated[ChangeName, Query(description="What the causal test does to the film.")] = "fill_in",
    part: Annotated[Literal["film", "window"], Query(description="Or the hottest window, enlarged.")] = "film",
) -> Response:
    """The film as the classifier sees it, as it came or with a causal test's change, and the hottest window."""
    row = _finished(find_job(session, audit_id))
    picture = held.explainer.changed_film(row, change, close_up=part == "window")
    return Response(picture, media_type="image/png", headers=CACHE)


def draw(
    session: Session,
    held: Resources,
    row: AuditRow,
    map_name: str | None,
    *,
    label: str | None = None,
    opacity: float,
    size: int,
) -> bytes:
    maps = _maps(held, row, label)
    name = map_name or max((name for name in maps if name.startswith("layercam_")), key=lambda name: maps[name].size)
    if name not in maps:
        raise RequestError("map_not_found", f"maps: {', '.join(sorted(maps))}")
    pixels = held.storage.grey_pixels(row.pixels_sha256).astype(np.float32) / 255.0
    region = core.Region(**row.region) if row.region else None
    return overlay.render(
        pixels, maps[name], region, preprocessing(session, row.classifier_sha256), opacity=opacity, longest_px=size
    )


def _maps(held: Resources, row: AuditRow, label: str | None) -> Maps:
    if label is not None and label not in row.probabilities:
        raise RequestError("map_not_found", f"labels: {', '.join(sorted(row.probabilities))}")
    return held.explainer.maps(row, label or row.explained_label)


def find_job(session: Session, audit_id: str) -> JobRow:
    job = queries.job(session, audit_id)
    if job is None:
        raise RequestError("audit_not_found", "there is no audit of this id")
    return job


def page(session: Session, filters: AuditFilters, cursor: str | None, limit: int) -> tuple[list[JobRow], str | None]:
    jobs = list(queries.audits_page(session, filters, _position(cursor) if cursor else None, limit + 1))
    return jobs[:limit], _cursor(jobs[limit - 1]) if len(jobs) > limit else None


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
            "links": Links(
                self=address,
                overlay=f"{address}/overlay.png" if row else None,
                radiograph=f"{address}/radiograph.png" if row else None,
            ),
            "deployed": _deployed(job),
            **_findings(row, comparison.reasons(job.comparisons)),
        }
    )


def _deployed(job: JobRow) -> Deployed | None:
    row = comparison.worst(job.comparisons)
    if row is None:
        return None
    values = {name: getattr(row, name) for name in ("label", "deployed", "audited", "tolerance")}
    return Deployed(**values, mismatch=comparison.is_mismatch(row))


def _findings(row: AuditRow | None, first_reasons: list[str]) -> dict[str, Any]:
    names = (
        "verdict", "score", "p_value", "probabilities", "explained_label", "hypothesis", "reasons", "timings_ms",
        "code_version", "completed_at",
    )  # fmt: skip
    if row is None:
        return dict.fromkeys((*names, "evidence", "region", "watch_hit"))
    found = {name: getattr(row, name) for name in names}
    found["reasons"] = [*first_reasons, *row.reasons]
    found["evidence"] = {name: Measurement(**value) for name, value in row.evidence.items()}
    found["region"] = Region(**row.region) if row.region else None
    found["watch_hit"] = WatchHit(**row.watch_hit) if row.watch_hit else None
    return found


def _answer(response: Response, job: JobRow, *, is_new: bool) -> AuditResource:
    if job.state == "failed":
        why = f"{job.error_code}: {job.error_detail}" if job.error_detail else job.error_code
        raise RequestError("audit_failed", f"/v1/audits/{job.id} ended with {why}")
    response.headers["Location"] = f"/v1/audits/{job.id}"
    if job.state != "done":
        response.status_code = 202
        response.headers["Retry-After"] = "1"
    elif not is_new:
        response.status_code = 200
    return audit_resource(job)


async def _ended_or_timed_out(held: Resources, job_id: str, seconds: float) -> JobRow:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    with held.completions.subscribe(job_id) as ended:
        while True:
            job = await run_in_threadpool(_load, held, job_id)
            remaining = deadline - loop.time()
            if job.state in ENDED or remaining <= 0:
                return job
            await _wait(ended, min(POLL_SECONDS, remaining))


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def _load(held: Resources, job_id: str) -> JobRow:
    with held.database.read() as session:
        return find_job(session, job_id)


def _finished(job: JobRow) -> AuditRow:
    if job.audit is None:
        raise RequestError("not_finished", f"its state is {job.state}")
    return job.audit


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
