"""What all pages share: the templates, the frame around them, and the page that shows a problem."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.templating import Jinja2Templates
from starlette.datastructures import URL

from service import __version__
from service.desk.review import STATES, WATCHED
from service.people.keys import ANONYMOUS, Principal
from service.web.dependencies import ResourcesDep
from service.web.errors import ErrorKind

HERE = Path(__file__).parent
templates = Jinja2Templates(directory=HERE / "templates")
templates.env.globals["version"] = __version__
templates.env.globals["states"] = STATES
templates.env.globals["WATCHED"] = WATCHED
Render = Callable[..., Response]


def renderer(request: Request, held: ResourcesDep) -> Render:
    """render(template, principal, **context) -> the page."""

    def render(template: str, principal: Principal, status: int = 200, **context: Any) -> Response:
        frame = {"principal": principal, "anonymous": held.http.allow_anonymous, "readers": held.desk.readers}
        return templates.TemplateResponse(request, template, {**frame, **context}, status)

    return render


RenderDep = Annotated[Render, Depends(renderer)]


def problem_page(request: Request, kind: ErrorKind, code: str, detail: str) -> Response:
    """A problem for a person: sent to the login where that would help, else told in words."""
    if code == "unauthenticated" and request.method == "GET":
        return RedirectResponse(URL("/login").include_query_params(next=_own_path(request)), 303)
    context = {"kind": kind, "code": code, "detail": detail, "principal": ANONYMOUS, "anonymous": False}
    return templates.TemplateResponse(request, "problem.html", context, kind.status)


def back_to(address: str) -> Response:
    """After a change: see the page anew. Only to an address of our own."""
    own = address.startswith("/") and not address.startswith(("//", "/\\"))
    return RedirectResponse(address if own else "/", 303)


def moment(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S")


def person(actor: str) -> str:
    """Who did something, as people call them."""
    return actor.removeprefix("account:")


def p_value(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if value < 0.01 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def _own_path(request: Request) -> str:
    return request.url.path + (f"?{request.url.query}" if request.url.query else "")


templates.env.filters |= {"moment": moment, "p_value": p_value, "person": person}
