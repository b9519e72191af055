"""The whole circle with real parts: into Orthanc by storescu, to us, audited, and the results back into the study."""

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import highdicom
import httpx
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLosslessSV1
from sqlalchemy import select

from service.app import limits, open_database, open_registry, open_worker
from service.db import queries
from service.db.session import Database
from service.db.tables import AuditRow, DeliveryRow, JobRow
from service.pacs.acceptance import Acceptance
from service.pacs.dimse import Port, serving
from service.pacs.identity import Sender, open_pseudonyms
from service.pacs.orthanc import OrthancWatcher
from service.pacs.peers import parse_peers
from service.pacs.report import VERDICT, VERDICTS
from service.rules import load_rules
from service.settings import Settings
from service.storage import Storage
from tests.service.pacs.films import STUDY, film
from tests.service.pacs.peers import on_loopback_only, orthanc_in, program, wait_until

RULES = """
[[rule]]
name = "all"
results = [{{kinds = ["sr", "sc"], destination = "archive"}}]

[[destination]]
name = "archive"
{way}
"""
BY_STOW = 'stow_url = "http://127.0.0.1:8042/dicom-web/studies"'
BY_C_STORE = 'host = "127.0.0.1"\nport = 4242\nae_title = "ORTHANC"'
SYNTAXES = [
    (ExplicitVRLittleEndian, "-xe", "MONOCHROME2", "DX"),
    (JPEGLosslessSV1, "-xs", "MONOCHROME1", "CR"),
    (JPEG2000Lossless, "-xv", "MONOCHROME1", "DX"),
]


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
        acceptance = Acceptance(
            database,
            Storage(settings.data_dir),
            open_pseudonyms(settings.data_dir / "identity.key"),
            load_rules(settings.rules_file),
            limits(settings),
            timedelta(hours=1),
            settings.max_queue_depth,
        )
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


def send_all(tmp_path: Path, called: str, port: int) -> None:
    for number, (syntax, option, photometric, modality) in enumerate(SYNTAXES, start=1):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(film(number, transfer_syntax=syntax, photometric=photometric, modality=modality, side=224))
        storescu(path, option, called, port)


def delivered(database: Database) -> bool:
    with database.read() as session:
        states = list(session.scalars(select(DeliveryRow.state)))
    return len(states) == 2 * len(SYNTAXES) and set(states) == {"delivered"}


def check_results(client: httpx.Client, database: Database, tmp_path: Path) -> None:
    """Six results in the study, found by QIDO, clean in dciodvfy, read back with the verdict that we recorded."""
    reports, pictures = (
        client.get(f"/dicom-web/studies/{STUDY}/instances", params={"Modality": modality}).json()
        for modality in ("SR", "OT")
    )
    assert (len(reports), len(pictures)) == (len(SYNTAXES), len(SYNTAXES))
    with database.read() as session:
        audits = session.scalars(select(AuditRow)).all()
        expected = sorted(audit.verdict for audit in audits)
    verdicts = []
    for item in [*reports, *pictures]:
        path = tmp_path / "result.dcm"
        path.write_bytes(instance_file(client, item["00080018"]["Value"][0]))
        checked = subprocess.run([program("dciodvfy"), str(path)], capture_output=True, text=True, check=False)
        assert [line for line in checked.stderr.splitlines() if line.startswith("Error")] == []
        if item in reports:
            verdicts.append(verdict_in(path))
    assert sorted(verdicts) == expected


def instance_file(client: httpx.Client, sop_instance_uid: str) -> bytes:
    [identifier] = client.post("/tools/lookup", content=sop_instance_uid).json()
    return client.get(f"/instances/{identifier['ID']}/file").content


def verdict_in(path: Path) -> str:
    document = highdicom.sr.Comprehensive3DSR.from_dataset(pydicom.dcmread(path))
    groups = [
        *document.content.get_planar_roi_measurement_groups(),
        *document.content.get_image_measurement_groups(),
    ]
    [evaluation] = groups[0].get_qualitative_evaluations(VERDICT)
    [word] = [word for word, concept in VERDICTS.items() if concept == evaluation.value]
    return word


@pytest.mark.parametrize("way", [BY_STOW, BY_C_STORE])
@on_loopback_only
def test_from_orthanc_and_back(tmp_path: Path, models_dir: Path, way: str) -> None:
    settings = settings_for(tmp_path, models_dir, way)
    with orthanc_in(tmp_path / "orthanc").running() as client, auditing(settings) as (database, acceptance):
        send_all(tmp_path, "ORTHANC", 4242)
        watcher = OrthancWatcher(client, acceptance)
        watcher.poll()
        wait_until(lambda: delivered(database))
        check_results(client, database, tmp_path)
        watcher.poll()  # our own results come past and are left alone
        with database.read() as session:
            assert len(session.scalars(select(JobRow)).all()) == len(SYNTAXES)


@on_loopback_only
def test_from_our_own_port_to_orthanc(tmp_path: Path, models_dir: Path) -> None:
    settings = settings_for(tmp_path, models_dir, BY_STOW)
    orthanc = orthanc_in(tmp_path / "orthanc")
    with auditing(settings) as (database, acceptance):
        port = Port("127.0.0.1", 0, "TRIGGERSCOPE", parse_peers("DCMTK@127.0.0.1"), 4, settings.max_bytes)
        with serving(port, acceptance, 5) as server:
            send_all(tmp_path, "TRIGGERSCOPE", server.server_address[1])
        wait_until(lambda: attempted(database))
        with orthanc.running() as client:  # it was away while the results were due
            with database.write() as unit:
                for row in unit.session.scalars(select(DeliveryRow)):
                    row.due_at = row.created_at
            wait_until(lambda: delivered(database))
            check_results(client, database, tmp_path)


def attempted(database: Database) -> bool:
    with database.read() as session:
        codes = list(session.scalars(select(DeliveryRow.error_code)))
    return len(codes) == 2 * len(SYNTAXES) and set(codes) == {"delivery_failed"}


def test_a_film_that_cannot_be_decoded_fails_at_once_and_with_its_reason(tmp_path: Path, models_dir: Path) -> None:
    with auditing(settings_for(tmp_path, models_dir, BY_STOW)) as (database, acceptance):
        data = film(1, SamplesPerPixel=3)
        job_id = acceptance.accept(data, acceptance.read(data), Sender("dimse", "dimse:CT7", "CT7")).job_id
        wait_until(lambda: state_of(database, job_id) == "failed")
        with database.read() as session:
            job = queries.job(session, job_id)
            assert job is not None
            assert (job.error_code, job.attempts) == ("unsupported_radiograph", 1)
            assert session.scalars(select(DeliveryRow)).all() == []


def state_of(database: Database, job_id: str) -> str:
    with database.read() as session:
        job = queries.job(session, job_id)
    return job.state if job else ""
