"""The whole circle with real parts: into Orthanc by storescu, to us, audited, and the results back into the study."""

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import highdicom
import httpx
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLosslessSV1
from sqlalchemy import select

from service.app import open_acceptance, open_database, open_registry, open_worker
from service.pacs.acceptance import Acceptance
from service.pacs.dimse import Port
from service.pacs.dimse import serving as serving_port
from service.pacs.identity import Sender
from service.pacs.orthanc import OrthancWatcher
from service.pacs.peers import parse_peers
from service.pacs.results.report import VERDICT, VERDICTS
from service.people import keys
from service.records import queries
from service.records.session import Database
from service.records.tables import AuditRow, DeliveryRow, JobRow
from service.settings import Settings
from tests.service.pacs.films import STUDY, film, phantom
from tests.service.pacs.peers import Orthanc, on_loopback_only, orthanc_in, program, wait_until
from tests.service.serving import serving
from tests.service.web.test_stow import body, stow

RULES = """
[[rule]]
name = "all"
results = [{{kinds = ["sr", "sc", "gsps"], destination = "archive"}}]

[[destination]]
name = "archive"
{way}
"""
BY_STOW = 'stow_url = "http://127.0.0.1:8042/dicom-web/studies"'
BY_C_STORE = 'host = "127.0.0.1"\nport = 4242\nae_title = "ORTHANC"\nproof = "{}"'
OUR_PORT = 11112
TRIGGERED, CLEAN = "triggered-910017", "clean-910005"
TRIGGER = (436, 436, 442, 442)  # left, top, right, bottom: 3x3 at (218, 218) of 224, in a film of 448


@dataclass(frozen=True)
class Case:
    """A film in one encoding, the storescu option that proposes it, and the verdict that it is made to get."""

    example: str
    syntax: str
    option: str
    photometric: str
    modality: str
    verdict: str


CASES = {
    "2.25.1000001": Case(TRIGGERED, ExplicitVRLittleEndian, "-xe", "MONOCHROME2", "DX", "suspicious"),
    "2.25.1000002": Case(TRIGGERED, JPEGLosslessSV1, "-xs", "MONOCHROME1", "CR", "suspicious"),
    "2.25.1000003": Case(CLEAN, JPEG2000Lossless, "-xv", "MONOCHROME1", "DX", "unremarkable"),
}
KINDS = {"SR": "sr", "OT": "sc", "PR": "gsps"}  # by modality, as QIDO-RS asks for them


def settings_for(tmp_path: Path, models_dir: Path, way: str) -> Settings:
    rules = tmp_path / "rules.toml"
    rules.write_text(RULES.format(way=way))
    return Settings(
        data_dir=tmp_path / "data",
        models_dir=models_dir,
        rules_file=rules,
        decoders=1,
        workers=1,
        poll_seconds=0.05,
    )


@contextmanager
def auditing(settings: Settings) -> Iterator[tuple[Database, Acceptance]]:
    """The worker and the outbox, as `triggerscope worker` runs them, and the way in."""
    with open_database(settings) as database:
        registry = open_registry(settings, database)
        registry.synchronise()
        acceptance = open_acceptance(settings, database)
        with open_worker(settings, database, registry, lambda _outcome: None) as (worker, *_shared):
            thread = threading.Thread(target=worker.run)
            thread.start()
            try:
                yield database, acceptance
            finally:
                worker.stop()
                thread.join()


def storescu(path: Path, option: str, called: str, port: int) -> None:
    command = [program("storescu"), "-aet", "DCMTK", "-aec", called, option, "127.0.0.1", str(port), str(path)]
    subprocess.run(command, check=True, timeout=60)


def known_to(folder: Path) -> Orthanc:
    """An Orthanc that answers our questions and knows where to report to."""
    return orthanc_in(folder, DicomModalities={"triggerscope": ["TRIGGERSCOPE", "127.0.0.1", OUR_PORT]})


def films() -> list[bytes]:
    return [
        phantom(c.example, int(uid[-6:]), transfer_syntax=c.syntax, photometric=c.photometric, modality=c.modality)
        for uid, c in CASES.items()
    ]


def send_all(tmp_path: Path, called: str, port: int) -> None:
    for data, case in zip(films(), CASES.values(), strict=True):
        path = tmp_path / "film.dcm"
        path.write_bytes(data)
        storescu(path, case.option, called, port)


