"""Bytes -> Radiograph: PNG and DICOM, sizes checked first, decoded in a bounded child process."""

import atexit
import functools
import hashlib
import os
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from service.errors import EmptyBody, TooManyBytes, UnsupportedFormat
from service.films.decoder_process import Bounds, DecodedFilm, DecoderProcess

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
DICOM_PREFIX, DICOM_PREFIX_OFFSET = b"DICM", 128
FILE_META_GROUP = b"\x02\x00"  # a DICOM file without its preamble begins with group 2
FILMS_PER_PROCESS = 500  # then a fresh one, so that what decoders leak stays bounded
DEFAULT_PROCESSES = 4


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what is decoded."""

    max_bytes: int = 128 * 1024 * 1024
    max_pixels: int = 64_000_000
    decode_memory_bytes: int = 2 * 1024**3
    decode_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Radiograph:
    """One decoded film, free of identifiers.

    pixels: (height, width) float32 in [0, 1]; 0 = air-black, whatever the photometric interpretation.
    sha256: of the received bytes. pixels_sha256: of the decoded pixels and their shape.
    attributes: identifier-free facts for routing and the record: `format` ("png" or "dicom") and, for DICOM,
    `modality`, `view_position`, `body_part`, `transfer_syntax`, `photometric_interpretation`, `bits_stored`.
    """

    pixels: NDArray[np.float32]
    sha256: str
    pixels_sha256: str
    attributes: dict[str, str]

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])


DEFAULT_LIMITS = Limits()


class Decoder:
    """A pool of decoder processes, started when they are first needed; safe for use by several threads.

    A context manager, which starts all of them at once so that the first film does not wait.
    """

    def __init__(self, processes: int = DEFAULT_PROCESSES) -> None:
        """processes: how many films are decoded at a time. Raises ValueError below 1."""
        if processes < 1:
            raise ValueError(f"{processes} decoder processes are too few")
        self._slots: queue.LifoQueue[DecoderProcess | None] = queue.LifoQueue()  # the warmest process is used first
        for _ in range(processes):
            self._slots.put(None)
        self._started: set[DecoderProcess] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._owner = os.getpid()

    def __enter__(self) -> Self:
        slots = [self._slots.get() for _ in range(self._slots.qsize())]
        for slot in slots:
            self._slots.put(slot or self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def decode(self, data: bytes, limits: Limits = DEFAULT_LIMITS) -> Radiograph:
        """Decode the bytes of one PNG or DICOM file.

        PNG: level = value / largest value. DICOM: modality LUT, then the first VOI LUT or window, whose output range
        becomes [0, 1]; without either, the film's own range does. MONOCHROME1 is inverted.
        Raises RadiographError for bytes that are no usable film, RuntimeError after `close`.
        """
        kind = film_format(data, limits)
        bounds = Bounds(limits.max_pixels, limits.decode_memory_bytes, limits.decode_seconds)
        with self._process() as process:
            film = process.decode(kind, data, bounds)
        return _radiograph(data, film)

    def close(self) -> None:
        """End all processes; a film that is being decoded fails. May be called twice."""
        with self._lock:
            self._closed = True
            processes, self._started = self._started, set()
        if os.getpid() == self._owner:  # not in a fork of this process
            for process in processes:
                process.stop()

    @contextmanager
    def _process(self) -> Iterator[DecoderProcess]:
        slot = self._slots.get()
        try:
            slot = self._usable(slot)
            yield slot
        finally:
            self._slots.put(slot)

    def _usable(self, slot: DecoderProcess | None) -> DecoderProcess:
        if slot is None:
            return self._start()
        if slot.alive and slot.films < FILMS_PER_PROCESS:
            return slot
        self._retire(slot)
        return self._start()

    def _start(self) -> DecoderProcess:
        with self._lock:
            if self._closed:
                raise RuntimeError("the decoder is closed")
            process = DecoderProcess()
            self._started.add(process)
        return process

    def _retire(self, process: DecoderProcess) -> None:
        with self._lock:
            self._started.discard(process)
        process.stop()


def film_format(data: bytes, limits: Limits = DEFAULT_LIMITS) -> str:
    """`png` or `dicom`, by the first bytes. Raises EmptyBody, TooManyBytes or UnsupportedFormat."""
    if not data:
        raise EmptyBody("the file is empty")
    if len(data) > limits.max_bytes:
        raise TooManyBytes(f"the file has more than {limits.max_bytes} bytes")
    if data.startswith(PNG_SIGNATURE):
        return "png"
    if data[DICOM_PREFIX_OFFSET : DICOM_PREFIX_OFFSET + 4] == DICOM_PREFIX or data.startswith(FILE_META_GROUP):
        return "dicom"
    raise UnsupportedFormat("the file is neither PNG nor DICOM")


def _radiograph(data: bytes, film: DecodedFilm) -> Radiograph:
    return Radiograph(film.pixels, hashlib.sha256(data).hexdigest(), _pixels_sha256(film.pixels), film.attributes)


def _pixels_sha256(pixels: NDArray[np.float32]) -> str:
    digest = hashlib.sha256(f"{pixels.shape[0]}x{pixels.shape[1]}:".encode())
    digest.update(np.ascontiguousarray(pixels, dtype="<f4").data)
    return digest.hexdigest()


@functools.cache
def _default_decoder(_process_id: int) -> Decoder:
    """One for each process: a fork must not speak on its parent's connections."""
    decoder = Decoder()
    atexit.register(decoder.close)
    return decoder


def decode(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Radiograph:
    """As `Decoder.decode`, with processes that are started when needed and end with this one."""
    return _default_decoder(os.getpid()).decode(data, limits)
