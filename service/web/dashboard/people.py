"""Logging in and out, by password or identity provider; the first administrator, accounts, and API keys."""

import hmac
import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import RedirectResponse
from sqlalchemy.orm import Session
from starlette.datastructures import FormData

from service.errors import TriggerscopeError
from service.names import NAME
from service.people import accounts, keys, sessions
from service.people.keys import ANONYMOUS, Principal
from service.people.oidc import Provider, SignOnFailed
from service.people.roles import ROLES, SCOPES
from service.people.sessions import Login
from service.records import account_queries, queries
from service.records.session import utc_now
from service.records.tables import NO_PASSWORD
from service.web.dashboard.rendering import Render, RenderDep, back_to
from service.web.dependencies import (
    ACCOUNT,
    Administrator,
    AdministratorForm,
    Owner,
    OwnerForm,
    ResourcesDep,
    SessionDep,
    read_form,
)
from service.web.errors import RequestError
from service.web.resources import Resources

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
def login_page(
    held: ResourcesDep,
    render: RenderDep,
    next_page: Annotated[str, Query(alias="next", max_length=2000)] = "/",
    ended: Annotated[Literal["sso", ""], Query()] = "",
) -> Response:
    provider = held.desk.provider
    at_provider = provider.logout_address() if provider and ended else None
    return _login_form(held, render, next_page, at_provider=at_provider)


def _login_form(
    held: Resources, render: Render, then: str, status: int = 200, failure: str | None = None,
    at_provider: str | None = None,
) -> Response:  # fmt: skip
    return render(
        "login.html", ANONYMOUS, status, then=then, failure=failure, at_provider=at_provider,
        local=held.desk.local_accounts, sso=held.desk.provider is not None,
    )  # fmt: skip


@router.post("/login")
def log_in(request: Request, held: ResourcesDep, render: RenderDep, form: OwnForm) -> Response:
    _require_local(held)
    try:
        login = sessions.log_in(held.database, _text(form, "name"), _text(form, "password"), held.desk.session_length)
    except (sessions.WrongLogin, sessions.LoginThrottled) as error:
        status = 429 if isinstance(error, sessions.LoginThrottled) else 422
        return _login_form(held, render, _text(form, "then"), status, error.detail)
    return _logged_in(request, held, login, _text(form, "then"))


def _require_local(held: Resources) -> None:
    if not held.desk.local_accounts:
        raise RequestError("no_local_accounts", "log in with your organisation's account")


def _is_https(request: Request, held: Resources) -> bool:
    return held.desk.is_https or request.url.scheme == "https"


def _logged_in(request: Request, held: Resources, login: Login, then: str) -> Response:
    response = back_to(then)
    response.set_cookie(
        sessions.COOKIE, login.token, expires=login.expires_at, httponly=True, samesite="lax",
        secure=_is_https(request, held),
    )  # fmt: skip
    return response


@router.get("/login/sso")
def go_to_provider(
    request: Request, held: ResourcesDep, next_page: Annotated[str, Query(alias="next", max_length=2000)] = "/"
) -> Response:
    """Off to the identity provider; the state comes back in the address and in a cookie of this browser."""
    there, state = sessions.start_sign_on(held.database, _provider(held), _address(request), next_page)
    response = RedirectResponse(there, 303)
    response.set_cookie(
        sessions.SIGN_ON_COOKIE, state, max_age=sessions.SIGN_ON_SECONDS, httponly=True, samesite="lax",
        path="/login/sso", secure=_is_https(request, held),
    )  # fmt: skip
    return response


@router.get("/login/sso/return")
def back_from_provider(
    request: Request,
    held: ResourcesDep,
    state: Annotated[str, Query(max_length=200)] = "",
    code: Annotated[str, Query(max_length=4000)] = "",
    iss: Annotated[str | None, Query(max_length=255)] = None,
) -> Response:
    """The authorization response (RFC 6749, section 4.1.2; `iss` as in RFC 9207)."""
    provider, cookie = _provider(held), request.cookies.get(sessions.SIGN_ON_COOKIE, "")
    if not (state and hmac.compare_digest(cookie.encode(), state.encode())):
        raise SignOnFailed("this login was not begun in this browser; begin again")
    if not code or iss not in (None, provider.client.issuer):
        raise SignOnFailed("the identity provider did not let you in")
    login, then = sessions.finish_sign_on(
        held.database, provider, _address(request), state, code, held.desk.session_length
    )
    response = _logged_in(request, held, login, then)
    response.delete_cookie(sessions.SIGN_ON_COOKIE, path="/login/sso")
    return response


def _provider(held: Resources) -> Provider:
    if held.desk.provider is None:
        raise RequestError("not_found", "no identity provider is set up")
    return held.desk.provider


def _address(request: Request) -> str:
    return request.client.host if request.client else "unknown"


