"""What endpoints are given: resources, a reading session, and a principal with the scope that the route declares."""

import base64
import binascii
from collections.abc import Iterator
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer, SecurityScopes
from sqlalchemy.orm import Session

from service import keys
from service.api.errors import RequestError
from service.keys import ANONYMOUS, Principal, Unauthenticated
from service.resources import Resources
from service.settings import is_loopback

bearer_scheme = HTTPBearer(auto_error=False, scheme_name="ApiKey", description="An API key of this service.")
SAFE_METHODS = {"GET", "HEAD"}
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
    principal = _principal(request, held)
    if not set(scopes.scopes) <= principal.scopes:
        raise RequestError("forbidden", f"needed: {', '.join(scopes.scopes)}")
    return principal


Uploader = Annotated[Principal, Security(authorise, scopes=["audits:write"])]
Reader = Annotated[Principal, Security(authorise, scopes=["audits:read"])]
Administrator = Annotated[Principal, Security(authorise, scopes=["admin"])]


def _principal(request: Request, held: Resources) -> Principal:
    token = _token(request)
    if token is not None:
        return keys.authenticate(held.database, token)
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
