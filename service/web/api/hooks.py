"""The hooks that hasten the watchers: they answer 202 at once, and nothing depends on their arrival."""

import time
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, BackgroundTasks, Header, Request, Response
from sqlalchemy.exc import SQLAlchemyError

from service.pacs.results.webhook_signature import is_signed
from service.pacs.watching import announce
from service.records.session import Database
from service.web.dependencies import Announcer, ResourcesDep
from service.web.errors import RequestError, problems

LARGEST_BODY_BYTES = 64 * 1024
router = APIRouter(prefix="/v1/hooks", tags=["hooks"])
log = structlog.get_logger()
_BODY: dict[str, Any] = {"requestBody": {"content": {"application/json": {"schema": {}}}}}


@router.post("/films", status_code=202, responses=problems("unauthenticated", "forbidden"), openapi_extra=_BODY)
def films_arrived(held: ResourcesDep, _announcer: Announcer, after: BackgroundTasks) -> Response:
    """For callers that can send a fixed header: wake the watchers. The body is not read."""
    return _wake(held.database, after)


@router.post(
    "/films/signed",
    status_code=202,
    responses=problems("bad_signature", "too_many_bytes", "not_found"),
    openapi_extra=_BODY,
)
async def films_arrived_signed(
    request: Request,
    held: ResourcesDep,
    after: BackgroundTasks,
    webhook_id: Annotated[str, Header()] = "",
    webhook_timestamp: Annotated[str, Header()] = "",
    webhook_signature: Annotated[str, Header()] = "",
) -> Response:
    """For callers that sign as Standard Webhooks says: wake the watchers. The body is never interpreted."""
    if held.hook_secret is None:
        raise RequestError("not_found", "no secret for signed hooks is configured")
    body = await _read(request)
    if not is_signed(held.hook_secret, webhook_id, webhook_timestamp, body, webhook_signature, time.time()):
        raise RequestError("bad_signature", "the signature is missing or wrong, or its time is not now")
    return _wake(held.database, after)


async def _read(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_BODY_BYTES:
            raise RequestError("too_many_bytes", f"more than {LARGEST_BODY_BYTES} bytes")
    return body


def _wake(database: Database, after: BackgroundTasks) -> Response:
    after.add_task(_announce, database)  # once the answer is out: a busy database must not hold up the caller
    return Response(status_code=202, background=after)


def _announce(database: Database) -> None:
    try:
        announce(database)
    except SQLAlchemyError as error:
        log.warning("hook.not_announced", error=type(error).__name__)
