import io
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLosslessSV1
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    SecondaryCaptureImageStorage,
    Verification,
)
from sqlalchemy import select

from service.pacs.acceptance import Acceptance
from service.pacs.dimse import Port, StoreServer, serving, tls_context
from service.pacs.peers import parse_peers
from service.pacs.results.destinations import close
from service.records import queries
from service.records.session import Database
from service.records.storage import Storage
from service.records.tables import EventRow, InstanceRow, JobRow
from service.settings import Settings
from tests.service.pacs.conftest import MAX_BYTES, count, make_acceptance
from tests.service.pacs.films import film
from tests.service.pacs.peers import certificate, program, small_disk, wait_until

LOCAL = "*@127.0.0.0/8"
DX = DigitalXRayImageStorageForPresentation


def port(peers: str = LOCAL, tls: ssl.SSLContext | None = None) -> Port:
    return Port("127.0.0.1", 0, "TRIGGERSCOPE", parse_peers(peers), 16, MAX_BYTES, tls)


@pytest.fixture
def server(acceptance: Acceptance) -> Iterator[StoreServer]:
    with serving(port(), acceptance, 5) as server:
        yield server


@contextmanager
def associated(server: StoreServer, title: str = "CT7", tls: ssl.SSLContext | None = None) -> Iterator[Association]:
    application = AE(title)
    application.acse_timeout = application.dimse_timeout = application.network_timeout = 30
    application.add_requested_context(Verification)
    for sop_class in (DX, ComputedRadiographyImageStorage):
        application.add_requested_context(sop_class, ExplicitVRLittleEndian)
    arguments = (tls, "localhost") if tls else None
    association = application.associate("127.0.0.1", server.server_address[1], tls_args=arguments)
    try:
        yield association
    finally:
        association.release()
        close(association)


def status_of(server: StoreServer, data: bytes, tmp_path: Path, title: str = "CT7") -> int:
    path = tmp_path / "sent.dcm"
    path.write_bytes(data)
    with associated(server, title) as association:
        assert association.is_established
        return int(association.send_c_store(path).Status)


def data_set(file: bytes) -> bytes:
    """What follows the file meta, whose length is its first element."""
    return file[144 + int.from_bytes(file[140:144], "little") :]


def test_echo(server: StoreServer) -> None:
    with associated(server) as association:
        assert association.send_c_echo().Status == 0


@pytest.mark.parametrize("modality", ["DX", "CR"])
def test_success_means_that_the_exact_bytes_are_committed(
    server: StoreServer, opened: Database, acceptance: Acceptance, tmp_path: Path, modality: str
) -> None:
    data = film(1, modality=modality)
    assert status_of(server, data, tmp_path) == 0
    with opened.read() as session:
        [row] = session.scalars(select(InstanceRow)).all()
    assert (row.calling_ae, row.address) == ("CT7", "127.0.0.1")
    assert data_set(acceptance.storage.original_path(row.film_sha256).read_bytes()) == data_set(data)


def test_the_same_film_again_is_a_success_and_no_second_job(
    server: StoreServer, opened: Database, tmp_path: Path
) -> None:
    assert [status_of(server, film(1), tmp_path, title) for title in ("CT7", "CT8", "CT7")] == [0, 0, 0]
    assert count(opened, JobRow) == 1


def test_uids_that_differ_from_the_request(server: StoreServer, opened: Database) -> None:
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = DX, "2.25.9"
    request.DataSet = io.BytesIO(data_set(film(1)))
    with associated(server) as association:
        [context] = [found for found in association.accepted_contexts if found.abstract_syntax == DX]
        association._reactor_checkpoint.clear()
        association.dimse.send_msg(request, context.context_id)
        _, answer = association.dimse.get_msg(block=True)
        association._reactor_checkpoint.set()
    assert answer.Status == 0xA900
    assert count(opened, JobRow) == 0


def test_a_data_set_that_is_not_understood_leaves_a_trace(
    server: StoreServer, opened: Database, tmp_path: Path
) -> None:
    assert status_of(server, film(1, StudyInstanceUID=""), tmp_path) == 0xC000
    with opened.read() as session:
        [event] = session.scalars(select(EventRow).where(EventRow.kind == "film.refused")).all()
    assert event.payload["code"] == "not_understood"


def test_pixels_that_cannot_be_decoded_are_accepted_all_the_same(
    server: StoreServer, opened: Database, tmp_path: Path
) -> None:
    assert status_of(server, film(1, SamplesPerPixel=3), tmp_path) == 0
    assert count(opened, JobRow) == 1


def test_a_full_queue_and_a_missing_classifier_leave_the_film_with_its_sender(
    opened: Database, settings: Settings, tmp_path: Path
) -> None:
    with serving(port(), make_acceptance(opened, settings, depth=1), 5) as server:
        assert [status_of(server, film(number), tmp_path) for number in (1, 2)] == [0, 0xA700]
    assert count(opened, JobRow) == 1


