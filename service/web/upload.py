"""Reading one film, or one classifier, from a request, never more of it than is allowed."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.message import Message

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.errors import EmptyBody, TooManyBytes
from service.web.errors import RequestError
from service.web.resources import Resources

RAW_TYPES = ("application/dicom", "image/png", "application/octet-stream")
MULTIPART = "multipart/form-data"
PROBABILITIES_HEADER = "Triggerscope-Probabilities"
ENVELOPE_BYTES = 64 * 1024  # boundaries and headers of a multipart body


@dataclass(frozen=True, slots=True)
class HandedIn:
    """A classifier's file, and the JSON of its description where it came with one."""

    file: bytes
    description: str | None


@asynccontextmanager
async def upload_slot(held: Resources) -> AsyncIterator[None]:
    """Bounds the films in memory: a request that finds no slot is refused at once."""
    if held.uploads.locked():
        raise RequestError("too_busy", "try again in a few seconds")
    async with held.uploads:
        yield


@dataclass(frozen=True, slots=True)
class Upload:
    """A film's bytes, and the JSON of the deployed classifier's probabilities where they came with it."""

    film: bytes
    probabilities: str | None


async def read_upload(request: Request, held: Resources) -> Upload:
    """Slow and large bodies are refused."""
    media_type = _media_type(request)
    try:
        async with asyncio.timeout(held.http.upload_seconds):
            upload = await _read(request, media_type, held.http.max_bytes)
    except TimeoutError:
        raise RequestError("upload_timeout", "the body did not arrive in time") from None
    return upload


async def read_classifier(request: Request, held: Resources) -> HandedIn:
    """A form with a `file` and, where the file does not describe itself, a `description`. It comes to rest on disk."""
    if _content_type(request) != MULTIPART:
        raise RequestError("unsupported_media_type", f"send {MULTIPART}")
    limits = held.http
    try:
        async with asyncio.timeout(limits.classifier_upload_seconds):
            handed_in = HandedIn(*await _read_form(request, limits.max_classifier_bytes, "description"))
    except TimeoutError:
        raise RequestError("upload_timeout", "the body did not arrive in time") from None
    _require_size(handed_in.file, limits.max_classifier_bytes)
    return handed_in


def _media_type(request: Request) -> str:
    media_type = _content_type(request)
    if media_type != MULTIPART and media_type not in RAW_TYPES:
        raise RequestError("unsupported_media_type", f"send one of {', '.join((MULTIPART, *RAW_TYPES))}")
    return media_type


def _content_type(request: Request) -> str:
    message = Message()
    message["content-type"] = request.headers.get("content-type", "application/octet-stream")
    return message.get_content_type()


async def _read(request: Request, media_type: str, max_bytes: int) -> Upload:
    if media_type == MULTIPART:
        upload = Upload(*await _read_form(request, max_bytes, "probabilities"))
    else:
        film = b"".join([chunk async for chunk in _capped(request, max_bytes)])
        upload = Upload(film, request.headers.get(PROBABILITIES_HEADER))
    _require_size(upload.film, max_bytes)
    return upload


def _require_size(file: bytes, max_bytes: int) -> None:
    if not file:
        raise EmptyBody("the request carries no bytes")
    if len(file) > max_bytes:
        raise TooManyBytes(f"more than {max_bytes} bytes")


async def _read_form(request: Request, max_bytes: int, field: str) -> tuple[bytes, str | None]:
    """The part `file`, and the text of another field where it is there."""
    stream = _capped(request, max_bytes + ENVELOPE_BYTES)
    try:
        form = await MultiPartParser(request.headers, stream, max_files=1, max_fields=8).parse()
    except (MultiPartException, KeyError):
        raise RequestError("malformed_multipart", "one part named `file` is needed") from None
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise RequestError("missing_file", "one part named `file` is needed")
        text = form.get(field)
        return await file.read(), text if isinstance(text, str) else None
    finally:
        await form.close()


async def _capped(request: Request, max_bytes: int) -> AsyncGenerator[bytes, None]:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise TooManyBytes(f"more than {max_bytes} bytes")
    count = 0
    async for chunk in request.stream():
        count += len(chunk)
        if count > max_bytes:
            raise TooManyBytes(f"more than {max_bytes} bytes")
        yield chunk
