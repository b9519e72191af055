import os
import stat
from pathlib import Path

import numpy as np
import pytest

from service.records.storage import NotStored, Storage, write_durably

NAME = "ab" * 32


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def test_an_original_comes_back_until_it_is_removed(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    storage.put_original(NAME, b"film")
    storage.put_original(NAME, b"film")
    assert storage.original(NAME) == b"film"
    storage.remove_original(NAME)
    storage.remove_original(NAME)
    with pytest.raises(NotStored):
        storage.original(NAME)


def test_only_the_services_user_can_read(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "data")
    storage.put_original(NAME, b"film")
    [file] = files(tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert {stat.S_IMODE(parent.stat().st_mode) for parent in list(file.parents)[:3]} == {0o700}


def test_pixels_keep_eight_bits(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    storage.put_pixels(NAME, np.array([[0.0, 0.5, 1.0]], dtype=np.float32))
    assert storage.grey_pixels(NAME).tolist() == [[0, 128, 255]]


def test_maps_are_stored_exactly(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    maps = {"layercam_28": np.array([[1e-9, 3.25]], dtype=np.float32)}
    storage.put_maps(NAME, maps)
    assert storage.audit_maps(NAME)["layercam_28"].tolist() == maps["layercam_28"].tolist()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_durably(tmp_path / "a", b"old")
    with pytest.raises(TypeError):
        write_durably(tmp_path / "a", "not bytes")
    assert (tmp_path / "a").read_bytes() == b"old"


def test_sweeping_removes_old_partial_files_only(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    storage.put_original(NAME, b"film")
    old, young = storage.originals / ".partial-1", storage.originals / ".partial-2"
    old.write_bytes(b"")
    young.write_bytes(b"")
    for path in (old, *files(storage.originals / NAME[:2])):
        os.utime(path, (0, 0))
    assert storage.sweep_partials(3600) == 1
    assert list(storage.originals_older_than(3600)) == [NAME]
    assert young.exists()