@pytest.mark.parametrize("peers", ["PACS@127.0.0.1", "CT7@127.0.0.2"])
def test_a_stranger_is_refused(acceptance: Acceptance, peers: str) -> None:
    with serving(port(peers), acceptance, 5) as server, associated(server) as association:
        assert not association.is_established


def test_other_objects_are_not_negotiated(server: StoreServer) -> None:
    application = AE("CT7")
    application.add_requested_context(SecondaryCaptureImageStorage)
    application.add_requested_context(Verification)
    association = application.associate("127.0.0.1", server.server_address[1])
    assert [context.abstract_syntax for context in association.rejected_contexts] == [SecondaryCaptureImageStorage]
    association.release()
    close(association)


def test_a_film_that_is_too_large_is_cut_off(server: StoreServer, opened: Database, tmp_path: Path) -> None:
    path = tmp_path / "large.dcm"
    path.write_bytes(film(1, side=1000))
    with associated(server) as association:
        assert "Status" not in association.send_c_store(path)
        wait_until(lambda: not association.is_established)
    assert count(opened, JobRow) == 0


def test_an_association_that_breaks_off_leaves_nothing(
    server: StoreServer, opened: Database, acceptance: Acceptance, tmp_path: Path
) -> None:
    with associated(server) as association:
        association.dul.socket.send(bytes.fromhex("0400000010000000100001030000") + bytes(6))
        association.dul.socket.close()
    assert status_of(server, film(2), tmp_path) == 0
    assert count(opened, JobRow) == 1
    assert len(list(acceptance.storage.originals_older_than(-10))) == 1
    assert acceptance.storage.sweep_partials(-10) == 0


def test_idle_peers_do_not_delay_a_tls_sender(acceptance: Acceptance, opened: Database, tmp_path: Path) -> None:
    chain, key = certificate(tmp_path)
    client = ssl.create_default_context(cafile=str(chain))
    client.load_cert_chain(chain, key)
    with serving(port(tls=tls_context(chain, key, chain)), acceptance, 5) as server:
        idle = [socket.create_connection(("127.0.0.1", server.server_address[1])) for _ in range(12)]
        started = time.monotonic()
        path = tmp_path / "film.dcm"
        path.write_bytes(film(1))
        with associated(server, tls=client) as association:
            assert association.send_c_store(path).Status == 0
        assert time.monotonic() - started < 4  # one handshake time-out is 5 s
        for connection in idle:
            connection.close()
    with opened.read() as session:
        assert len(session.scalars(select(InstanceRow.certificate_sha256)).one()) == 64


def test_a_peer_without_a_certificate_is_turned_away(acceptance: Acceptance, tmp_path: Path) -> None:
    chain, key = certificate(tmp_path)
    stranger = ssl.create_default_context(cafile=str(chain))
    with (
        serving(port(tls=tls_context(chain, key, chain)), acceptance, 5) as server,
        associated(server, tls=stranger) as association,
    ):
        assert not association.is_established


def test_a_full_disk_leaves_the_film_with_its_sender(opened: Database, settings: Settings, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk):
        acceptance = make_acceptance(opened, settings)
        object.__setattr__(acceptance.intake, "storage", Storage(disk))
        with serving(port(), acceptance, 5) as server:
            assert status_of(server, film(1, side=300), tmp_path) == 0xA700
            assert status_of(server, film(2, side=32), tmp_path) == 0
        assert count(opened, JobRow) == 1
        assert list(disk.rglob(".partial-*")) == []


def test_shutting_down_lets_an_open_association_finish(
    acceptance: Acceptance, opened: Database, tmp_path: Path
) -> None:
    path = tmp_path / "film.dcm"
    path.write_bytes(film(1))
    with serving(port(), acceptance, 10) as server, associated(server) as association:
        server.stop_accepting()
        assert association.send_c_store(path).Status == 0
    assert count(opened, JobRow) == 1


@pytest.mark.parametrize(
    ("syntax", "option"),
    [(ExplicitVRLittleEndian, "-xe"), (JPEGLosslessSV1, "-xs"), (JPEG2000Lossless, "-xv")],
)
def test_dcmtk_sends_what_we_decode(
    server: StoreServer, opened: Database, tmp_path: Path, syntax: str, option: str
) -> None:
    path = tmp_path / "film.dcm"
    path.write_bytes(film(1, transfer_syntax=syntax))
    address = ["127.0.0.1", str(server.server_address[1])]
    subprocess.run([program("echoscu"), "-aet", "DCMTK", "-aec", "TRIGGERSCOPE", *address], check=True, timeout=60)
    command = [program("storescu"), "-aet", "DCMTK", "-aec", "TRIGGERSCOPE", option, *address, str(path)]
    subprocess.run(command, check=True, timeout=60)
    with opened.read() as session:
        [job] = session.scalars(select(JobRow)).all()
        film_row = queries.film(session, job.film_sha256)
    assert film_row is not None
    assert film_row.attributes["transfer_syntax"] == syntax
