"""The handle of one decoder process: start it, ask it, end it."""

import json
import struct
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.errors import DecodeFailed, RadiographError, TriggerscopeError
from service.sandbox.child import Child, receive_into

FORMATS = {"png": b"P", "dicom": b"D"}
READY = b"R"
REQUEST = struct.Struct("<cQQQd")  # format, byte count, largest pixel count, memory in bytes, seconds
REPLY = struct.Struct("<I")  # length of the JSON table that follows
LARGEST_TABLE_BYTES = 4096
START_SECONDS = 60.0
CODES = {error.code: error for error in RadiographError.__subclasses__()}


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one request may use."""

    max_pixels: int
    memory_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class DecodedFilm:
    """pixels: (height, width) float32 in [0, 1]. attributes: identifier-free."""

    pixels: NDArray[np.float32]
    attributes: dict[str, str]


class DecoderProcess:
    """One child process; not for use by two threads at once."""

    def __init__(self) -> None:
        self._child = Child("service.films.decoding")
        self.films = 0
        self._ready = False

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def alive(self) -> bool:
        return self._child.alive

    def stop(self) -> None:
        """End the process, whatever it is doing. May be called twice, and from another thread."""
        self._child.stop()

    def decode(self, kind: str, data: bytes, bounds: Bounds) -> DecodedFilm:
        """Raises RadiographError; DecodeFailed also where the process died or took too long, and is stopped then."""
        self._await_ready()
        self.films += 1
        deadline = time.monotonic() + bounds.seconds
        try:
            self._send(kind, data, bounds)
            return self._reply(bounds, deadline)
        except TimeoutError:
            self.stop()
            raise DecodeFailed("the decoder took longer than its time limit") from None
        except (OSError, EOFError, ValueError, KeyError, TypeError):
            self.stop()
            raise DecodeFailed("the decoder process ended without an answer") from None

    def _await_ready(self) -> None:
        if self._ready:
            return
        try:
            started = self._child.receive(len(READY), time.monotonic() + START_SECONDS) == READY
        except (OSError, EOFError):
            started = False
        if not started:
            self.stop()
            raise TriggerscopeError("the decoder process did not start")
        self._ready = True

    def _send(self, kind: str, data: bytes, bounds: Bounds) -> None:
        deadline = time.monotonic() + bounds.seconds
        head = REQUEST.pack(FORMATS[kind], len(data), bounds.max_pixels, bounds.memory_bytes, bounds.seconds)
        self._child.send(head, deadline)
        self._child.send(data, deadline)

    def _reply(self, bounds: Bounds, deadline: float) -> DecodedFilm:
        (length,) = REPLY.unpack(self._child.receive(REPLY.size, deadline))
        if length > LARGEST_TABLE_BYTES:
            raise ValueError("the decoder's answer is malformed")
        table = json.loads(self._child.receive(length, deadline))
        if "error" in table:
            if table["last"]:
                self.stop()
            raise CODES[table["error"]](table["detail"])
        shape, item_bytes = (int(table["height"]), int(table["width"])), int(table["bytes"])
        if min(shape) < 1 or shape[0] * shape[1] > bounds.max_pixels or item_bytes not in (1, 2):
            raise ValueError("the decoder's answer is malformed")
        attributes = {str(name): str(value) for name, value in table["attributes"].items()}
        return DecodedFilm(self._pixels(shape, item_bytes, deadline), attributes)

    def _pixels(self, shape: tuple[int, int], item_bytes: int, deadline: float) -> NDArray[np.float32]:
        levels = np.frombuffer(self._child.receive(4 << 8 * item_bytes, deadline), "<f4")
        if len(levels) != 1 << 8 * item_bytes or not ((levels >= 0) & (levels <= 1)).all():
            raise ValueError("the decoder's levels are outside [0, 1]")
        raw = np.empty(shape[0] * shape[1] * item_bytes, np.uint8)
        receive_into(self._child.connection, raw.data, deadline)
        values = raw.view(np.uint8 if item_bytes == 1 else np.uint16).reshape(shape)
        pixels: NDArray[np.float32] = levels[values].astype(np.float32, copy=False)
        return pixels
