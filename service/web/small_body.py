"""Routes whose JSON body is small: FastAPI reads all of a body before it asks who sends it."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

LARGEST_BYTES = 64 * 1024


class SmallBodyRoute(APIRoute):
    """Answers 413 as soon as a body is announced as larger, or turns out to be."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_small(request: Request) -> Response:
            announced = request.headers.get("content-length", "")
            if announced.isdecimal() and int(announced) > LARGEST_BYTES:
                raise HTTPException(413)
            return await handle(Request(request.scope, _bounded(request.receive)))

        return handle_small


def _bounded(receive: Receive) -> Receive:
    count = 0

    async def receive_bounded() -> Message:
        nonlocal count
        message = await receive()
        count += len(message.get("body", b""))
        if count > LARGEST_BYTES:
            raise HTTPException(413)
        return message

    return receive_bounded
