"""Every error that HTTP callers may see: one table from stable code to status and title (RFC 9457)."""

import errno
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from service.errors import TriggerscopeError
from service.people.rates import RateLimited

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 5
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ErrorKind:
    status: int
    title: str


CATALOGUE: dict[str, ErrorKind] = {
    # the radiograph
    "empty_body": ErrorKind(400, "The request carries no bytes"),
    "unsupported_format": ErrorKind(415, "The file is neither PNG nor DICOM"),
    "unsupported_transfer_syntax": ErrorKind(415, "The DICOM transfer syntax is not decoded here"),
    "unsupported_radiograph": ErrorKind(422, "The file is not a single-frame grey radiograph"),
    "several_frames": ErrorKind(422, "The file holds several frames"),
    "too_many_bytes": ErrorKind(413, "The file is larger than allowed"),
    "too_many_pixels": ErrorKind(413, "The radiograph has more pixels than allowed"),
    "truncated": ErrorKind(422, "The pixel data end before the picture does"),
    "decode_failed": ErrorKind(422, "The pixel data cannot be decoded"),
    "not_understood": ErrorKind(422, "The DICOM header cannot be read, or lacks a UID"),
    "unsupported_sop_class": ErrorKind(422, "The DICOM object is not a CR or DX image for presentation"),
    # the request
    "malformed_multipart": ErrorKind(400, "The multipart body cannot be read"),
    "missing_file": ErrorKind(422, "The multipart body has no part named `file`, or several"),
    "unsupported_media_type": ErrorKind(415, "The Content-Type is not accepted"),
    "invalid_request": ErrorKind(422, "A parameter is missing or has an invalid value"),
    "invalid_cursor": ErrorKind(422, "The cursor was not made by this service"),
    "idempotency_key_reused": ErrorKind(422, "The Idempotency-Key came with another request before"),
    "unusable_probabilities": ErrorKind(422, "The deployed classifier's probabilities cannot be compared"),
    "client_disconnected": ErrorKind(400, "The caller hung up before the body was complete"),
    "upload_timeout": ErrorKind(408, "The body did not arrive in time"),
    "not_found": ErrorKind(404, "There is nothing at this address"),
    "method_not_allowed": ErrorKind(405, "The method is not allowed here"),
    "bad_request": ErrorKind(400, "The request cannot be understood"),
    # who asks
    "unauthenticated": ErrorKind(401, "A valid API key is needed"),
    "bad_signature": ErrorKind(401, "The hook's signature is missing, wrong or not of now"),
    "forbidden": ErrorKind(403, "The API key lacks the scope that this route needs"),
    "choice_forbidden": ErrorKind(403, "The classifier or policy named is not the one in force"),
    "untrusted_origin": ErrorKind(403, "Anonymous use is for this machine's own pages and programs"),
    "wrong_login": ErrorKind(401, "Name or password are wrong"),
    "rate_limited": ErrorKind(429, "The API key asked more often than it may"),
    "login_throttled": ErrorKind(429, "Too many failed logins under this name"),
    "sign_on_failed": ErrorKind(403, "The identity provider did not vouch for this login"),
    "identity_provider_unavailable": ErrorKind(503, "The identity provider does not answer as it should"),
    "no_local_accounts": ErrorKind(403, "Logins go through the identity provider only"),
    "last_administrator": ErrorKind(409, "The last administrator cannot be taken away"),
    "csrf_failed": ErrorKind(403, "The change does not come from a page of this service"),
    "setup_closed": ErrorKind(403, "The setup token is unknown, used or too old"),
    "account_exists": ErrorKind(409, "An account of this name exists"),
    "unknown_account": ErrorKind(404, "There is no account of this name"),
    "unknown_key": ErrorKind(404, "No API key has this name"),
    "key_exists": ErrorKind(409, "An API key of this name exists"),
    "unusable_account": ErrorKind(422, "The name, role or password cannot be used"),
    # what is asked for
    "audit_not_found": ErrorKind(404, "There is no audit of this id"),
    "not_finished": ErrorKind(409, "The audit has no verdict yet"),
    "map_not_found": ErrorKind(404, "The audit has no map of this name"),
    "not_stored": ErrorKind(410, "The file is no longer stored"),
    "evidence_changed": ErrorKind(409, "What is stored of the audit is not what was recorded"),
    "unknown_watch_entry": ErrorKind(404, "The watch list has no entry of this id"),
    "same_reader": ErrorKind(409, "The second of two readers has to be somebody else"),
    "unsuitable_reader": ErrorKind(422, "Nobody of this name may review"),
    "unknown_classifier": ErrorKind(404, "No active classifier has this name"),
    "unknown_policy": ErrorKind(404, "The classifier has no policy of this name or hash"),
    "warned_policy": ErrorKind(409, "The policy has warnings and no reason was given to put it in force despite them"),
    "no_active_classifier": ErrorKind(409, "No classifier was named and none is the default"),
    "nothing_to_roll_back": ErrorKind(409, "Nothing was in force before"),
    "unknown_destination": ErrorKind(404, "The rules name no destination so"),
    "unknown_delivery": ErrorKind(404, "No delivered or given up result has this id"),
    "unusable_classifier": ErrorKind(
        422, "The file cannot be audited as a classifier, or is refused by the examination"
    ),
    "not_examined": ErrorKind(409, "There is no report of an examination of this version"),
    "unusable_policy": ErrorKind(422, "The policy cannot be used with this classifier"),
    # us
    "parquet_not_installed": ErrorKind(501, "Parquet needs the extra `parquet` of this package"),
    "queue_full": ErrorKind(503, "Too many films are waiting"),
    "storage_full": ErrorKind(507, "The disk is full; nothing of the request was kept"),
    "database_away": ErrorKind(503, "The database does not answer, or has no room"),
    "too_busy": ErrorKind(503, "Too many uploads, maps to make or files to examine are in progress"),
    "overloaded": ErrorKind(503, "Too many requests are in progress"),
    "not_ready": ErrorKind(503, "The service is not ready"),
    "audit_failed": ErrorKind(500, "The film was accepted, but its audit failed"),
    "internal": ErrorKind(500, "The service made a mistake"),
}
# Codes that only the command line, or an audit that ended as failed, shows.
OFFLINE: dict[str, str] = {
    "attempts_exhausted": "The audit was started as often as allowed and its worker never came back",
    "database_not_ready": "The database schema is not the one that this version needs",
    "other_study": "The film belongs to another study than the STOW-RS address names",
    "film_not_given": "An archive lists a film and answers with an error whenever it is asked for it",
    "uid_mismatch": "The data set's UIDs are not those of the C-STORE request, or of the film that was asked for",
    "unusable_rules": "The rules file cannot be read, or says something that is not understood",
    "unusable_peers": "The list of DICOM peers cannot be read",
    "unusable_sources": "The list of watched sources cannot be read, or names none",
    "source_not_understood": "A watched source does not answer as DICOMweb or Orthanc does",
    "unusable_secret": "The file of a webhook's secret cannot be read, is not Base64 or too short",
    "delivery_failed": "The destination did not take the result",
    "unusable_result": "No result could be made of a film and its audit",
    "not_proven": "The destination took the result, but then did not show that it has it",
    "unknown_study": "No film of this study was received",
    "unreadable_checkpoint": "The file is not a checkpoint of this service",
    "no_receiver": "Neither a file nor a syslog server is set to forward the log to",
    "unusable_syslog_address": "The address of the syslog server cannot be used",
    "too_young": "Events of the last six months are not removed",
    "unreadable_archive": "The file is not an export of the log, or it cannot be read or made",
    "unreadable_bundle": "The file is not an evidence bundle, or it is damaged",
    "unusable_key": "The file is not an Ed25519 key",
    "unusable_setting": "A TRIGGERSCOPE_* variable holds what it cannot mean",
}
_BY_STATUS = {404: "not_found", 405: "method_not_allowed", 413: "too_many_bytes", 415: "unsupported_media_type"}


