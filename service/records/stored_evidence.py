"""The files that audits rest on, read only as recorded: each file against the record, and the record against the log.

Whoever changes a file is found at the next reading, and so is whoever changes the record along with it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray

from service.records import log_queries, queries
from service.records.chain import record_hash
from service.records.session import Database, Unit
from service.records.storage import EvidenceChanged, Kept, NotStored, Storage, audit_maps, grey_pixels, read_kept
from service.records.tables import AuditRow, JobRow

ACTOR = "evidence"
CHANGED = "evidence.changed"
WORDS = {"original": "original is", "pixels": "pixels are", "maps": "maps are"}
T = TypeVar("T")
log = structlog.get_logger()


class StoredEvidence:
    """Reads what is stored of films and audits; that something was changed is recorded once for each of its files.

    Every reading raises EvidenceChanged, and NotStored where the file is gone. An audit from before its files were
    recorded (its `files` are None) is held against the log, its pixels and maps against nothing.
    """

    def __init__(self, database: Database, storage: Storage) -> None:
        self._database, self._storage = database, storage

    def original(self, job: JobRow) -> bytes:
        """The received bytes of the job's film: their hash is the film's name."""
        with self._database.read() as session:
            film = queries.film(session, job.film_sha256)
        if film is None or film.original_expires_at is None:
            raise NotStored("the original was removed when its time was over, or with its study")
        kept, path = Kept(film.sha256, film.byte_count), self._storage.original_path(film.sha256)
        return self._read(job.id, "original", path, kept, bytes)

    def pixels(self, row: AuditRow, unit: Unit | None = None) -> NDArray[np.uint8]:
        """The film's decoded pixels, (height, width). unit: the transaction that the caller has open, if any."""
        return self._pixels(row, grey_pixels, unit)

    def pixels_file(self, row: AuditRow) -> bytes:
        """The pixels as numpy wrote them (.npy)."""
        return self._pixels(row, bytes)

    def maps(self, row: AuditRow) -> dict[str, NDArray[np.float32]]:
        """The maps of the explained label, each on its own grid."""
        return self._maps(row, audit_maps)

    def maps_file(self, row: AuditRow) -> bytes:
        """The maps as numpy wrote them (.npz)."""
        return self._maps(row, bytes)

    def require_record(self, row: AuditRow, unit: Unit | None = None) -> None:
        """Raises EvidenceChanged unless the audit is the one that the log vouches for."""
        with self._noted(row.id, "record", unit), self._database.read() as session:
            if log_queries.record_told(session, row.id) != record_hash(row):
                raise EvidenceChanged("the audit's record is not the one in the log")

    def _pixels(self, row: AuditRow, parse: Callable[[bytes], T], unit: Unit | None = None) -> T:
        self.require_record(row, unit)
        path = self._storage.pixels_path(row.pixels_sha256)
        return self._read(row.id, "pixels", path, kept_of(row, "pixels"), parse, unit)

    def _maps(self, row: AuditRow, parse: Callable[[bytes], T]) -> T:
        self.require_record(row)
        kept = kept_of(row, "maps")
        return self._read(row.id, "maps", self._storage.maps_path(row.id, kept), kept, parse)

    def _read(
        self,
        audit_id: str,
        name: str,
        path: Path,
        kept: Kept | None,
        parse: Callable[[bytes], T],
        unit: Unit | None = None,
    ) -> T:
        with self._noted(audit_id, name, unit):
            try:
                return parse(read_kept(path, kept))
            except NotStored:
                raise NotStored(f"the stored {WORDS[name]} missing, and no removal is recorded") from None
            except EvidenceChanged:
                raise EvidenceChanged(f"the stored {WORDS[name]} not what was recorded") from None

    @contextmanager
    def _noted(self, audit_id: str, name: str, unit: Unit | None = None) -> Iterator[None]:
        try:
            yield
        except EvidenceChanged:
            self._note(audit_id, name, unit)
            raise

    def _note(self, audit_id: str, name: str, unit: Unit | None) -> None:
        with self._database.read() as session:
            if log_queries.was_recorded(session, CHANGED, audit_id, name):
                return
        if unit is not None:
            _record(unit, audit_id, name)
            return
        with self._database.write() as own:
            _record(own, audit_id, name)


def kept_of(row: AuditRow, name: str) -> Kept | None:
    """What the record says of a file; None in an audit from before that."""
    return None if row.files is None else Kept(**row.files[name])


def _record(unit: Unit, audit_id: str, name: str) -> None:
    queries.lock_job(unit.session, audit_id)  # several pictures of a page come at once
    if not log_queries.was_recorded(unit.session, CHANGED, audit_id, name):
        unit.record(CHANGED, audit_id, ACTOR, file=name)
        log.error(CHANGED, audit=audit_id, file=name)
