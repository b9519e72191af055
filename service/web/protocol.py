"""The HTTP server's ends: what it answers before there is a request, and what it ends before open requests."""

import json
import socket
from collections.abc import Callable

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.web.errors import MEDIA_TYPE, problem_body


class Server(uvicorn.Server):
    """on_shutdown: called when the server is asked to stop, before it waits for the requests that are open."""

    def __init__(self, config: uvicorn.Config, on_shutdown: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_shutdown = on_shutdown

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_shutdown()
        await super().shutdown(sockets)


class Protocol(HttpToolsProtocol):
    def send_400_response(self, msg: str) -> None:
        """Bytes that are not HTTP."""
        body = json.dumps(problem_body("bad_request", msg, "")).encode()
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(f"{head}connection: close\r\n\r\n".encode() + body)
        self.transport.close()
