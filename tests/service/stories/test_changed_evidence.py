"""Somebody with the disk: what is stored is changed behind the service's back, and everything that reads it says so."""

import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.__main__ import main
from service.app import open_database
from service.commands.log import FAULTS_FOUND
from service.ledger import bundles, pruning, stored_files, verify
from service.ledger.signing import Signer
from service.ledger.stored_files import FilesReport
from service.people import keys
from service.people.roles import SCOPES
from service.records import queries
from service.records.chain import record_hash
from service.records.session import Database, utc_now
from service.records.storage import Kept, Storage
from service.records.tables import AuditRow
from service.settings import Settings
from tests.conftest import REPOSITORY
from tests.service.ledger.test_verify import behind_its_back
from tests.service.serving import png, serving

Audit = dict[str, Any]


@dataclass(frozen=True)
class World:
    client: httpx.Client
    database: Database
    storage: Storage

    def submit(self, seed: int) -> AuditRow:
        answer = self.client.post("/v1/audits", content=png(seed), headers={"Content-Type": "image/png"})
        return self.row(answer.json()["id"])

    def row(self, audit_id: str) -> AuditRow:
        with self.database.read() as session:
            row = queries.audit(session, audit_id)
        assert row is not None
        return row

    def told(self, row: AuditRow) -> list[tuple[str, str]]:
        """What the log says of changed evidence of this audit."""
        with self.database.read() as session:
            events = queries.events_about(session, row.id)
        return [(event.actor, event.payload["file"]) for event in events if event.kind == "evidence.changed"]

    def code(self, row: AuditRow, part: str) -> tuple[int, str]:
        answer = self.client.get(f"/v1/audits/{row.id}/{part}")
        return answer.status_code, answer.json()["code"] if answer.status_code >= 400 else ""

    def page(self, row: AuditRow) -> str:
        return self.client.get(f"/audits/{row.id}", headers={"Accept": "text/html"}).text

    def bundle(self, *rows: AuditRow) -> bytes:
        answer = self.client.post("/exports/bundle.zip", data={"id": [row.id for row in rows]})
        assert answer.status_code == 200, answer.text
        return answer.content

    def files(self, *, read: bool = True) -> FilesReport:
        return stored_files.verify(self.database, self.storage, read=read)

    def faults(self, row: AuditRow, *, read: bool = True) -> set[str]:
        """What checking the files finds of one audit and its film."""
        return {fault.kind for fault in self.files(read=read).faults if fault.place in (row.id, row.film_sha256)}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Settings:
    return Settings(
        data_dir=tmp_path_factory.mktemp("stored"),
        models_dir=models_dir,
        default_classifier="phantom-badnet3",
        poll_seconds=0.05,
        decoders=1,
    )


@pytest.fixture(scope="module")
def world(settings: Settings) -> Iterator[World]:
    with open_database(settings) as database:
        token, _ = keys.create(database, "ada", list(SCOPES), None, "test")
        with serving(settings) as client:
            client.headers["Authorization"] = f"Bearer {token}"
            yield World(client, database, Storage(settings.data_dir))


def pixels_path(world: World, row: AuditRow) -> Path:
    return world.storage.pixels_path(row.pixels_sha256)


def maps_path(world: World, row: AuditRow) -> Path:
    assert row.files is not None
    return world.storage.maps_path(row.id, Kept(**row.files["maps"]))


def flip(path: Path) -> bytes:
    """Changes the last byte and no other, so that the file is as long and as readable as before."""
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    return path.read_bytes()


def test_what_was_audited_is_read_as_it_was_recorded(world: World) -> None:
    row = world.submit(1)
    assert row.files is not None
    assert Kept(**row.files["pixels"]) == Kept.of(pixels_path(world, row).read_bytes())
    page = world.page(row)
    assert "Not shown" not in page
    assert row.files["pixels"]["sha256"] in page
    assert world.code(row, "radiograph.png") == (200, "")
    assert world.faults(row) == set()
    report = bundles.verify(world.bundle(row))
    assert (report.faults, report.notes) == ((), ())


def test_changed_pixels_are_shown_nowhere_and_told_once(world: World) -> None:
    row = world.submit(2)
    path = pixels_path(world, row)
    flip(path)
    for part in ("radiograph.png", "overlay.png", "counterfactual.png", "radiograph.png"):
        assert world.code(row, part) == (409, "evidence_changed")
    page = world.page(row)
    assert "The stored pixels are not what was recorded." in page
    assert "overlay.png" not in page
    assert world.told(row) == [("evidence", "pixels")]
    assert world.faults(row) == {"stored pixels changed"}
    assert world.faults(row, read=False) == set()  # as long as before
    path.write_bytes(path.read_bytes()[:-1])
    assert world.faults(row, read=False) == {"stored pixels changed"}


def test_a_bundle_leaves_changed_pixels_out_and_says_so(world: World) -> None:
    changed, sound = world.submit(3), world.submit(4)
    flip(pixels_path(world, changed))
    bundle = world.bundle(changed, sound)
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        names = {name.rpartition("/")[2] for name in archive.namelist() if changed.id in name}
        history = archive.read(f"audits/{changed.id}/events.jsonl").decode()
    assert names == {"record.json", "events.jsonl", "maps.npz"}
    assert '"kind":"evidence.changed"' in history
    expected = f"audits/{changed.id}/pixels.npy was left out: the stored pixels are not what was recorded"
    assert bundles.verify(bundle).faults == (expected,)


