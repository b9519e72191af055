"""Logging in and out, the first administrator, and accounts."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.datastructures import FormData

from service import accounts, sessions
from service.api.dependencies import Administrator, AdministratorForm, ResourcesDep, SessionDep, read_form
from service.api.errors import RequestError
from service.audit.errors import TriggerscopeError
from service.dashboard.rendering import RenderDep, back_to
from service.db import account_queries
from service.keys import ANONYMOUS

router = APIRouter(include_in_schema=False)


async def own_form(request: Request) -> FormData:
    """A form of somebody who is not signed in: it has to come from our own page."""
    if request.headers.get("sec-fetch-site") not in (None, "same-origin", "none"):
        raise RequestError("csrf_failed", "reload the page and try again")
    return await read_form(request)


OwnForm = Annotated[FormData, Depends(own_form)]


def _text(form: FormData, name: str) -> str:
    value = form.get(name, "")
    return value if isinstance(value, str) else ""


@router.get("/login")
def login_page(render: RenderDep, next_page: Annotated[str, Query(alias="next", max_length=2000)] = "/") -> Response:
    return render("login.html", ANONYMOUS, then=next_page, failure=None)


@router.post("/login")
def log_in(request: Request, held: ResourcesDep, render: RenderDep, form: OwnForm) -> Response:
    try:
        login = sessions.log_in(held.database, _text(form, "name"), _text(form, "password"), held.desk.session_length)
    except (sessions.WrongLogin, sessions.LoginThrottled) as error:
        status = 429 if isinstance(error, sessions.LoginThrottled) else 422
        return render("login.html", ANONYMOUS, status, then=_text(form, "then"), failure=error.detail)
    response = back_to(_text(form, "then"))
    response.set_cookie(
        sessions.COOKIE, login.token, expires=login.expires_at, httponly=True, samesite="lax",
        secure=request.url.scheme == "https",
    )  # fmt: skip
    return response


@router.post("/logout")
def log_out(request: Request, held: ResourcesDep, form: OwnForm) -> Response:
    """Ends the login whose page sent this; nothing where there is none."""
    cookie = request.cookies.get(sessions.COOKIE, "")
    principal = sessions.find(held.database, cookie)
    if principal is not None:
        sessions.require_csrf(principal, _text(form, "csrf"))
        sessions.log_out(held.database, cookie)
    response = back_to("/login")
    response.delete_cookie(sessions.COOKIE)
    return response


@router.get("/setup")
def setup_page(render: RenderDep, token: Annotated[str, Query(max_length=100)] = "") -> Response:
    return render("setup.html", ANONYMOUS, token=token, failure=None)


@router.post("/setup")
def set_up(held: ResourcesDep, render: RenderDep, form: OwnForm) -> Response:
    token = _text(form, "token")
    try:
        accounts.set_up(held.database, token, _text(form, "name"), _text(form, "password"))
    except TriggerscopeError as error:
        return render("setup.html", ANONYMOUS, 422, token=token, failure=error.detail)
    return back_to("/login")


@router.get("/accounts")
def accounts_page(session: SessionDep, administrator: Administrator, render: RenderDep) -> Response:
    return render(
        "accounts.html", administrator, accounts=account_queries.accounts(session), roles=list(accounts.ROLES)
    )


@router.post("/accounts")
def create_account(held: ResourcesDep, submitted: AdministratorForm) -> Response:
    name, role, password = (submitted.value(field) for field in ("name", "role", "password"))
    accounts.create(held.database, name, role, password, submitted.principal.actor)
    return back_to("/accounts")


@router.post("/accounts/{name}")
def change_account(held: ResourcesDep, submitted: AdministratorForm, name: str) -> Response:
    change = submitted.value("change")
    if change not in ("role", "disable", "enable"):
        raise RequestError("invalid_request", "no such change")
    role = submitted.value("role") if change == "role" else None
    disabled = None if change == "role" else change == "disable"
    accounts.change(held.database, name, submitted.principal.actor, role=role, disabled=disabled)
    return back_to("/accounts")
