"""POST /v1/audits: a film comes in, and its verdict is waited for."""

import asyncio
import hashlib
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from service.desk.comparison import read_probabilities
from service.names import NAME_PATTERN
from service.people.keys import Principal
from service.queue.intake import Accepted, Submission
from service.records.tables import JobRow
from service.registry.examinations import waits_because
from service.web.api.schemas import AuditReceipt, AuditResource
from service.web.api.view import audit_receipt, audit_resource, find_job
from service.web.dependencies import ResourcesDep, Uploader
from service.web.errors import RequestError, problems
from service.web.resources import Resources
from service.web.upload import MULTIPART, PROBABILITIES_HEADER, RAW_TYPES, read_upload, upload_slot

POLL_SECONDS = 0.5  # how soon a verdict of a separate worker is noticed
ENDED = ("done", "failed")
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
_CLASSIFIER, _POLICY = "Default: the default classifier.", "Name or SHA-256; default: the active one."
_REFUSALS = problems(
    "empty_body", "unsupported_format", "unsupported_transfer_syntax", "unsupported_radiograph", "several_frames",
    "too_many_bytes", "too_many_pixels", "truncated", "decode_failed", "malformed_multipart", "missing_file",
    "unsupported_media_type", "idempotency_key_reused", "upload_timeout", "unknown_classifier", "unknown_policy",
    "no_active_classifier", "queue_full", "too_busy", "audit_failed", "unusable_probabilities",
    "unauthenticated", "forbidden", "choice_forbidden", "invalid_request",
)  # fmt: skip
_SUBMITTED: dict[int | str, dict[str, Any]] = {
    200: {"model": AuditResource | AuditReceipt, "description": "These bytes already had this audit."},
    202: {"model": AuditResource | AuditReceipt, "description": "Queued; its address is in Location."},
}


@router.post("", status_code=201, responses=_SUBMITTED | _REFUSALS, openapi_extra=_BODY)
async def create_audit(
    request: Request,
    response: Response,
    principal: Uploader,
    held: ResourcesDep,
    classifier: Annotated[
        str | None, Query(pattern=NAME_PATTERN, description="Default: the default classifier.")
    ] = None,
    policy: Annotated[
        str | None, Query(pattern=NAME_PATTERN, description="Name or SHA-256; default: the active one.")
    ] = None,
    source: Annotated[str, Query(pattern=NAME_PATTERN, description="Where films come from; no identifiers.")] = "api",
    wait: Annotated[float | None, Query(ge=0, description="Seconds to wait for the verdict; capped.")] = None,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=128)] = None,
) -> AuditResource | AuditReceipt:
    """Submit one radiograph: queued durably first, then awaited for at most `wait` seconds.

    To name a classifier or a policy that is not in force needs the scope `audits:choose` as well; a caller without
    `audits:read` gets a receipt without anything that was found.
    """
    async with upload_slot(held):
        upload = await read_upload(request, held)
        deployed = read_probabilities(upload.probabilities) if upload.probabilities else None
        digest = await run_in_threadpool(lambda: hashlib.sha256(upload.film).hexdigest())
        submission = Submission(
            upload.film, digest, source, principal.actor, classifier, policy, idempotency_key, deployed,
            may_choose="audits:choose" in principal.scopes,
        )  # fmt: skip
        address = request.client.host if request.client else ""
        accepted = await run_in_threadpool(_submit, held, submission, address)
    if held.worker:
        held.worker.wake()
    cap = held.http.wait_seconds
    job = await _ended_or_timed_out(held, accepted.job_id, cap if wait is None else min(wait, cap))
    return _answer(response, job, principal, is_new=accepted.is_new)


def _submit(held: Resources, submission: Submission, address: str) -> Accepted:
    return held.submissions.submit(submission, held.acceptance.keep_instance(submission, address))


def _answer(response: Response, job: JobRow, principal: Principal, *, is_new: bool) -> AuditResource | AuditReceipt:
    if job.state == "failed":
        why = f"{job.error_code}: {job.error_detail}" if job.error_detail else job.error_code
        raise RequestError("audit_failed", f"/v1/audits/{job.id} ended with {why}")
    response.headers["Location"] = f"/v1/audits/{job.id}"
    if job.state != "done":
        response.status_code = 202
        response.headers["Retry-After"] = "1"
    elif not is_new:
        response.status_code = 200
    return audit_resource(job) if "audits:read" in principal.scopes else audit_receipt(job)


async def _ended_or_timed_out(held: Resources, job_id: str, seconds: float) -> JobRow:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    with held.completions.subscribe(job_id) as ended:
        while True:
            job = await run_in_threadpool(_load, held, job_id)
            remaining = deadline - loop.time()
            if job.state in ENDED or remaining <= 0 or waits_because(job.classifier):
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
