"""Files beside the database: received originals, which expire, and the pixels and maps that stay."""

import io
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.errors import TriggerscopeError

PARTIAL_PREFIX = ".partial-"


class NotStored(TriggerscopeError):
    """The original, pixels or maps are not in the store (any more)."""

    code = "not_stored"


class Storage:
    """Writes are atomic and durable: own name, fsync, rename, fsync of the folder. Only the service's user reads."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.originals, self.pixels, self.maps = root / "originals", root / "pixels", root / "maps"
        for folder in (root, self.originals, self.pixels, self.maps):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def put_original(self, sha256: str, data: bytes) -> None:
        _put(_shard(self.originals, sha256), data)

    def original(self, sha256: str) -> bytes:
        return _get(_shard(self.originals, sha256))

    def remove_original(self, sha256: str) -> None:
        _shard(self.originals, sha256).unlink(missing_ok=True)

    def put_pixels(self, pixels_sha256: str, pixels: NDArray[np.float32]) -> None:
        """Keep 8 bits of each pixel, without any tag."""
        grey = np.round(pixels * 255.0).astype(np.uint8)
        _put(_shard(self.pixels, pixels_sha256), _npy(grey))

    def grey_pixels(self, pixels_sha256: str) -> NDArray[np.uint8]:
        data = _get(_shard(self.pixels, pixels_sha256))
        return np.asarray(np.load(io.BytesIO(data), allow_pickle=False), dtype=np.uint8)

    def put_maps(self, audit_id: str, maps: dict[str, NDArray[np.float32]]) -> None:
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **maps)
        _put(_shard(self.maps, audit_id), buffer.getvalue())

    def audit_maps(self, audit_id: str) -> dict[str, NDArray[np.float32]]:
        with np.load(io.BytesIO(_get(_shard(self.maps, audit_id))), allow_pickle=False) as stored:
            return {name: np.asarray(stored[name], dtype=np.float32) for name in stored.files}

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


def _put(path: Path, data: bytes) -> None:
    if not path.exists():
        write_durably(path, data)


def _get(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise NotStored("the file is not in the store (any more)") from None


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
