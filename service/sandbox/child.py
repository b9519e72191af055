"""The parent's end: start a child process that is ours to end, and speak with it over one socket."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

PACKAGE_ROOT = Path(__file__).resolve().parents[2]
KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "LANG", "SYSTEMROOT")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
PIECE_BYTES = 1 << 20


class Child:
    """One process that runs `module` with the socket's descriptor as its argument; not for two threads at once."""

    def __init__(self, module: str) -> None:
        self.connection, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own module, by the running interpreter
                [sys.executable, "-P", "-m", module, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """End the process, whatever it is doing. May be called twice, and from another thread."""
        self._process.kill()
        self._process.wait()
        self.connection.close()

    def send(self, data: bytes | memoryview, deadline: float) -> None:
        """Raises TimeoutError past the `deadline` of time.monotonic(), OSError where the child is gone."""
        view = memoryview(data)
        for start in range(0, len(view), PIECE_BYTES):
            self.connection.settimeout(max(1e-3, deadline - time.monotonic()))
            self.connection.sendall(view[start : start + PIECE_BYTES])

    def receive(self, count: int, deadline: float) -> bytearray:
        return receive(self.connection, count, deadline)


def receive(connection: socket.socket, count: int, deadline: float | None = None) -> bytearray:
    """Exactly `count` bytes.

    Raises EOFError where the other end closed before, TimeoutError past the `deadline` of time.monotonic().
    """
    buffer = bytearray(count)
    receive_into(connection, memoryview(buffer), deadline)
    return buffer


def receive_into(connection: socket.socket, view: memoryview, deadline: float | None) -> None:
    """Fill a buffer, as `receive` does."""
    position = 0
    while position < len(view):
        if deadline is not None:
            connection.settimeout(max(1e-3, deadline - time.monotonic()))
        read = connection.recv_into(view[position:])
        if not read:
            raise EOFError("the other end closed the connection")
        position += read


def _environment() -> dict[str, str]:
    """Nothing secret: the service's own variables hold addresses and passwords."""
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    inherited = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(PACKAGE_ROOT), *([inherited] if inherited else [])])
    return {**kept, **ONE_THREAD, "PYTHONPATH": path}
