"""Results out, to real destinations and to such as are not there."""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import timedelta

import numpy as np
import pytest
from pynetdicom import AE, evt
from pynetdicom.events import Event
from pynetdicom.sop_class import (
    Comprehensive3DSRStorage,
    SecondaryCaptureImageStorage,
)
from sqlalchemy import select, text, update

from service.pacs.acceptance import Acceptance
from service.pacs.identity import Sender, forget
from service.pacs.results.destinations import DeliveryFailed, associated
from service.pacs.results.outbox import MAX_ATTEMPTS, Outbox, UnknownDelivery, resend
from service.pacs.results.report import Findings, read_source, structured_report
from service.pacs.rules import Destination, Result, Rule, Rules
from service.records import pacs_queries, queries
from service.records.chain import record_hash
from service.records.session import Database, utc_now
from service.records.tables import AuditRow, ClassifierRow, DeliveryRow, EventRow, JobRow
from service.settings import Settings
from tests.service.pacs.conftest import make_acceptance
from tests.service.pacs.films import STUDY, film
from tests.service.records.rows import add_audit

REFUSED = 0xA700


class Archive:
    """An SCP that keeps what it is sent, or answers with a given status."""

    def __init__(self) -> None:
        self.kept: list[str] = []
        self.status = 0x0000
        application = AE("ARCHIVE")
        for sop_class in (Comprehensive3DSRStorage, SecondaryCaptureImageStorage):
            application.add_supported_context(sop_class, ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50"])
        handlers = [(evt.EVT_C_STORE, self._store)]
        self.server = application.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port = self.server.server_address[1]

    def _store(self, event: Event) -> int:
        if self.status == 0:
            self.kept.append(str(event.request.AffectedSOPInstanceUID))
        return self.status


@pytest.fixture
def archive() -> Iterator[Archive]:
    archive = Archive()
    yield archive
    archive.server.shutdown()


def rules_for(port: int, kinds: tuple[str, ...] = ("sr", "sc")) -> Rules:
    destination = Destination(name="archive", host="127.0.0.1", port=port, ae_title="ARCHIVE")
    return Rules(
        rule=(Rule(name="all", results=(Result(kinds=kinds, destination="archive"),)),),
        destination=(destination,),
    )


def audited(acceptance: Acceptance, outbox: Outbox, data: bytes = film(1)) -> JobRow:
    """A film with its verdict and planned results, as the worker leaves it."""
    sender = Sender("dimse", "dimse:CT7", "CT7", calling_ae="CT7")
    job_id = acceptance.accept(data, acceptance.read(data), sender).job_id
    maps = acceptance.storage.put_maps({"layercam_28": np.eye(28, dtype=np.float32)})
    with acceptance.database.write() as unit:
        unit.session.execute(update(ClassifierRow).values(card={"preprocessing": {"size": 64}}))
        job = queries.job(unit.session, job_id)
        assert job is not None
        pixels = acceptance.storage.put_pixels(job.film_sha256, np.full((96, 96), 0.5, dtype=np.float32))
        files = {"pixels": asdict(pixels), "maps": asdict(maps)}
        audit = add_audit(unit.session, job, "suspicious", files=files)
        unit.record("audit.completed", audit.id, "worker", record_sha256=record_hash(audit), files=files)
        outbox.plan(unit, job)
        outbox.plan(unit, job)
    return job


def drain(outbox: Outbox) -> None:
    while outbox.send_next():
        pass


def rows(database: Database) -> list[DeliveryRow]:
    with database.read() as session:
        return list(session.scalars(select(DeliveryRow).order_by(DeliveryRow.kind)))


def opened_with(opened: Database, settings: Settings, port: int) -> tuple[Acceptance, Outbox]:
    acceptance = make_acceptance(opened, settings, rules_for(port))
    return acceptance, Outbox(opened, acceptance.storage, acceptance.rules, "TRIGGERSCOPE")


def test_report_and_picture_arrive_once(opened: Database, settings: Settings, archive: Archive) -> None:
    acceptance, outbox = opened_with(opened, settings, archive.port)
    job = audited(acceptance, outbox)
    drain(outbox)
    assert [(row.kind, row.state, row.attempts) for row in rows(opened)] == [
        ("sc", "delivered", 1),
        ("sr", "delivered", 1),
    ]
    assert len(set(archive.kept)) == 2
    with opened.read() as session:
        kinds = [event.kind for event in queries.events_about(session, job.id)]
    assert kinds.count("result.delivered") == 2
    resend(opened, rows(opened)[0].id, "test")
    drain(outbox)
    assert len(archive.kept) == 3
    assert len(set(archive.kept)) == 2


def test_a_destination_that_is_away_is_tried_again_and_at_last_given_up(
    opened: Database, settings: Settings, archive: Archive
) -> None:
    acceptance, outbox = opened_with(opened, settings, archive.port)
    archive.status = REFUSED
    audited(acceptance, outbox)
    drain(outbox)
    for row in rows(opened):
        assert (row.state, row.attempts, row.error_code) == ("pending", 1, "delivery_failed")
        assert row.due_at > utc_now() + timedelta(seconds=5)
    for _ in range(MAX_ATTEMPTS - 1):
        with opened.write() as unit:
            unit.session.execute(update(DeliveryRow).values(due_at=utc_now()))
        drain(outbox)
    assert {(row.state, row.attempts) for row in rows(opened)} == {("dead", MAX_ATTEMPTS)}
    assert {row.error_detail for row in rows(opened)} == {"the destination refused the object with status A700"}
    archive.status = 0
    for row in rows(opened):
        resend(opened, row.id, "test")
    drain(outbox)
    assert {row.state for row in rows(opened)} == {"delivered"}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # pynetdicom drops its refused socket
def test_an_unreachable_destination(opened: Database, settings: Settings) -> None:
    acceptance, outbox = opened_with(opened, settings, 9)
    audited(acceptance, outbox)
    drain(outbox)
    assert {(row.state, row.error_code) for row in rows(opened)} == {("pending", "delivery_failed")}


def test_a_sender_that_was_killed_loses_its_claim(opened: Database, settings: Settings, archive: Archive) -> None:
    acceptance, outbox = opened_with(opened, settings, archive.port)
    audited(acceptance, outbox)
    with opened.write() as unit:
        assert pacs_queries.claim_delivery(unit.session, utc_now(), utc_now() + timedelta(seconds=-1)) is not None
    drain(outbox)
    assert {row.state for row in rows(opened)} == {"delivered"}


def test_an_original_waits_for_its_results(opened: Database, settings: Settings) -> None:
    acceptance, outbox = opened_with(opened, settings, 9)
    job = audited(acceptance, outbox)
    with opened.write() as unit:
        queries.extend_original(unit.session, job.film_sha256, utc_now())
        assert queries.films_with_expired_original(unit.session, utc_now(), 10) == []
        unit.session.execute(update(DeliveryRow).values(state="delivered"))
        assert len(queries.films_with_expired_original(unit.session, utc_now(), 10)) == 1


def test_a_forgotten_study_sends_nothing_more(opened: Database, settings: Settings, archive: Archive) -> None:
    acceptance, outbox = opened_with(opened, settings, archive.port)
    audited(acceptance, outbox)
    forget(opened, acceptance.storage, acceptance.pseudonyms, STUDY, "test")
    drain(outbox)
    assert archive.kept == []
    assert {row.state for row in rows(opened)} == {"cancelled"}
    with pytest.raises(UnknownDelivery):
        resend(opened, rows(opened)[0].id, "test")


@pytest.mark.parametrize(
    ("changed", "given_up"),
    [("original", {"sr", "sc"}), ("pixels", {"sc"}), ("maps", {"sc"}), ("record", {"sr", "sc"})],
)
def test_nothing_is_made_of_evidence_that_was_changed(
    opened: Database, settings: Settings, archive: Archive, changed: str, given_up: set[str]
) -> None:
    acceptance, outbox = opened_with(opened, settings, archive.port)
    job = audited(acceptance, outbox)
    folder = {"original": "originals", "record": "nowhere"}.get(changed, changed)
    for path in (settings.data_dir / folder).glob("*/*"):
        path.write_bytes(film(2) if changed == "original" else path.read_bytes()[:-1])
    if changed == "record":
        drop = "DROP TRIGGER audits_no_update" if opened.is_sqlite else "DROP TRIGGER audits_append_only ON audits"
        with opened.write() as unit:
            unit.session.execute(text(drop))
            unit.session.execute(update(AuditRow).values(verdict="unremarkable"))
    drain(outbox)
    assert len(archive.kept) == 2 - len(given_up)
    dead = {(row.kind, row.error_code) for row in rows(opened) if row.state == "dead"}
    assert dead == {(kind, "evidence_changed") for kind in given_up}
    with opened.read() as session:
        events = queries.events_about(session, job.id)
    assert [event.payload["file"] for event in events if event.kind == "evidence.changed"] == [changed]


def test_without_a_rule_nothing_is_planned(acceptance: Acceptance) -> None:
    outbox = Outbox(acceptance.database, acceptance.storage, acceptance.rules, "TRIGGERSCOPE")
    job = audited(acceptance, outbox)
    assert (job.rule, rows(acceptance.database)) == (None, [])
    with acceptance.database.read() as session:
        assert session.scalars(select(EventRow).where(EventRow.kind.like("result.%"))).all() == []


def test_a_destination_without_a_usable_address_stops_no_other(opened: Database, settings: Settings) -> None:
    unusable = Destination(name="archive", stow_url="http://127.0.0.1:port/studies")
    rule = Rule(name="all", results=(Result(destination="archive"),))
    acceptance = make_acceptance(opened, settings, Rules(rule=(rule,), destination=(unusable,)))
    outbox = Outbox(opened, acceptance.storage, acceptance.rules, "TRIGGERSCOPE")
    audited(acceptance, outbox)
    drain(outbox)
    assert [(row.state, row.error_code) for row in rows(opened)] == [("pending", "delivery_failed")]


def test_a_film_that_no_result_can_be_made_of_is_tried_again_with_its_reason_and_stops_no_other(
    opened: Database, settings: Settings, archive: Archive
) -> None:
    acceptance, outbox = opened_with(opened, settings, archive.port)
    odd = audited(acceptance, outbox, film(1, PatientSex="m"))
    audited(acceptance, outbox, film(2))
    drain(outbox)
    found = {(row.job_id == odd.id, row.state, row.error_code, row.error_detail) for row in rows(opened)}
    assert found == {
        (True, "pending", "unusable_result", "no result could be made of this film, or sent (ValueError)"),
        (False, "delivered", None, None),
    }


def test_an_association_that_has_ended_is_a_failed_delivery(archive: Archive) -> None:
    destination = rules_for(archive.port).destination[0]
    report = structured_report(read_source(film(1)), Findings("suspicious", 1.0, None, "Mass", None, "c", "a", "", ()))

    def hang_up_and_send() -> None:
        with associated(destination, "TRIGGERSCOPE", Comprehensive3DSRStorage) as association:
            association.abort()
            association.send_c_store(report)

    with pytest.raises(DeliveryFailed):
        hang_up_and_send()


def test_a_password_file_that_is_missing_is_that_results_fault_alone(
    opened: Database, settings: Settings, archive: Archive
) -> None:
    missing = settings.data_dir / "no-such-file"
    locked = Destination(name="locked", stow_url="http://127.0.0.1:9/s", username="us", password_file=missing)
    open_to_us = rules_for(archive.port, ("sr",))
    both = (Result(kinds=("sr",), destination="locked"), *open_to_us.rule[0].results)
    rules = Rules(rule=(Rule(name="all", results=both),), destination=(locked, *open_to_us.destination))
    acceptance = make_acceptance(opened, settings, rules)
    outbox = Outbox(opened, acceptance.storage, acceptance.rules, "TRIGGERSCOPE")
    audited(acceptance, outbox)
    drain(outbox)
    found = {(row.destination, row.state, row.error_code) for row in rows(opened)}
    assert found == {("locked", "pending", "delivery_failed"), ("archive", "delivered", None)}
