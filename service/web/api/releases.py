"""Hold or release: what a router asks before it passes a deployed classifier's result on to readers."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Annotated, Literal, Self

from fastapi import APIRouter
from pydantic import Field, model_validator
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from service.desk.releases import Reason, Release, decide
from service.names import NAME_PATTERN
from service.people.keys import Principal
from service.records import pacs_queries
from service.web.api.schemas import SHA, Wire, shown_as
from service.web.dependencies import ReleaseReader, ResourcesDep
from service.web.errors import problems
from service.web.resources import Resources
from service.web.small_body import SmallBodyRoute

POLL_SECONDS = 0.25
router = APIRouter(prefix="/v1/releases", tags=["releases"], route_class=SmallBodyRoute)


class ReleaseQuestion(Wire):
    """In the body, not in an address: addresses end up in logs."""

    sop_instance_uid: Annotated[str, Field(pattern=r"^[0-9.]{1,64}$")] | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", examples=[SHA])] | None = None
    classifier: Annotated[str, Field(pattern=NAME_PATTERN)] | None = None
    wait: float | None = Field(None, ge=0, description="Seconds to wait for an audit that is not done; capped.")

    @model_validator(mode="after")
    def _one_film(self) -> Self:
        if (self.sop_instance_uid is None) == (self.sha256 is None):
            raise ValueError("name the film by sop_instance_uid or by sha256")
        return self


class ReleaseAnswer(Wire):
    model_config = shown_as({"decision": "hold", "reason": "suspicious", "final": True, "audit": "/v1/audits/6f2c0a4d"})

    decision: Literal["release", "hold"]
    reason: Reason
    final: bool = Field(description="False where the wait ended before the audit: hold, and ask again.")
    audit: str | None = Field(description="The audit's address; null for a film that is not known.")


@router.post("", responses=problems("invalid_request", "unauthenticated", "forbidden"))
async def ask_for_release(question: ReleaseQuestion, held: ResourcesDep, principal: ReleaseReader) -> ReleaseAnswer:
    """Waits until every audit of the film is done or one of them holds it; at the time-out the answer is hold."""
    cap = held.http.wait_seconds
    seconds = cap if question.wait is None else min(question.wait, cap)
    release = await _settled_or_timed_out(held, question, seconds)
    if release.audit_id is not None:
        await run_in_threadpool(_record, held, principal, release)
    return ReleaseAnswer(
        decision="release" if release.may_pass else "hold",
        reason=release.reason,
        final=release.is_final,
        audit=f"/v1/audits/{release.audit_id}" if release.audit_id else None,
    )


async def _settled_or_timed_out(held: Resources, question: ReleaseQuestion, seconds: float) -> Release:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        release = await run_in_threadpool(_look, held, question)
        remaining = deadline - loop.time()
        if release.is_final or remaining <= 0:
            return release
        await asyncio.sleep(min(POLL_SECONDS, remaining))


def _look(held: Resources, question: ReleaseQuestion) -> Release:
    with held.database.read() as session:
        return decide(session, _films(held.acceptance.pseudonyms.of, session, question), question.classifier)


def _films(pseudonym_of: Callable[[str], str], session: Session, question: ReleaseQuestion) -> Sequence[str]:
    if question.sop_instance_uid is not None:
        return pacs_queries.films_of_instance(session, pseudonym_of(question.sop_instance_uid))
    return [question.sha256] if question.sha256 else []


def _record(held: Resources, principal: Principal, release: Release) -> None:
    with held.database.write() as unit:
        decision = "release" if release.may_pass else "hold"
        unit.record(f"result.{decision}", release.audit_id or "", principal.actor, reason=release.reason)
