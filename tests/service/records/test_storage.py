import os
import stat
from pathlib import Path

import numpy as np
import pytest

from service.records.storage import (
    EvidenceChanged,
    Kept,
    NotStored,
    Storage,
    audit_maps,
    grey_pixels,
    read_kept,
    write_durably,
)

NAME = "ab" * 32


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def test_an_original_comes_back_until_it_is_removed(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    storage.put_original(NAME, b"film")
    storage.put_original(NAME, b"film")
    assert read_kept(storage.original_path(NAME), Kept.of(b"film")) == b"film"
    storage.remove_original(NAME)
    storage.remove_original(NAME)
    with pytest.raises(NotStored):
        read_kept(storage.original_path(NAME), Kept.of(b"film"))


def test_only_the_services_user_can_read(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "data")
    storage.put_original(NAME, b"film")
    [file] = files(tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert {stat.S_IMODE(parent.stat().st_mode) for parent in list(file.parents)[:3]} == {0o700}


def test_pixels_keep_eight_bits(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    kept = storage.put_pixels(NAME, np.array([[0.0, 0.5, 1.0]], dtype=np.float32))
    assert grey_pixels(read_kept(storage.pixels_path(NAME), kept)).tolist() == [[0, 128, 255]]


def test_maps_are_stored_exactly(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    maps = {"layercam_28": np.array([[1e-9, 3.25]], dtype=np.float32)}
    kept = storage.put_maps(maps)
    stored = audit_maps(read_kept(storage.maps_path(NAME, kept), kept))
    assert stored["layercam_28"].tolist() == maps["layercam_28"].tolist()


@pytest.mark.parametrize("another", [b"fil", b"films", b"fulm", b""])
def test_a_file_that_is_not_the_recorded_one_is_not_read(tmp_path: Path, another: bytes) -> None:
    storage = Storage(tmp_path)
    storage.put_original(NAME, b"film")
    storage.original_path(NAME).write_bytes(another)
    with pytest.raises(EvidenceChanged):
        read_kept(storage.original_path(NAME), Kept.of(b"film"))
    storage.put_original(NAME, b"film")  # the film comes again
    assert read_kept(storage.original_path(NAME), Kept.of(b"film")) == b"film"


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    """Pickled arrays, in a store from before hashes were recorded."""
    for name, save, load in (("a.npy", np.save, grey_pixels), ("b.npz", np.savez, audit_maps)):
        save(tmp_path / name, np.array([{"a": 1}], dtype=object), allow_pickle=True)
        with pytest.raises(EvidenceChanged, match="cannot be read"):
            load(read_kept(tmp_path / name, None))


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
