"""What the HTTP server answers before there is a request: as a problem, as everything else."""

import json

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.web.errors import MEDIA_TYPE, problem_body


class Protocol(HttpToolsProtocol):
    def send_400_response(self, msg: str) -> None:
        """Bytes that are not HTTP."""
        body = json.dumps(problem_body("bad_request", msg, "")).encode()
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(f"{head}connection: close\r\n\r\n".encode() + body)
        self.transport.close()
