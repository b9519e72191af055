"""The STOW-RS receiver (PS3.18 10.5): films as multipart/related, taken one by one while the body still arrives."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Path, Request
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from service.errors import RadiographError, TooManyBytes, TriggerscopeError
from service.pacs.identity import Sender
from service.pacs.instance import Instance
from service.pacs.multipart import MalformedMultipart, PartReader
from service.pacs.statuses import OUT_OF_RESOURCES, status_of
from service.people.keys import Principal
from service.web.dependencies import ResourcesDep, Uploader
from service.web.errors import RequestError, problems
from service.web.resources import Resources
from service.web.upload import upload_slot

MEDIA_TYPE = "application/dicom+json"
MAX_INSTANCES = 500
REFERENCED, FAILED = "00081199", "00081198"
SOP_CLASS, SOP_INSTANCE, REASON = "00081150", "00081155", "00081197"

log = structlog.get_logger()
router = APIRouter(prefix="/dicom-web/studies", tags=["dicomweb"])
StudyUid = Annotated[str, Path(pattern=r"^[0-9.]{1,64}$")]
_BODY = {
    "requestBody": {
        "required": True,
        "content": {'multipart/related; type="application/dicom"': {"schema": {"type": "string", "format": "binary"}}},
    }
}
_ANSWER: dict[str, Any] = {"content": {MEDIA_TYPE: {"schema": {"type": "object"}}}}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: _ANSWER | {"description": "All films are queued."},
    202: _ANSWER | {"description": "Some films are queued; the others are in Failed SOP Sequence with a reason."},
    409: _ANSWER | {"description": "No film was accepted."},
}
_REFUSALS = problems(
    "malformed_multipart",
    "unsupported_media_type",
    "too_busy",
    "upload_timeout",
    "unauthenticated",
    "forbidden",
    "storage_full",
    "database_away",
)


class OtherStudy(RadiographError):
    """The film belongs to another study than the address names."""

    code = "other_study"


@dataclass
class Report:
    """What became of the instances of one request."""

    stored: list[Instance] = field(default_factory=list)
    failed: list[tuple[Instance | None, int]] = field(default_factory=list)
    out_of_resources: OSError | SQLAlchemyError | None = None


@router.post("", response_class=JSONResponse, responses=_ANSWERS | _REFUSALS, openapi_extra=_BODY)
async def store_instances(request: Request, principal: Uploader, held: ResourcesDep) -> JSONResponse:
    """Store Instances: films of any study; queued durably before the answer."""
    return await _store(request, principal, held, None)


@router.post("/{study_uid}", response_class=JSONResponse, responses=_ANSWERS | _REFUSALS, openapi_extra=_BODY)
async def store_instances_of_study(
    request: Request, principal: Uploader, held: ResourcesDep, study_uid: StudyUid
) -> JSONResponse:
    """Store Instances: films of one study."""
    return await _store(request, principal, held, study_uid)


async def _store(request: Request, principal: Principal, held: Resources, study_uid: str | None) -> JSONResponse:
    report = Report()
    sender = Sender("stow", principal.actor, "stow", address=request.client.host if request.client else "")
    async with upload_slot(held):
        async for part in _parts(request, held.http.max_bytes, held.http.upload_seconds):
            await run_in_threadpool(_take, held, part, sender, study_uid, report)
    if held.worker:
        held.worker.wake()
    if report.out_of_resources and not report.stored:
        raise report.out_of_resources  # 507 or 503: the sender may try again
    return _answer(report)


def _take(held: Resources, part: bytes | TooManyBytes, sender: Sender, study_uid: str | None, report: Report) -> None:
    instance = None
    try:
        data = _whole(part)
        instance = held.acceptance.read(data)
        if study_uid not in (None, instance.study_instance_uid):
            raise OtherStudy("the film belongs to another study than the address names")
        held.acceptance.accept(data, instance, sender)
        report.stored.append(instance)
    except TriggerscopeError as error:
        if isinstance(error, RadiographError):
            held.acceptance.refuse(b"" if isinstance(part, TooManyBytes) else part, sender, error)
        report.failed.append((instance, status_of(error.code)))
    except (OSError, SQLAlchemyError) as error:  # disk or database: another film of the request may fit
        log.error("stow.cannot_store", error=type(error).__name__)
        report.failed.append((instance, OUT_OF_RESOURCES))
        report.out_of_resources = error


def _whole(part: bytes | TooManyBytes) -> bytes:
    if isinstance(part, TooManyBytes):
        raise part
    return part


async def _parts(request: Request, max_bytes: int, pause_seconds: float) -> AsyncIterator[bytes | TooManyBytes]:
    """The parts of the body as they arrive; one part is in memory at a time."""
    reader = _reader(request, max_bytes)
    count = 0
    async for chunk in _chunks(request, pause_seconds):
        try:
            reader.feed(chunk)
        except MalformedMultipart as error:
            raise RequestError("malformed_multipart", str(error)) from None
        while reader.finished:
            count += 1
            if count > MAX_INSTANCES:
                raise RequestError("malformed_multipart", f"more than {MAX_INSTANCES} instances")
            yield reader.finished.pop(0)
    if not reader.ended or count == 0:
        raise RequestError("malformed_multipart", "the body ends before its last boundary")


async def _chunks(request: Request, pause_seconds: float) -> AsyncIterator[bytes]:
    """Ends a body that stands still; how long all of it takes is not limited, since studies can be large."""
    stream = request.stream().__aiter__()
    while True:
        try:
            async with asyncio.timeout(pause_seconds):
                chunk = await anext(stream)
        except TimeoutError:
            raise RequestError("upload_timeout", "the body stands still") from None
        except StopAsyncIteration:
            return
        yield chunk


def _reader(request: Request, max_bytes: int) -> PartReader:
    try:
        return PartReader(request.headers.get("content-type", ""), max_bytes)
    except MalformedMultipart:
        raise RequestError("unsupported_media_type", 'send multipart/related; type="application/dicom"') from None


def _answer(report: Report) -> JSONResponse:
    content: dict[str, Any] = {}
    if report.stored:
        content[REFERENCED] = _sequence([_reference(instance) for instance in report.stored])
    if report.failed:
        content[FAILED] = _sequence([_failure(instance, reason) for instance, reason in report.failed])
    status = 200 if not report.failed else 202 if report.stored else 409
    return JSONResponse(content, status, media_type=MEDIA_TYPE)


def _sequence(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {"vr": "SQ", "Value": items}


def _reference(instance: Instance) -> dict[str, Any]:
    return {
        SOP_CLASS: {"vr": "UI", "Value": [instance.sop_class_uid]},
        SOP_INSTANCE: {"vr": "UI", "Value": [instance.sop_instance_uid]},
    }


def _failure(instance: Instance | None, reason: int) -> dict[str, Any]:
    return (_reference(instance) if instance else {}) | {REASON: {"vr": "US", "Value": [reason]}}
