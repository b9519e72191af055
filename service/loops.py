"""Loops that last as long as their process: what a turn raises is logged, counted, shown and waited out."""

import signal
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import structlog

STUCK_SECONDS = 600.0
LONGEST_PAUSE_SECONDS = 60.0
log = structlog.get_logger()
Answer = TypeVar("Answer")


class Loop:
    """One loop, or one task of it, and how it fares. Read from any thread.

    failures: turns that raised, ever. stuck_seconds: how long a turn may take before the loop counts as stuck.
    """

    def __init__(self, name: str, stuck_seconds: float = STUCK_SECONDS) -> None:
        self.name = name
        self.failures = 0
        self._stuck_seconds = stuck_seconds
        self._in_a_row = 0
        self._turn_began: float | None = None
        self._has_died = False

    @property
    def fault(self) -> str | None:
        """What is wrong with the loop, in a sentence; None where nothing is."""
        began = self._turn_began
        if self._has_died:
            return f"the loop {self.name} has ended"
        if self._in_a_row:
            return f"the loop {self.name} fails (the last {self._in_a_row} turns)"
        if began is not None and time.monotonic() - began > self._stuck_seconds:
            return f"the loop {self.name} is stuck"
        return None

    def attempt(self, turn: Callable[[], Answer]) -> Answer | None:
        """One turn; None where it raised."""
        self._turn_began = time.monotonic()
        try:
            answer = turn()
        except Exception as error:  # noqa: BLE001 -- the last catch: whatever it was, the next turn may do better
            self.failures += 1
            self._in_a_row += 1
            log.error("loop.failed", loop=self.name, error=type(error).__name__, in_a_row=self._in_a_row)
            return None
        else:
            self._in_a_row = 0
            return answer
        finally:
            self._turn_began = None

    def run(self, turn: Callable[[], bool], stop: threading.Event, seconds: float) -> None:
        """Until `stop`. turn: do what there is; whether there may be more at once, or else after `seconds`.

        After turns that raised it waits ever longer, a minute at most.
        """
        self._has_died = False
        try:
            while not stop.is_set():
                more = self.attempt(turn)
                if more is None:
                    stop.wait(self.pause_seconds(seconds))
                elif not more:
                    stop.wait(seconds)
        finally:
            self._has_died = not stop.is_set()

    def pause_seconds(self, seconds: float) -> float:
        """How long to wait before the next turn: `seconds`, twice as long for each turn in a row that raised."""
        return min(seconds * 2.0 ** min(self._in_a_row, 16), max(seconds, LONGEST_PAUSE_SECONDS))


def stop_signal() -> threading.Event:
    """Set when the process is asked to end."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    return stop
