"""The list of audits and the page of one audit."""

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates

from service import __version__
from service.api.audits import LABEL, AuditId, audit_resource, find_job, page
from service.api.dependencies import Reader, ResourcesDep, SessionDep
from service.api.schemas import Verdict
from service.db.queries import AuditFilters

HERE = Path(__file__).parent
PAGE_SIZE = 50
router = APIRouter(include_in_schema=False)
templates = Jinja2Templates(directory=HERE / "templates")
templates.env.globals["version"] = __version__


@router.get("/")
def audits_page(
    request: Request,
    session: SessionDep,
    held: ResourcesDep,
    _reader: Reader,
    verdict: Verdict | None = None,
    classifier: Annotated[str | None, Query(pattern=LABEL)] = None,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:
    filters = AuditFilters(verdict=verdict, classifier=classifier)
    jobs, following = page(session, filters, cursor, PAGE_SIZE)
    context = {
        "audits": [audit_resource(job) for job in jobs],
        "next": following,
        "verdict": verdict,
        "classifier": classifier,
        "anonymous": held.http.allow_anonymous,
    }
    return templates.TemplateResponse(request, "audits.html", context)


@router.get("/audits/{audit_id}")
def audit_page(
    request: Request, session: SessionDep, held: ResourcesDep, _reader: Reader, audit_id: AuditId
) -> Response:
    audit = audit_resource(find_job(session, audit_id))
    context = {"audit": audit, "anonymous": held.http.allow_anonymous}
    return templates.TemplateResponse(request, "audit.html", context)


def mount_static(app: FastAPI) -> None:
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
