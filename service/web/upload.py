"""Reading one film from a request, never more of it than is allowed."""

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
    if not upload.film:
        raise EmptyBody("the request carries no bytes")
    return upload


def _media_type(request: Request) -> str:
    message = Message()
    message["content-type"] = request.headers.get("content-type", "application/octet-stream")
    media_type = message.get_content_type()
    if media_type != MULTIPART and media_type not in RAW_TYPES:
        raise RequestError("unsupported_media_type", f"send one of {', '.join((MULTIPART, *RAW_TYPES))}")
    return media_type


async def _read(request: Request, media_type: str, max_bytes: int) -> Upload:
    if media_type == MULTIPART:
        upload = await _read_multipart(request, max_bytes)
    else:
        film = b"".join([chunk async for chunk in _capped(request, max_bytes)])
        upload = Upload(film, request.headers.get(PROBABILITIES_HEADER))
    if len(upload.film) > max_bytes:
        raise TooManyBytes(f"more than {max_bytes} bytes")
    return upload


async def _read_multipart(request: Request, max_bytes: int) -> Upload:
    stream = _capped(request, max_bytes + ENVELOPE_BYTES)
    try:
        form = await MultiPartParser(request.headers, stream, max_files=1, max_fields=8).parse()
    except (MultiPartException, KeyError):
        raise RequestError("malformed_multipart", "one part named `file` is needed") from None
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise RequestError("missing_file", "one part named `file` is needed")
        probabilities = form.get("probabilities")
        return Upload(await file.read(), probabilities if isinstance(probabilities, str) else None)
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
