"""Runs the real service for tests: in a thread of this process, or as a process of its own that can be killed."""

import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import uvicorn
from PIL import Image

from service.app import create_app
from service.settings import Settings
from service.web.protocol import Protocol
from tests.conftest import REPOSITORY

START_SECONDS = 120


def png(seed: int, size: int = 224) -> bytes:
    """A film that is like no other."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


@contextmanager
def serving(settings: Settings) -> Iterator[httpx.Client]:
    """A client of a real server on a free port of loopback."""
    config = uvicorn.Config(
        create_app(settings), port=0, http=Protocol, log_config=None, access_log=False, lifespan="on"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield from _client_of(server, thread)
    finally:
        server.should_exit = True
        thread.join()


def _client_of(server: uvicorn.Server, thread: threading.Thread) -> Iterator[httpx.Client]:
    until = time.monotonic() + START_SECONDS
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        assert time.monotonic() < until
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        yield client


def start_process(port: int, settings: dict[str, str], command: str = "serve") -> subprocess.Popen[bytes]:
    environment = {**os.environ, **{f"TRIGGERSCOPE_{name.upper()}": value for name, value in settings.items()}}
    environment["TRIGGERSCOPE_PORT"] = str(port)
    with Path(os.devnull).open("wb") as nowhere:
        return subprocess.Popen(
            [sys.executable, "-m", "service", command], cwd=REPOSITORY, env=environment, stderr=nowhere
        )


def wait_until_ready(client: httpx.Client) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise TimeoutError("the server did not become ready")