class RequestError(TriggerscopeError):
    """An error of the HTTP interface itself, by its code in the catalogue."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


ProblemPage = Callable[[Request, ErrorKind, str, str], Response]


def problem(request: Request, code: str, detail: str, errors: list[dict[str, str]] | None = None) -> Response:
    code = code if code in CATALOGUE else "internal"
    kind = CATALOGUE[code]
    request.app.state.metrics.refusals.labels(code).inc()
    page: ProblemPage | None = getattr(request.app.state, "problem_page", None)
    if page is not None and "text/html" in request.headers.get("accept", ""):
        return page(request, kind, code, detail)
    body = problem_body(code, detail, request.url.path)
    if errors is not None:
        body["errors"] = errors
    return JSONResponse(body, kind.status, _headers(kind.status), media_type=MEDIA_TYPE)


def problem_body(code: str, detail: str, instance: str) -> dict[str, object]:
    kind = CATALOGUE[code]
    return {
        "type": f"urn:triggerscope:error:{code}",
        "title": kind.title,
        "status": kind.status,
        "code": code,
        "detail": detail,
        "instance": instance,
    }


def problems(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI responses for error codes of the catalogue, each code with its example."""
    grouped: dict[int | str, list[str]] = {}
    for code in codes:
        grouped.setdefault(CATALOGUE[code].status, []).append(code)
    return {status: _documented(found) for status, found in grouped.items()}


