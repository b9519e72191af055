"""For orchestrators and Prometheus."""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.records import queries
from service.registry.registry import DEFAULT_SLOT, in_force
from service.web.api.schemas import Health
from service.web.dependencies import Reader, ResourcesDep, SessionDep
from service.web.errors import RequestError, problems

router = APIRouter(tags=["health"])


@router.get("/healthz")
def healthz() -> Health:
    """The process answers."""
    return Health()


@router.get("/readyz", responses=problems("not_ready"))
def readyz(session: SessionDep, held: ResourcesDep) -> Health:
    """The database answers, every loop of this process runs and does not fail, and a classifier is active."""
    queries.ping(session)
    if faults := [fault for loop in held.loops if (fault := loop.fault)]:
        raise RequestError("not_ready", "; ".join(faults))
    if in_force(session, DEFAULT_SLOT) is None:
        raise RequestError("not_ready", "no classifier is active")
    return Health()


@router.get("/metrics", response_class=Response, responses=problems("unauthenticated", "forbidden"))
def metrics(held: ResourcesDep, _reader: Reader) -> Response:
    """In Prometheus' text format."""
    return Response(generate_latest(held.metrics.registry), media_type=CONTENT_TYPE_LATEST)
