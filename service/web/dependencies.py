"""What endpoints are given: resources, a reading session, and a principal with the scope that the route declares."""

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer, SecurityScopes
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData

from service.addresses import is_loopback
from service.people import keys, sessions
from service.people.keys import ANONYMOUS, Principal, Unauthenticated
from service.web.errors import RequestError
from service.web.resources import Resources

bearer_scheme = HTTPBearer(auto_error=False, scheme_name="ApiKey", description="An API key of this service.")
ACCOUNT = "account:"  # how the actors of people begin
SAFE_METHODS = {"GET", "HEAD"}
FORM_BYTES, FORM_FIELDS = 256 * 1024, 1000
OWN_SITE = {None, "same-origin", "none"}


def resources(request: Request) -> Resources:
    held = request.app.state.resources
    if not isinstance(held, Resources):
        raise RequestError("not_ready", "the service is starting")
    return held


ResourcesDep = Annotated[Resources, Depends(resources)]


def read_session(held: ResourcesDep) -> Iterator[Session]:
    with held.database.read() as session:
        yield session


SessionDep = Annotated[Session, Depends(read_session)]


def authorise(
    scopes: SecurityScopes,
    request: Request,
    held: ResourcesDep,
    _bearer: Annotated[object, Depends(bearer_scheme)],
) -> Principal:
    return _with_scopes(_principal(request, held, request.headers.get("x-csrf-token", "")), scopes)


@dataclass(frozen=True, slots=True)
class SubmittedForm:
    """A page's form, and who sent it."""

    principal: Principal
    fields: FormData

    def value(self, name: str) -> str:
        found = self.fields.get(name, "")
        return found.strip() if isinstance(found, str) else ""

    def values(self, name: str) -> list[str]:
        return [value for value in self.fields.getlist(name) if isinstance(value, str)]


def authorise_owner(request: Request, held: ResourcesDep) -> Principal:
    """Somebody who is logged in, whatever the role: for what belongs to the account itself."""
    return _of_account(_principal(request, held, request.headers.get("x-csrf-token", "")))


async def authorise_owner_form(request: Request, held: ResourcesDep) -> SubmittedForm:
    fields = await read_form(request)
    submitted = SubmittedForm(ANONYMOUS, fields)
    principal = await run_in_threadpool(_principal, request, held, submitted.value("csrf"))
    return SubmittedForm(_of_account(principal), fields)


async def authorise_form(scopes: SecurityScopes, request: Request, held: ResourcesDep) -> SubmittedForm:
    """As `authorise`, for a page's form: its token against forgery is one of its fields."""
    fields = await read_form(request)
    submitted = SubmittedForm(ANONYMOUS, fields)
    principal = await run_in_threadpool(_principal, request, held, submitted.value("csrf"))
    return SubmittedForm(_with_scopes(principal, scopes), fields)


async def read_form(request: Request) -> FormData:
    """The fields of a form that is small and says so."""
    announced = request.headers.get("content-length", "")
    if not announced.isdecimal() or int(announced) > FORM_BYTES:
        raise RequestError("invalid_request", "a form of known and moderate size is needed")
    return await request.form(max_files=0, max_fields=FORM_FIELDS)


def _of_account(principal: Principal) -> Principal:
    if not principal.actor.startswith(ACCOUNT):
        raise RequestError("forbidden", "needed: a login")
    return principal


def _with_scopes(principal: Principal, scopes: SecurityScopes) -> Principal:
    if not set(scopes.scopes) <= principal.scopes:
        raise RequestError("forbidden", f"needed: {', '.join(scopes.scopes)}")
    return principal


Owner = Annotated[Principal, Depends(authorise_owner)]
OwnerForm = Annotated[SubmittedForm, Depends(authorise_owner_form)]
Uploader = Annotated[Principal, Security(authorise, scopes=["audits:write"])]
Announcer = Annotated[Principal, Security(authorise, scopes=["films:announce"])]
Reader = Annotated[Principal, Security(authorise, scopes=["audits:read"])]
Reviewer = Annotated[Principal, Security(authorise, scopes=["audits:review"])]
ReleaseReader = Annotated[Principal, Security(authorise, scopes=["releases:read"])]
Administrator = Annotated[Principal, Security(authorise, scopes=["admin"])]
ReaderForm = Annotated[SubmittedForm, Security(authorise_form, scopes=["audits:read"])]
ReviewForm = Annotated[SubmittedForm, Security(authorise_form, scopes=["audits:review"])]
AdministratorForm = Annotated[SubmittedForm, Security(authorise_form, scopes=["admin"])]


def _principal(request: Request, held: Resources, csrf_token: str) -> Principal:
    token = _token(request)
    if token is not None:
        principal = keys.authenticate(held.database, token)
        held.http.rates.take(principal.actor)
        return principal
    cookie = request.cookies.get(sessions.COOKIE)
    signed_in = sessions.find(held.database, cookie) if cookie else None
    if signed_in is not None:
        if request.method not in SAFE_METHODS:
            sessions.require_csrf(signed_in, csrf_token)
        return signed_in
    if not held.http.allow_anonymous:
        raise Unauthenticated("a valid API key is needed")
    _require_own_machine(request)
    return ANONYMOUS


def _token(request: Request) -> str | None:
    """Bearer anywhere; Basic, which browsers add to other sites' requests too, only for reading."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic" and request.method in SAFE_METHODS:
        return _basic_password(value)
    return None


def _basic_password(value: str) -> str:
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        raise Unauthenticated("a valid API key is needed") from None


def _require_own_machine(request: Request) -> None:
    """Other sites' pages in a local browser must not use the demo: neither by a rebound name nor across origins."""
    host = request.url.hostname or ""
    if not is_loopback(host) or request.headers.get("sec-fetch-site") not in OWN_SITE:
        raise RequestError("untrusted_origin", "allow_anonymous serves this machine only")