def _documented(codes: list[str]) -> dict[str, Any]:
    examples = {code: {"value": problem_body(code, CATALOGUE[code].title, "/v1/audits")} for code in codes}
    schema = {"$ref": "#/components/schemas/Problem"}
    description = " ".join(f"`{code}`: {CATALOGUE[code].title}." for code in codes)
    return {"description": description, "content": {MEDIA_TYPE: {"schema": schema, "examples": examples}}}


def install(app: FastAPI) -> None:
    app.add_exception_handler(TriggerscopeError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(OSError, _on_disk)
    app.add_exception_handler(OperationalError, _on_database)
    app.add_exception_handler(PoolTimeout, _on_database)
    app.add_exception_handler(Exception, _on_mistake)


def _headers(status: int) -> dict[str, str]:
    if status == 401:
        return {"WWW-Authenticate": 'Basic realm="Triggerscope: API key as password", charset="UTF-8", Bearer'}
    return {"Retry-After": str(RETRY_AFTER_SECONDS)} if status in (429, 503) else {}


async def _on_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, TriggerscopeError):
        raise error
    response = problem(request, error.code, error.detail)
    if isinstance(error, RateLimited):
        response.headers["Retry-After"] = str(math.ceil(error.retry_after_seconds))
    return response


async def _on_invalid(request: Request, error: Exception) -> Response:
    """Says where and what, never the value that was sent."""
    found = error.errors() if isinstance(error, RequestValidationError) else []
    errors = [{"location": ".".join(str(part) for part in e["loc"]), "message": e["msg"]} for e in found]
    return problem(request, "invalid_request", "see errors", errors)


async def _on_http(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    code = _BY_STATUS.get(status, "bad_request" if status < 500 else "internal")
    response = problem(request, code, CATALOGUE[code].title)
    if isinstance(error, HTTPException) and error.headers:
        response.headers.update(error.headers)
    return response


async def _on_disconnect(request: Request, _error: Exception) -> Response:
    return problem(request, "client_disconnected", CATALOGUE["client_disconnected"].title)


async def _on_disk(request: Request, error: Exception) -> Response:
    """Files cannot be written; any other trouble of the operating system is a mistake of ours."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return await _on_mistake(request, error)
    log.error("storage.full")
    return problem(request, "storage_full", "the sender keeps the film and may try again")


async def _on_database(request: Request, error: Exception) -> Response:
    log.error("database.away", error=type(error).__name__)
    return problem(request, "database_away", "try again in a few seconds")


async def _on_mistake(request: Request, error: Exception) -> Response:
    route = getattr(request.scope.get("route"), "path", "unmatched")  # not the path: it may name a study
    log.error("request.failed", error=type(error).__name__, route=route)
    return problem(request, "internal", "the failure is in the log")
