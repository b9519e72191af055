"""Files beside the database: received originals, which expire, and the pixels and maps that stay.

A file is read only together with what the record says of it, and handed on only where it is that file.
"""

import hashlib
import io
import os
import secrets
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray

from service.errors import TriggerscopeError

PARTIAL_PREFIX = ".partial-"
log = structlog.get_logger()


class NotStored(TriggerscopeError):
    """The original, pixels or maps are not in the store (any more)."""

    code = "not_stored"


class EvidenceChanged(TriggerscopeError):
    """What is stored of an audit is not what was recorded."""

    code = "evidence_changed"


@dataclass(frozen=True, slots=True)
class Kept:
    """A file as it was written: the SHA-256 of its bytes, and how many they are."""

    sha256: str
    byte_count: int

    @classmethod
    def of(cls, data: bytes) -> "Kept":
        return cls(hashlib.sha256(data).hexdigest(), len(data))


class Storage:
    """Writes are atomic and durable: own name, fsync, rename, fsync of the folder. Only the service's user reads."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.originals, self.pixels, self.maps = root / "originals", root / "pixels", root / "maps"
        for folder in (root, self.originals, self.pixels, self.maps):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def put_original(self, sha256: str, data: bytes) -> None:
        _put(self.original_path(sha256), data)

    def original_path(self, sha256: str) -> Path:
        return _shard(self.originals, sha256)

    def remove_original(self, sha256: str) -> None:
        self.original_path(sha256).unlink(missing_ok=True)

    def put_pixels(self, pixels_sha256: str, pixels: NDArray[np.float32]) -> Kept:
        """Keep 8 bits of each pixel, without any tag."""
        data = _npy(np.round(pixels * 255.0).astype(np.uint8))
        _put(self.pixels_path(pixels_sha256), data)
        return Kept.of(data)

    def pixels_path(self, pixels_sha256: str) -> Path:
        return _shard(self.pixels, pixels_sha256)

    def put_maps(self, maps: dict[str, NDArray[np.float32]]) -> Kept:
        """Named by their own hash, so that an attempt that lost its lease writes over no other's."""
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **maps)
        kept = Kept.of(buffer.getvalue())
        _put(_shard(self.maps, kept.sha256), buffer.getvalue())
        return kept

    def maps_path(self, audit_id: str, kept: Kept | None) -> Path:
        """kept: None for an audit from before its files were recorded; its maps are named after the audit."""
        return _shard(self.maps, kept.sha256 if kept else audit_id)

    def originals_older_than(self, seconds: float) -> Iterator[str]:
        for path in _older_than(self.originals, seconds):
            if not path.name.startswith(PARTIAL_PREFIX):
                yield path.name

    def sweep_partials(self, older_than_seconds: float) -> int:
        """Remove what a killed process left half written."""
        partials = [p for p in _older_than(self.root, older_than_seconds) if p.name.startswith(PARTIAL_PREFIX)]
        for path in partials:
            path.unlink(missing_ok=True)
        return len(partials)


def write_durably(path: Path, data: bytes) -> None:
    """Either the whole file is at `path` after this, also after a power failure, or nothing is."""
    if not path.parent.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _fsync_folder(path.parent.parent)
    partial = path.parent / f"{PARTIAL_PREFIX}{secrets.token_hex(8)}"
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    except OSError:  # a full disk gets its space back at once
        partial.unlink(missing_ok=True)
        raise
    _fsync_folder(path.parent)


def read_kept(path: Path, kept: Kept | None) -> bytes:
    """A file's bytes, looked at for their number first. kept: None where nothing was recorded of the file.

    Raises NotStored, EvidenceChanged.
    """
    if kept is None:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise _missing() from None
    require_size(path, kept)
    try:
        with path.open("rb") as file:
            data = file.read(kept.byte_count + 1)
    except FileNotFoundError:
        raise _missing() from None
    if Kept.of(data) != kept:
        raise _changed()
    return data


def require_size(path: Path, kept: Kept) -> None:
    """Raises NotStored, EvidenceChanged."""
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        raise _missing() from None
    if found != kept.byte_count:
        raise _changed()


def grey_pixels(data: bytes) -> NDArray[np.uint8]:
    """A pixels file as an array. Raises EvidenceChanged where it holds none."""
    try:
        return np.asarray(np.load(io.BytesIO(data), allow_pickle=False), dtype=np.uint8)
    except (OSError, TypeError, ValueError, zipfile.BadZipFile):
        raise EvidenceChanged("the stored file cannot be read") from None


def audit_maps(data: bytes) -> dict[str, NDArray[np.float32]]:
    """A maps file as arrays by name. Raises EvidenceChanged where it holds none."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            return {name: np.asarray(stored[name], dtype=np.float32) for name in stored.files}
    except (AttributeError, OSError, TypeError, ValueError, zipfile.BadZipFile):
        raise EvidenceChanged("the stored file cannot be read") from None


def _put(path: Path, data: bytes) -> None:
    """A file that is there and holds something else is written anew: what is recorded is what is in hand."""
    with suppress(FileNotFoundError):
        if path.stat().st_size == len(data) and path.read_bytes() == data:
            return
        log.error("evidence.written_anew", folder=path.parent.parent.name, file=path.name)
    write_durably(path, data)


def _missing() -> NotStored:
    return NotStored("the file is missing from the store")


def _changed() -> EvidenceChanged:
    return EvidenceChanged("the stored file is not the one that was recorded")


def _shard(folder: Path, name: str) -> Path:
    return folder / name[:2] / name


def _npy(array: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _older_than(folder: Path, seconds: float) -> Iterator[Path]:
    limit = time.time() - seconds
    for path in folder.rglob("*"):
        try:
            if path.is_file() and path.stat().st_mtime < limit:
                yield path
        except FileNotFoundError:  # another process was quicker
            continue


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
