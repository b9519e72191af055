"""Tells waiting requests that an audit has ended."""

import asyncio
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Completions:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._lock = threading.Lock()

    @contextmanager
    def subscribe(self, job_id: str) -> Iterator[asyncio.Event]:
        event = asyncio.Event()
        with self._lock:
            self._waiting[job_id].add(event)
        try:
            yield event
        finally:
            self._unsubscribe(job_id, event)

    def announce(self, job_id: str) -> None:
        """Callable from any thread."""
        with self._lock:
            events = tuple(self._waiting.get(job_id, ()))
        for event in events:
            self._loop.call_soon_threadsafe(event.set)

    def _unsubscribe(self, job_id: str, event: asyncio.Event) -> None:
        with self._lock:
            self._waiting[job_id].discard(event)
            if not self._waiting[job_id]:
                del self._waiting[job_id]