@router.post("/logout")
def log_out(request: Request, held: ResourcesDep, form: OwnForm) -> Response:
    """Ends the login whose page sent this; nothing where there is none."""
    cookie, issuer = request.cookies.get(sessions.COOKIE, ""), None
    principal = sessions.find(held.database, cookie)
    if principal is not None:
        sessions.require_csrf(principal, _text(form, "csrf"))
        issuer = sessions.log_out(held.database, cookie)
    response = back_to("/login?ended=sso" if issuer else "/login")
    response.delete_cookie(sessions.COOKIE)
    return response


@router.get("/account")
def own_account_page(session: SessionDep, owner: Owner, render: RenderDep) -> Response:
    return _own_account(session, owner, render)


@router.post("/account/password")
def change_own_password(session: SessionDep, held: ResourcesDep, submitted: OwnerForm, render: RenderDep) -> Response:
    """Ends all of one's logins, this one too."""
    current, new = (_text(submitted.fields, name) for name in ("current", "new"))
    try:
        sessions.change_password(held.database, submitted.principal.actor.removeprefix(ACCOUNT), current, new)
    except (sessions.WrongLogin, sessions.LoginThrottled, accounts.UnusableAccount) as error:
        status = 429 if isinstance(error, sessions.LoginThrottled) else 422
        return _own_account(session, submitted.principal, render, status, error.detail)
    return back_to("/login")


def _own_account(
    session: Session, owner: Principal, render: Render, status: int = 200, failure: str | None = None
) -> Response:
    row = account_queries.account(session, owner.actor.removeprefix(ACCOUNT))
    has_password = row is not None and row.password_hash != NO_PASSWORD
    return render("account.html", owner, status, account=row, has_password=has_password, failure=failure)


@router.get("/setup")
def setup_page(render: RenderDep, token: Annotated[str, Query(max_length=100)] = "") -> Response:
    return render("setup.html", ANONYMOUS, token=token, failure=None)


@router.post("/setup")
def set_up(held: ResourcesDep, render: RenderDep, form: OwnForm) -> Response:
    _require_local(held)
    token = _text(form, "token")
    try:
        accounts.set_up(held.database, token, _text(form, "name"), _text(form, "password"))
    except TriggerscopeError as error:
        return render("setup.html", ANONYMOUS, 422, token=token, failure=error.detail)
    return back_to("/login")


@router.get("/accounts")
def accounts_page(session: SessionDep, administrator: Administrator, render: RenderDep) -> Response:
    return render(
        "accounts.html",
        administrator,
        accounts=account_queries.accounts(session),
        linked=account_queries.linked_names(session),
        roles=list(ROLES),
    )


@router.post("/accounts")
def create_account(held: ResourcesDep, submitted: AdministratorForm) -> Response:
    name, role, password = (submitted.value(field) for field in ("name", "role", "password"))
    accounts.create(held.database, name, role, password, submitted.principal.actor)
    return back_to("/accounts")


@router.post("/accounts/{name}")
def change_account(held: ResourcesDep, submitted: AdministratorForm, name: str) -> Response:
    change, actor = submitted.value("change"), submitted.principal.actor
    if change == "password":
        accounts.set_password(held.database, name, _text(submitted.fields, "password"), actor)
    elif change == "role":
        accounts.change(held.database, name, actor, role=submitted.value("role"))
    elif change in ("disable", "enable"):
        accounts.change(held.database, name, actor, disabled=change == "disable")
    else:
        raise RequestError("invalid_request", "no such change")
    return back_to("/accounts")


@router.get("/keys")
def keys_page(session: SessionDep, administrator: Administrator, render: RenderDep) -> Response:
    return _keys(session, administrator, render)


@router.post("/keys")
def create_key(session: SessionDep, held: ResourcesDep, submitted: AdministratorForm, render: RenderDep) -> Response:
    """The new key is in the answer and nowhere else."""
    name, scopes = submitted.value("name"), submitted.values("scope")
    if not re.fullmatch(NAME, name) or not scopes or not set(scopes) <= set(SCOPES):
        raise RequestError("invalid_request", "a key has a name of letters, digits, dots and dashes, and a scope")
    token, _ = keys.create(held.database, name, scopes, _expiry(submitted.value("expires")), submitted.principal.actor)
    return _keys(session, submitted.principal, render, token)


@router.post("/keys/{name}")
def revoke_key(held: ResourcesDep, submitted: AdministratorForm, name: str) -> Response:
    keys.revoke(held.database, name, submitted.principal.actor)
    return back_to("/keys")


def _keys(session: Session, administrator: Principal, render: Render, token: str | None = None) -> Response:
    rows = queries.api_keys(session)
    return render("keys.html", administrator, keys=rows, scopes=SCOPES, token=token, now=utc_now())


def _expiry(text: str) -> datetime | None:
    """The end of a day in UTC, as the form's date field sends it."""
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC) + timedelta(days=1) if text else None
    except (ValueError, OverflowError):
        raise RequestError("invalid_request", "the expiry is a day, such as 2027-01-31") from None
