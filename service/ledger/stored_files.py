"""What is stored beside the database, held against the log: the other half of `log verify`.

The log tells of an audit's pixels and maps by hash and size; an original is named by its hash. Presence and sizes are
looked at quickly; reading everything takes as long as the archive takes to read.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from service.ledger.verify import Fault
from service.records import log_queries, queries
from service.records.session import Database, utc_now
from service.records.storage import EvidenceChanged, Kept, NotStored, Storage, read_kept, require_size

BATCH = 500
Progress = Callable[[int, int], None]
Row = TypeVar("Row", bound=tuple[Any, ...])


@dataclass(slots=True)
class FilesReport:
    """files, byte_count: that are there as recorded. unbound: audits from before their files were recorded.
    removed: originals whose time is over, or whose study was forgotten."""

    files: int = 0
    byte_count: int = 0
    unbound: int = 0
    removed: int = 0
    faults: list[Fault] = field(default_factory=list)


def nothing(_files: int, _byte_count: int) -> None:
    """Nobody waits."""


def verify(database: Database, storage: Storage, progress: Progress = nothing, *, read: bool) -> FilesReport:
    """Check every stored file. read: its bytes too, not only that it is there and how long it is.

    progress: called now and then with the number of files and of bytes so far.
    """
    look = _Look(storage, read_kept if read else require_size)
    for audits in _batches(database, log_queries.audit_files):
        for audit in audits:
            look.at_audit(*audit)
        progress(look.report.files, look.report.byte_count)
    for originals in _batches(database, log_queries.originals):
        for original in originals:
            look.at_original(database, *original)
        progress(look.report.files, look.report.byte_count)
    return look.report


def _batches(database: Database, query: Callable[[Session, str, int], Sequence[Row]]) -> Iterator[Sequence[Row]]:
    """Each in a transaction of its own, for reading an archive takes hours."""
    after = ""
    while True:
        with database.read() as session:
            rows = query(session, after, BATCH)
        if not rows:
            return
        yield rows
        after = rows[-1][0]


@dataclass(slots=True)
class _Look:
    storage: Storage
    look: Callable[[Path, Kept], object]
    report: FilesReport = field(default_factory=FilesReport)
    pixels_seen: set[tuple[str, str]] = field(default_factory=set)  # audits of one film share them

    def at_audit(self, audit_id: str, pixels_sha256: str, files: Any) -> None:
        if files is None:
            self.report.unbound += 1
            return
        try:
            pixels, maps = Kept(**files["pixels"]), Kept(**files["maps"])
        except (KeyError, TypeError):
            self.report.faults.append(Fault("files are told of by a value that cannot be read", audit_id))
            return
        if (pixels_sha256, pixels.sha256) not in self.pixels_seen:
            self.pixels_seen.add((pixels_sha256, pixels.sha256))
            self._at_file(self.storage.pixels_path(pixels_sha256), pixels, "pixels", audit_id)
        self._at_file(self.storage.maps_path(audit_id, maps), maps, "maps", audit_id)

    def at_original(self, database: Database, sha256: str, byte_count: int, expires_at: datetime | None) -> None:
        if expires_at is None:
            self.report.removed += 1
            return
        path, kept = self.storage.original_path(sha256), Kept(sha256, byte_count)
        if not path.exists() and _is_over(database, sha256):
            self.report.removed += 1
            return
        self._at_file(path, kept, "original", sha256)

    def _at_file(self, path: Path, kept: Kept, name: str, place: str) -> None:
        try:
            self.look(path, kept)
        except NotStored:
            self.report.faults.append(Fault(f"stored {name} missing, and no removal is recorded", place))
        except EvidenceChanged:
            self.report.faults.append(Fault(f"stored {name} changed", place))
        else:
            self.report.files += 1
            self.report.byte_count += kept.byte_count


def _is_over(database: Database, film_sha256: str) -> bool:
    """Whether the original may have been removed by now: the service works while its files are checked."""
    with database.read() as session:
        film = queries.film(session, film_sha256)
    return film is None or film.original_expires_at is None or film.original_expires_at <= utc_now()