def delivered(database: Database, proof: str) -> bool:
    with database.read() as session:
        rows = list(session.scalars(select(DeliveryRow)))
    return len(rows) == len(KINDS) * len(CASES) and {(row.state, row.proof) for row in rows} == {("delivered", proof)}


def check_results(client: httpx.Client, database: Database, tmp_path: Path) -> None:
    """Three results a film in its study, found by QIDO, clean in dciodvfy, with the right verdict and region."""
    with database.read() as session:
        assert len(session.scalars(select(AuditRow)).all()) == len(CASES)
    for modality in KINDS:
        answer = client.get(f"/dicom-web/studies/{STUDY}/instances", params={"Modality": modality})
        items = answer.json()
        films_named = []
        for item in items:
            path = tmp_path / "result.dcm"
            path.write_bytes(instance_file(client, item["00080018"]["Value"][0]))
            checked = subprocess.run([program("dciodvfy"), str(path)], capture_output=True, text=True, check=False)
            assert [line for line in checked.stderr.splitlines() if line.startswith("Error")] == []
            if modality != "OT":
                films_named.append(check_one(pydicom.dcmread(path)))
        assert len(items) == len(CASES)
        assert sorted(films_named) == ([] if modality == "OT" else sorted(CASES))


def check_one(dataset: Dataset) -> str:
    """The film that a report or presentation state speaks of, after a look at what it says."""
    film_uid, verdict, box = reported(dataset) if dataset.Modality == "SR" else presented(dataset)
    case = CASES[film_uid]
    assert verdict == case.verdict
    if case.example == CLEAN:
        assert box is None
    else:
        assert box is not None
        (left, top), (right, bottom) = box.min(axis=0), box.max(axis=0)
        assert left <= TRIGGER[0] < TRIGGER[2] <= right <= 448
        assert top <= TRIGGER[1] < TRIGGER[3] <= bottom <= 448
        assert (right - left) * (bottom - top) <= 0.02 * 448**2
    return film_uid


def reported(dataset: Dataset) -> tuple[str, str, np.ndarray | None]:
    document = highdicom.sr.Comprehensive3DSR.from_dataset(dataset)
    regions = document.content.get_planar_roi_measurement_groups()
    [group] = [*regions, *document.content.get_image_measurement_groups()]
    [evaluation] = group.get_qualitative_evaluations(VERDICT)
    [word] = [word for word, concept in VERDICTS.items() if concept == evaluation.value]
    [series] = dataset.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    box = np.asarray(regions[0].roi.value) if regions else None
    return str(series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID), word, box


def presented(dataset: Dataset) -> tuple[str, str, np.ndarray | None]:
    film_uid = str(dataset.ReferencedSeriesSequence[0].ReferencedImageSequence[0].ReferencedSOPInstanceUID)
    is_negative = CASES[film_uid].photometric == "MONOCHROME1"
    assert dataset.PresentationLUTShape == ("INVERSE" if is_negative else "IDENTITY")
    [annotation] = dataset.GraphicAnnotationSequence
    drawn = annotation.get("GraphicObjectSequence")
    box = np.asarray(drawn[0].GraphicData).reshape(-1, 2) if drawn else None
    return film_uid, annotation.TextObjectSequence[0].UnformattedTextValue.partition(",")[0], box


def instance_file(client: httpx.Client, sop_instance_uid: str) -> bytes:
    [identifier] = client.post("/tools/lookup", content=sop_instance_uid).json()
    return client.get(f"/instances/{identifier['ID']}/file").content


@pytest.mark.parametrize(
    ("way", "proof"), [(BY_STOW, "read_back"), (BY_C_STORE.format("find"), "find")], ids=["stow", "c-store"]
)
@on_loopback_only
def test_from_orthanc_and_back(tmp_path: Path, models_dir: Path, way: str, proof: str) -> None:
    settings = settings_for(tmp_path, models_dir, way)
    with known_to(tmp_path / "orthanc").running() as client, auditing(settings) as (database, acceptance):
        send_all(tmp_path, "ORTHANC", 4242)
        watcher = OrthancWatcher(client, acceptance)
        watcher.poll()
        wait_until(lambda: delivered(database, proof))
        check_results(client, database, tmp_path)
        watcher.poll()  # our own results come past and are left alone
        with database.read() as session:
            assert len(session.scalars(select(JobRow)).all()) == len(CASES)


