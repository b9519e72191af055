"""Who works on which job, and until when: a worker that goes silent loses its jobs to another."""

import os
import secrets
import time
from collections.abc import Sequence
from datetime import timedelta

from service.records import queries
from service.records.session import Database, utc_now
from service.records.tables import JobRow


class Leases:
    """One worker's. seconds: how long a job stays its own without being renewed."""

    def __init__(self, database: Database, seconds: float) -> None:
        self.owner = f"{os.getpid()}-{secrets.token_hex(8)}"
        self._database, self._seconds = database, seconds
        self._renewed_at = 0.0

    def claim(self, limit: int) -> Sequence[JobRow]:
        """Lease the oldest queued jobs, those of workers that went silent among them."""
        with self._database.read() as session:
            if not queries.has_claimable(session, utc_now()):
                return []
        with self._database.write() as unit:
            now = utc_now()
            queries.requeue_expired(unit.session, now)
            return list(queries.claim(unit.session, self.owner, now + self._length, limit))

    def renew(self) -> None:
        """Keep what is in work; does something only when a third of the time has gone."""
        if time.monotonic() - self._renewed_at > self._seconds / 3:
            with self._database.write() as unit:
                queries.renew_leases(unit.session, self.owner, utc_now() + self._length)
            self._renewed_at = time.monotonic()

    def release(self) -> None:
        """Hand back what was not begun."""
        with self._database.write() as unit:
            queries.release_leases(unit.session, self.owner)

    @property
    def _length(self) -> timedelta:
        return timedelta(seconds=self._seconds)