def test_changed_maps_are_not_shown(world: World) -> None:
    row = world.submit(5)
    flip(maps_path(world, row))
    for part in ("overlay.png", "maps/layercam_28", "counterfactual.png"):
        assert world.code(row, part) == (409, "evidence_changed")
    assert world.code(row, "radiograph.png") == (200, "")
    assert "The stored maps are not what was recorded." in world.page(row)
    assert world.told(row) == [("evidence", "maps")]
    assert world.faults(row) == {"stored maps changed"}
    [fault] = bundles.verify(world.bundle(row)).faults
    assert "maps.npz was left out" in fault


def test_a_record_that_was_changed_along_with_the_file_is_found_too(world: World, settings: Settings) -> None:
    row = world.submit(6)
    assert row.files is not None
    files = row.files | {"pixels": {"sha256": Kept.of(flip(pixels_path(world, row))).sha256, "byte_count": 50304}}
    behind_its_back(world.database, f"UPDATE audits SET files = '{json.dumps(files)}' WHERE id = '{row.id}'")
    assert world.code(row, "radiograph.png") == (409, "evidence_changed")
    assert world.told(row) == [("evidence", "record")]
    assert "is not the one in the log" in world.page(row)
    found = verify.verify(world.database, Signer.open(settings.data_dir).public_pem).faults
    assert ("audit has been edited", row.id) in {(fault.kind, fault.place) for fault in found}
    assert world.faults(row) == {"stored pixels changed"}
    faults = bundles.verify(world.bundle(row)).faults
    assert f"the record of {row.id} is not the one in its history" in faults


def test_a_changed_film_is_not_watched_for(world: World) -> None:
    example = next(iter(sorted((REPOSITORY / "models" / "examples").glob("triggered-*"))))
    kind = "application/dicom" if example.suffix == ".dcm" else "image/png"
    answer = world.client.post("/v1/audits", content=example.read_bytes(), headers={"Content-Type": kind}).json()
    row = world.row(answer["id"])
    flip(pixels_path(world, row))
    form = {"id": row.id, "decision": "confirm"}
    assert world.client.post("/reviews", data=form).status_code == 303
    assert world.client.get("/v1/watch-list").json()["items"] == []
    assert world.told(row) == [("evidence", "pixels")]


def test_what_is_missing_is_told_from_what_was_changed(world: World) -> None:
    row = world.submit(7)
    pixels_path(world, row).unlink()
    assert world.code(row, "radiograph.png") == (410, "not_stored")
    assert "The stored pixels are missing, and no removal is recorded." in world.page(row)
    assert world.told(row) == []
    assert world.faults(row, read=False) == {"stored pixels missing, and no removal is recorded"}
    [fault] = bundles.verify(world.bundle(row)).faults
    assert "missing" in fault


def test_an_original_is_missed_unless_its_time_is_over(world: World) -> None:
    row = world.submit(8)
    path = world.storage.original_path(row.film_sha256)
    flip(path)
    assert world.faults(row) == {"stored original changed"}
    path.unlink()
    assert world.faults(row) == {"stored original missing, and no removal is recorded"}
    before = world.files().removed
    with world.database.write() as unit:
        film = queries.film(unit.session, row.film_sha256)
        assert film is not None
        film.original_expires_at = None
        unit.record("film.original_removed", film.sha256, "worker")
    assert world.faults(row) == set()
    assert world.files().removed == before + 1


def test_an_audit_from_before_is_shown_and_said_to_be_unchecked(world: World) -> None:
    row = world.submit(9)
    old = world.storage.maps_path(row.id, None)
    old.parent.mkdir(exist_ok=True)
    maps_path(world, row).rename(old)
    row.files = None
    told = json.dumps({"record_sha256": record_hash(row)})
    changes = (
        f"UPDATE audits SET files = NULL WHERE id = '{row.id}'",
        f"UPDATE events SET payload = '{told}' WHERE subject = '{row.id}' AND kind = 'audit.completed'",
    )
    unbound = world.files().unbound
    behind_its_back(world.database, "; ".join(changes))
    for part in ("radiograph.png", "overlay.png", "maps/layercam_28", "counterfactual.png"):
        assert world.code(row, part) == (200, "")
    page = world.page(row)
    assert "kept before evidence was bound to the record" in page
    assert "Not shown" not in page
    assert (world.faults(row), world.files().unbound) == (set(), unbound + 1)
    report = bundles.verify(world.bundle(row))
    assert row.id in report.notes[0]
    assert "before evidence was bound" in report.notes[0]
    assert not any("pixels" in fault or "maps" in fault for fault in report.faults)


def test_the_log_is_pruned_without_losing_what_files_are_held_against(world: World, settings: Settings) -> None:
    row, later = world.submit(10), world.submit(11)
    with pytest.MonkeyPatch.context() as patch:
        in_a_year = utc_now() + timedelta(days=400)
        patch.setattr(pruning, "utc_now", lambda: in_a_year)
        pruning.prune(world.database, Signer.open(settings.data_dir), in_a_year - pruning.LEAST_AGE, "test")
    assert world.code(row, "overlay.png") == (200, "")
    assert world.faults(row) == set()
    flip(pixels_path(world, later))
    assert world.code(later, "overlay.png") == (409, "evidence_changed")
    assert world.faults(later) == {"stored pixels changed"}
    assert bundles.verify(world.bundle(row)).faults == ()


def test_the_command_finds_what_was_changed(
    world: World, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    row = world.submit(12)
    flip(pixels_path(world, row))
    command = ["--data-dir", str(settings.data_dir), "log", "verify"]
    main(command)
    assert f"{row.id}: stored pixels" not in capsys.readouterr().out
    assert main([*command, "--files"]) == FAULTS_FOUND
    assert f"{row.id}: stored pixels changed" in capsys.readouterr().out