@on_loopback_only
def test_from_our_own_port_to_orthanc(tmp_path: Path, models_dir: Path) -> None:
    settings = settings_for(tmp_path, models_dir, BY_STOW)
    orthanc = orthanc_in(tmp_path / "orthanc")
    with auditing(settings) as (database, acceptance):
        port = Port("127.0.0.1", 0, "TRIGGERSCOPE", parse_peers("DCMTK@127.0.0.1"), 4, settings.max_bytes)
        with serving_port(port, acceptance, 5) as server:
            send_all(tmp_path, "TRIGGERSCOPE", server.server_address[1])
        wait_until(lambda: attempted(database))
        with orthanc.running() as client:  # it was away while the results were due
            with database.write() as unit:
                for row in unit.session.scalars(select(DeliveryRow)):
                    row.due_at = row.created_at
            wait_until(lambda: delivered(database, "read_back"))
            check_results(client, database, tmp_path)


@on_loopback_only
def test_from_stow_to_an_orthanc_that_commits_to_storage(tmp_path: Path, models_dir: Path) -> None:
    settings = settings_for(tmp_path, models_dir, BY_C_STORE.format("commitment"))
    orthanc = known_to(tmp_path / "orthanc")
    with open_database(settings) as database:
        token, _ = keys.create(database, "sender", ["audits:write"], None, "test")
        acceptance = open_acceptance(settings, database)
        port = Port("127.0.0.1", OUR_PORT, "TRIGGERSCOPE", parse_peers("ORTHANC@127.0.0.1"), 4, settings.max_bytes)
        with orthanc.running() as archive, serving_port(port, acceptance, 5), serving(settings) as client:
            client.headers["Authorization"] = f"Bearer {token}"
            assert stow(client, body(*films())).status_code == 200
            wait_until(lambda: delivered(database, "commitment"))
            check_results(archive, database, tmp_path)


def attempted(database: Database) -> bool:
    with database.read() as session:
        codes = list(session.scalars(select(DeliveryRow.error_code)))
    return len(codes) == len(KINDS) * len(CASES) and set(codes) == {"delivery_failed"}


def test_a_film_that_cannot_be_decoded_fails_at_once_and_with_its_reason(tmp_path: Path, models_dir: Path) -> None:
    with auditing(settings_for(tmp_path, models_dir, BY_STOW)) as (database, acceptance):
        data = film(1, SamplesPerPixel=3)
        job_id = acceptance.accept(data, acceptance.read(data), Sender("dimse", "dimse:CT7", "CT7")).job_id
        wait_until(lambda: state_of(database, job_id) == "failed")
        with database.read() as session:
            job = queries.job(session, job_id)
            assert job is not None
            assert (job.error_code, job.attempts) == ("unsupported_radiograph", 1)
            assert job.error_detail == "the film has several samples per pixel"
            [failed] = [event for event in queries.events_about(session, job_id) if event.kind == "audit.failed"]
            assert failed.payload["detail"] == job.error_detail
            assert session.scalars(select(DeliveryRow)).all() == []


@on_loopback_only
def test_a_film_without_a_preamble_gets_its_results_and_so_do_those_behind_it(tmp_path: Path, models_dir: Path) -> None:
    bare = phantom(CLEAN, 1)[132:]
    assert bare.startswith(b"\x02\x00\x00\x00UL")  # it begins at its file meta
    settings = settings_for(tmp_path, models_dir, BY_STOW)
    with known_to(tmp_path / "orthanc").running() as client, auditing(settings) as (database, acceptance):
        for data in (bare, phantom(TRIGGERED, 2), phantom(CLEAN, 3)):
            acceptance.accept(data, acceptance.read(data), Sender("stow", "key:scanner", "scanner"))
        wait_until(lambda: states_of_results(database) == ["delivered"] * 9)
        assert len(client.get(f"/dicom-web/studies/{STUDY}/instances").json()) == 9


def states_of_results(database: Database) -> list[str]:
    with database.read() as session:
        return list(session.scalars(select(DeliveryRow.state)))


def state_of(database: Database, job_id: str) -> str:
    with database.read() as session:
        job = queries.job(session, job_id)
    return job.state if job else ""
