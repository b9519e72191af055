"""The loop of every watcher: asks again and again, more slowly while something is away, at once when a hook says so."""

import threading
import time
from collections.abc import Callable

import httpx
import structlog
from sqlalchemy.exc import SQLAlchemyError

from service.audit.errors import TriggerscopeError
from service.db import pacs_queries
from service.db.session import Database, utc_now

ANNOUNCED = "announced"
LOOK_SECONDS = 0.25
LONGEST_WAIT_SECONDS = 60.0
log = structlog.get_logger()


def announce(database: Database) -> None:
    """Films have arrived somewhere: watchers of this database, in whichever process, look now."""
    with database.write() as unit:
        pacs_queries.move_cursor(unit.session, ANNOUNCED, time.time_ns() // 1000, utc_now())


def keep_watching(poll: Callable[[], bool], database: Database, stop: threading.Event, seconds: float) -> None:
    """Polls until `stop`. poll: take what is new; whether there is more.

    While the source, disk or database are away, or the queue is full, it asks ever more slowly.
    """
    wait = seconds
    while not stop.is_set():
        try:
            announced = _announced(database)
            if not poll():
                _pause(database, stop, seconds, announced)
            wait = seconds
        except (httpx.HTTPError, SQLAlchemyError, OSError, TriggerscopeError) as error:
            wait = min(2 * wait, max(seconds, LONGEST_WAIT_SECONDS))
            log.warning("watch.interrupted", error=type(error).__name__, seconds=wait)
            stop.wait(wait)


def _pause(database: Database, stop: threading.Event, seconds: float, announced: int) -> None:
    """announced: as it was before the poll, so that what is announced during it is not missed."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and not stop.wait(min(left, LOOK_SECONDS)):
        if _announced(database) != announced:
            return


def _announced(database: Database) -> int:
    with database.read() as session:
        return pacs_queries.cursor(session, ANNOUNCED)
