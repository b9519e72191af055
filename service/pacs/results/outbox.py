"""Results out: planned in the transaction that records the verdict, sent later, again and again but not for ever."""

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service.desk.pictures import finest, map_picture
from service.errors import TriggerscopeError
from service.loops import Loop
from service.pacs.results.destinations import send
from service.pacs.results.proof import ACTOR, NotProven, find, read_back, request_commitment
from service.pacs.results.report import (
    findings_of,
    presentation_state,
    read_source,
    secondary_capture,
    structured_report,
)
from service.pacs.results.webhook import payload, post
from service.pacs.rules import Destination, Proof, Rules
from service.records import pacs_queries, queries
from service.records.pacs_queries import DEAD, DELIVERED, PENDING
from service.records.session import Database, Unit, utc_now
from service.records.storage import EvidenceChanged, NotStored, Storage
from service.records.stored_evidence import StoredEvidence
from service.records.tables import AuditRow, DeliveryRow, JobRow
from service.registry.registry import preprocessing

MAX_ATTEMPTS = 12  # over some three hours
FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=10), timedelta(hours=1)
CLAIM = timedelta(minutes=5)  # a sender that is killed loses its claim after this
COMMITMENT_WAIT = timedelta(minutes=10)  # then the result is sent again
POLL_SECONDS = 1.0
log = structlog.get_logger()


class UnknownDestination(TriggerscopeError):
    """The rules no longer name the destination of a planned result."""

    code = "unknown_destination"


class UnusableResult(TriggerscopeError):
    """A film or its audit is such that no result could be made of it."""

    code = "unusable_result"


class UnknownDelivery(TriggerscopeError):
    """No result of this id is waiting, delivered or given up."""

    code = "unknown_delivery"


