"""For orchestrators and Prometheus."""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.records import queries
from service.registry.examinations import waits_because
from service.registry.registry import DEFAULT_SLOT, in_force, waiting_versions
from service.web.api.schemas import Health, Readiness
from service.web.dependencies import Reader, ResourcesDep, SessionDep
from service.web.errors import RequestError, problems

router = APIRouter(tags=["health"])


@router.get("/healthz")
def healthz() -> Health:
    """The process answers."""
    return Health()


@router.get("/readyz", responses=problems("not_ready"))
def readyz(session: SessionDep, held: ResourcesDep) -> Readiness:
    """The database answers, every loop of this process runs and does not fail, and the default classifier is active
    and not refused. Of others that are refused it says so: their films wait, the rest goes on."""
    queries.ping(session)
    if faults := [fault for loop in held.loops if (fault := loop.fault)]:
        raise RequestError("not_ready", "; ".join(faults))
    default, waiting = in_force(session, DEFAULT_SLOT), waiting_versions(session)
    if default is None:
        raise RequestError("not_ready", "no classifier is active")
    told = {name: f"films of the classifier {name} wait: {waits_because(row)}" for name, row in waiting.items()}
    if default in waiting and waiting[default].refusal:
        raise RequestError("not_ready", told[default])
    return Readiness(reduced=list(told.values()))


@router.get("/metrics", response_class=Response, responses=problems("unauthenticated", "forbidden"))
def metrics(held: ResourcesDep, _reader: Reader) -> Response:
    """In Prometheus' text format."""
    return Response(generate_latest(held.metrics.registry), media_type=CONTENT_TYPE_LATEST)
