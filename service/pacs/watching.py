"""The loop of every watcher: asks again and again, more slowly while something is away, at once when a hook says so."""

import threading
import time
from collections.abc import Callable

from service.loops import Loop
from service.records import pacs_queries
from service.records.session import Database, utc_now

ANNOUNCED = "announced"
LOOK_SECONDS = 0.25


def announce(database: Database) -> None:
    """Films have arrived somewhere: watchers of this database, in whichever process, look now."""
    with database.write() as unit:
        pacs_queries.move_cursor(unit.session, ANNOUNCED, time.time_ns() // 1000, utc_now())


def keep_watching(
    source: str, poll: Callable[[], bool], database: Database, stop: threading.Event, seconds: float
) -> None:
    """Polls until `stop`. poll: take what is new; whether there is more.

    While the source, disk or database are away, or the queue is full, it asks ever more slowly.
    """

    def turn() -> bool:
        announced = _announced(database)
        if not poll():
            _pause(database, stop, seconds, announced)
        return True

    Loop(f"watch {source}").run(turn, stop, seconds)


def _pause(database: Database, stop: threading.Event, seconds: float, announced: int) -> None:
    """announced: as it was before the poll, so that what is announced during it is not missed."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and not stop.wait(min(left, LOOK_SECONDS)):
        if _announced(database) != announced:
            return


def _announced(database: Database) -> int:
    with database.read() as session:
        return pacs_queries.cursor(session, ANNOUNCED)
