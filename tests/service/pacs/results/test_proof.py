"""A result counts as delivered only when its arrival has been shown as the rules ask."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.events import Event
from pynetdicom.sop_class import (
    Comprehensive3DSRStorage,
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)
from sqlalchemy import update

from service.pacs.acceptance import Acceptance
from service.pacs.dimse import Port, serving
from service.pacs.peers import parse_peers
from service.pacs.results.destinations import close
from service.pacs.results.outbox import MAX_ATTEMPTS, Outbox
from service.pacs.results.proof import LARGEST_ANSWER_BYTES
from service.pacs.rules import Destination, Result, Rule, Rules
from service.records.session import Database, utc_now
from service.records.tables import DeliveryRow
from service.settings import Settings
from tests.service.pacs.conftest import make_acceptance
from tests.service.pacs.receiver import receiving
from tests.service.pacs.results.test_outbox import audited, drain, rows

COMMITTED, NOT_COMMITTED = 1, 2


class CommittingArchive:
    """Takes every object and every request for commitment; reports when the test says so."""

    def __init__(self) -> None:
        self.stored: list[str] = []
        self.requests: list[Dataset] = []
        application = AE("ARCHIVE")
        application.add_supported_context(Comprehensive3DSRStorage)
        application.add_supported_context(StorageCommitmentPushModel)
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_N_ACTION, self._action)]
        self.server = application.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port = self.server.server_address[1]

    def _store(self, event: Event) -> int:
        self.stored.append(str(event.request.AffectedSOPInstanceUID))
        return 0x0000

    def _action(self, event: Event) -> tuple[int, None]:
        self.requests.append(event.action_information)
        return 0x0000, None

    def report(self, port: int, event_type: int, transaction_uid: str) -> int:
        application = AE("ARCHIVE")
        application.add_requested_context(StorageCommitmentPushModel)
        role = build_role(StorageCommitmentPushModel, scu_role=False, scp_role=True)
        association = application.associate("127.0.0.1", port, ae_title="TRIGGERSCOPE", ext_neg=[role])
        said = Dataset()
        said.TransactionUID, said.ReferencedSOPSequence = transaction_uid, self.requests[-1].ReferencedSOPSequence
        status, _ = association.send_n_event_report(
            said, event_type, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
        association.release()
        close(association)
        return int(status.Status)


@pytest.fixture
def archive() -> Iterator[CommittingArchive]:
    archive = CommittingArchive()
    yield archive
    archive.server.shutdown()


@contextmanager
def awaiting(
    opened: Database, settings: Settings, archive: CommittingArchive
) -> Iterator[tuple[Acceptance, Outbox, int]]:
    """One report sent and its commitment asked for, and the port at which we hear of it."""
    destination = Destination(
        name="archive", host="127.0.0.1", port=archive.port, ae_title="ARCHIVE", proof="commitment"
    )
    rule = Rule(name="all", results=(Result(kinds=("sr",), destination="archive"),))
    acceptance = make_acceptance(opened, settings, Rules(rule=(rule,), destination=(destination,)))
    outbox = Outbox(opened, acceptance.storage, acceptance.rules, "TRIGGERSCOPE")
    audited(acceptance, outbox)
    drain(outbox)
    port = Port("127.0.0.1", 0, "TRIGGERSCOPE", parse_peers("ARCHIVE@127.0.0.1"), 4, settings.max_bytes)
    with serving(port, acceptance, 5) as server:
        yield acceptance, outbox, server.server_address[1]


def make_due(database: Database) -> None:
    with database.write() as unit:
        unit.session.execute(update(DeliveryRow).values(due_at=utc_now()))


def test_it_is_delivered_when_the_archive_has_committed(
    opened: Database, settings: Settings, archive: CommittingArchive
) -> None:
    with awaiting(opened, settings, archive) as (_, outbox, port):
        [row] = rows(opened)
        assert (row.state, row.error_code, row.proof) == ("pending", "commitment_awaited", None)
        [request] = archive.requests
        assert [item.ReferencedSOPInstanceUID for item in request.ReferencedSOPSequence] == archive.stored
        assert archive.report(port, COMMITTED, "2.25.77") == 0x0115  # nobody asked for that
        assert archive.report(port, 3, request.TransactionUID) == 0x0114
        assert archive.report(port, COMMITTED, request.TransactionUID) == 0x0000
        [row] = rows(opened)
        assert (row.state, row.error_code, row.proof) == ("delivered", None, "commitment")
        drain(outbox)
        assert len(archive.stored) == 1


def test_what_was_not_committed_is_sent_again(opened: Database, settings: Settings, archive: CommittingArchive) -> None:
    with awaiting(opened, settings, archive) as (_, outbox, port):
        first = archive.requests[0].TransactionUID
        assert archive.report(port, NOT_COMMITTED, first) == 0x0000
        assert rows(opened)[0].error_code == "not_proven"
        drain(outbox)
        assert len(archive.stored) == 2
        assert len(set(archive.stored)) == 1
        assert archive.report(port, COMMITTED, first) == 0x0115  # an answer to the attempt before
        assert archive.report(port, COMMITTED, archive.requests[1].TransactionUID) == 0x0000
        assert rows(opened)[0].state == "delivered"


def test_an_archive_that_never_reports_is_given_up(
    opened: Database, settings: Settings, archive: CommittingArchive
) -> None:
    with awaiting(opened, settings, archive) as (_, outbox, _port):
        for _ in range(MAX_ATTEMPTS):
            make_due(opened)
            drain(outbox)
    [row] = rows(opened)
    assert (row.state, row.error_code) == ("dead", "commitment_awaited")
    assert len(archive.stored) == MAX_ATTEMPTS


@pytest.mark.parametrize(
    "answer",
    [
        (404, b""),
        (200, b"not json"),
        (200, b"[" * 100_000),
        (200, b'[{"00080018": {"Value": ["2.25.9"]}}]'),
        (200, b" " * (LARGEST_ANSWER_BYTES + 1)),
    ],
)
def test_what_cannot_be_read_back_is_sent_again(
    opened: Database, settings: Settings, answer: tuple[int, bytes]
) -> None:
    with receiving() as archive:
        archive.get_status, archive.get_body = answer
        destination = Destination(name="archive", stow_url=f"{archive.url}/studies")
        rule = Rule(name="all", results=(Result(kinds=("sr",), destination="archive"),))
        acceptance = make_acceptance(opened, settings, Rules(rule=(rule,), destination=(destination,)))
        outbox = Outbox(opened, acceptance.storage, acceptance.rules, "TRIGGERSCOPE")
        audited(acceptance, outbox)
        drain(outbox)
        [row] = rows(opened)
        assert (row.state, row.error_code, row.proof) == ("pending", "not_proven", None)
        uid = row_uid(archive.posts[0][1])
        archive.get_status, archive.get_body = 200, json.dumps([{"00080018": {"vr": "UI", "Value": [uid]}}]).encode()
        make_due(opened)
        drain(outbox)
        [row] = rows(opened)
        assert (row.state, row.proof, len(archive.posts)) == ("delivered", "read_back", 2)


def row_uid(body: bytes) -> str:
    """The SOP Instance UID of the object in a STOW-RS body."""
    found = body[body.index(b"\x08\x00\x18\x00UI") :]
    length = int.from_bytes(found[6:8], "little")
    return found[8 : 8 + length].rstrip(b"\0").decode()