class Outbox:
    def __init__(self, database: Database, storage: Storage, rules: Rules, ae_title: str) -> None:
        self._database, self._rules, self._ae_title = database, rules, ae_title
        self._evidence = StoredEvidence(database, storage)
        self.loop = Loop("outbox")

    def plan(self, unit: Unit, job: JobRow) -> None:
        """The deliveries that the job's rule asks for; part of the transaction of its verdict."""
        rule = self._rules.named(job.rule) if job.rule else None
        now = utc_now()
        for result in rule.results if rule else ():
            for kind in result.kinds:
                queries.insert_unless_present(unit.session, _planned(job.id, result.destination, kind, now))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Sends in a thread of its own, where the rules name a destination."""
        if not self._rules.destination:
            yield
            return
        stop = threading.Event()
        turns = (self.send_next, stop, POLL_SECONDS)
        thread = threading.Thread(target=self.loop.run, args=turns, name="outbox")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def send_next(self) -> bool:
        """Send what has been due longest; False when nothing is due."""
        now = utc_now()
        with self._database.read() as session:
            if not pacs_queries.has_due_delivery(session, now):
                return False
        with self._database.write() as unit:
            row = pacs_queries.claim_delivery(unit.session, now, now + CLAIM)
        if row is not None:
            self._attempt(row)
        return row is not None

    def _attempt(self, row: DeliveryRow) -> None:
        if row.attempts > MAX_ATTEMPTS:  # none of them came to an end: killed, or their commitment never reported
            self._give_up(row, row.error_code or NotProven.code, row.error_detail)
            return
        try:
            destination = self._rules.destination_named(row.destination)
            if destination is None:
                raise UnknownDestination("the rules no longer name the destination")
            proof = self._send(row, destination)
        except TriggerscopeError as error:
            self._failed(row, error)
        except SQLAlchemyError:  # the database is away: not this result's fault, and nothing could be recorded
            raise
        except Exception as error:  # noqa: BLE001 -- whatever one film does to a library must not stop the others
            log.error("outbox.unusable_film", delivery=row.id, error=type(error).__name__)
            self._failed(row, UnusableResult(f"no result could be made of this film, or sent ({type(error).__name__})"))
        else:
            if proof != "commitment":
                self._delivered(row, None if proof == "none" else proof)

    def _send(self, row: DeliveryRow, destination: Destination) -> Proof:
        """Send it, and show that it arrived; a commitment is only asked for here, and reported later."""
        with self._database.read() as session:
            job = pacs_queries.audited_job(session, row.job_id)
            if job is None or job.audit is None:
                raise LookupError("a delivery belongs to an audit")
            self._evidence.require_record(job.audit)
            if row.kind == "json":
                post(destination, row.id, payload(job, job.audit))
                return "none"
            result = self._object(session, row.kind, job, job.audit)
        send(destination, result, self._ae_title)
        if destination.wanted_proof == "read_back":
            read_back(destination, result)
        elif destination.wanted_proof == "find":
            find(destination, result, self._ae_title)
        elif destination.wanted_proof == "commitment":
            self._ask_for_commitment(row, destination, result)
        return destination.wanted_proof

    def _object(self, session: Session, kind: str, job: JobRow, audit: AuditRow) -> Dataset:
        source = read_source(self._evidence.original(job))
        findings = findings_of(audit, job.comparisons)
        if kind == "sc":
            return secondary_capture(source, findings, _picture(session, self._evidence, audit))
        return {"sr": structured_report, "gsps": presentation_state}[kind](source, findings)

    def _ask_for_commitment(self, row: DeliveryRow, destination: Destination, result: Dataset) -> None:
        """The transaction is kept before it is asked for: the report may come at once, and to another process."""
        transaction_uid = str(generate_uid(prefix=None))
        due_at = utc_now() + max(COMMITMENT_WAIT, _pause(row.attempts))
        with self._database.write() as unit:
            pacs_queries.settle_delivery(
                unit.session,
                row.id,
                transaction_uid=transaction_uid,
                due_at=due_at,
                error_code="commitment_awaited",
                error_detail=None,
            )
        request_commitment(destination, result, self._ae_title, transaction_uid)
        log.info("outbox.commitment_awaited", delivery=row.id)

    def _failed(self, row: DeliveryRow, error: TriggerscopeError) -> None:
        if isinstance(error, (EvidenceChanged, NotStored)) or row.attempts >= MAX_ATTEMPTS:
            self._give_up(row, error.code, error.detail)
            return
        log.warning("outbox.attempt_failed", delivery=row.id, attempt=row.attempts, code=error.code)
        with self._database.write() as unit:
            pacs_queries.settle_delivery(
                unit.session,
                row.id,
                due_at=utc_now() + _pause(row.attempts),
                error_code=error.code,
                error_detail=error.detail,
            )

    def _delivered(self, row: DeliveryRow, proof: str | None) -> None:
        with self._database.write() as unit:
            pacs_queries.settle_delivery(
                unit.session,
                row.id,
                state=DELIVERED,
                delivered_at=utc_now(),
                error_code=None,
                error_detail=None,
                proof=proof,
            )
            self._record(unit, row, "result.delivered", proof=proof)

    def _give_up(self, row: DeliveryRow, code: str, detail: str | None) -> None:
        with self._database.write() as unit:
            pacs_queries.settle_delivery(unit.session, row.id, state=DEAD, error_code=code, error_detail=detail)
            self._record(unit, row, "result.given_up", code=code, detail=detail)

    def _record(self, unit: Unit, row: DeliveryRow, event: str, **more: str | None) -> None:
        said: dict[str, object] = {"result": row.kind, "destination": row.destination, "attempts": row.attempts}
        unit.record(event, row.job_id, ACTOR, **said, **more)
        log.info(event, audit=row.job_id, kind=row.kind, destination=row.destination)


def resend(database: Database, delivery_id: str, actor: str) -> None:
    """Make a result that was delivered or given up due again."""
    with database.write() as unit:
        if not pacs_queries.resend(unit.session, delivery_id, utc_now()):
            raise UnknownDelivery("no delivered or given up result has this id")
        unit.record("result.resent", delivery_id, actor)


def _planned(job_id: str, destination: str, kind: str, now: datetime) -> DeliveryRow:
    return DeliveryRow(
        id=secrets.token_hex(16),
        job_id=job_id,
        destination=destination,
        kind=kind,
        state=PENDING,
        attempts=0,
        due_at=now,
        error_code=None,
        error_detail=None,
        created_at=now,
        delivered_at=None,
        proof=None,
        transaction_uid=None,
    )


def _pause(attempts: int) -> timedelta:
    return min(FIRST_PAUSE * float(2 ** (attempts - 1)), LONGEST_PAUSE)


def _picture(session: Session, evidence: StoredEvidence, row: AuditRow) -> bytes:
    maps = evidence.maps(row)
    return map_picture(evidence.pixels(row), row, preprocessing(session, row.classifier_sha256), maps[finest(maps)])
