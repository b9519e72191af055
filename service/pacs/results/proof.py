"""Proof that a result arrived: read back by WADO-RS, found by C-FIND, or committed to by the archive."""

import json

import httpx
import structlog
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom.events import Event
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made when they are imported
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    StudyRootQueryRetrieveInformationModelFind,
)

from service.errors import TriggerscopeError
from service.pacs.results.destinations import SUCCESS, DeliveryFailed, associated, http_client
from service.pacs.rules import Destination
from service.records import pacs_queries
from service.records.pacs_queries import DELIVERED
from service.records.session import Database, utc_now

ACTOR = "outbox"
REQUEST_COMMITMENT = 1  # action type: PS3.4 table J.3-1
ALL_COMMITTED, SOME_FAILED = 1, 2  # event types: PS3.4 table J.3-2
NO_SUCH_ARGUMENT, INVALID_ARGUMENT = 0x0114, 0x0115  # statuses of N-EVENT-REPORT: PS3.7 section 10.1.1.1.8
SOP_INSTANCE_UID = "00080018"
LARGEST_ANSWER_BYTES = 4 * 1024 * 1024
log = structlog.get_logger()


class NotProven(TriggerscopeError):
    """The destination took the result, and then did not show that it has it."""

    code = "not_proven"


def read_back(destination: Destination, result: Dataset) -> None:
    """Retrieve Metadata (PS3.18 section 10.4) of the object that was stored. Raises NotProven, DeliveryFailed."""
    path = f"{result.StudyInstanceUID}/series/{result.SeriesInstanceUID}/instances/{result.SOPInstanceUID}/metadata"
    address = f"{(destination.stow_url or '').rstrip('/')}/{path}"
    body = b""
    with (
        http_client(destination) as client,
        client.stream("GET", address, headers={"Accept": "application/dicom+json"}) as answer,
    ):
        for piece in answer.iter_bytes():
            body += piece
            if len(body) > LARGEST_ANSWER_BYTES:
                raise NotProven("the destination answers with more than one object's metadata")
    if answer.status_code != httpx.codes.OK or not _names(body, str(result.SOPInstanceUID)):
        raise NotProven("the destination does not give the object back")


def find(destination: Destination, result: Dataset, ae_title: str) -> None:
    """C-FIND of the object at the level IMAGE. Raises NotProven, DeliveryFailed."""
    query = Dataset()
    query.QueryRetrieveLevel = "IMAGE"
    query.StudyInstanceUID, query.SeriesInstanceUID = result.StudyInstanceUID, result.SeriesInstanceUID
    query.SOPInstanceUID = result.SOPInstanceUID
    model = StudyRootQueryRetrieveInformationModelFind
    with associated(destination, ae_title, model) as association:
        found = [match.get("SOPInstanceUID") for _, match in association.send_c_find(query, model) if match]
    if result.SOPInstanceUID not in found:
        raise NotProven("the destination does not find the object")


def request_commitment(destination: Destination, result: Dataset, ae_title: str, transaction_uid: str) -> None:
    """N-ACTION of the Storage Commitment Push Model (PS3.4 annex J); the answer comes to `on_report` later."""
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = result.SOPClassUID, result.SOPInstanceUID
    request = Dataset()
    request.TransactionUID, request.ReferencedSOPSequence = UID(transaction_uid), [reference]
    model, instance = StorageCommitmentPushModel, StorageCommitmentPushModelInstance
    with associated(destination, ae_title, model) as association:
        status, _ = association.send_n_action(request, REQUEST_COMMITMENT, model, instance)
    if status.get("Status") != SUCCESS:
        raise DeliveryFailed("the destination does not take requests for commitment")


def on_report(event: Event, database: Database) -> tuple[int, None]:
    """The archive says what became of a request; Success only after the commit."""
    transaction_uid = str(event.event_information.get("TransactionUID", ""))
    if event.event_type not in (ALL_COMMITTED, SOME_FAILED):
        return NO_SUCH_ARGUMENT, None
    is_committed = event.event_type == ALL_COMMITTED
    with database.write() as unit:
        row = pacs_queries.delivery_of_transaction(unit.session, transaction_uid)
        if row is None:
            log.warning("commitment.unknown_transaction")
            return INVALID_ARGUMENT, None
        if is_committed:
            row.state, row.delivered_at, row.proof = DELIVERED, utc_now(), "commitment"
            row.error_code = row.error_detail = None
        else:
            row.due_at, row.transaction_uid = utc_now(), None
            row.error_code, row.error_detail = NotProven.code, "the archive reports that it did not commit the result"
        kind = "result.delivered" if is_committed else "result.not_committed"
        unit.record(kind, row.job_id, ACTOR, result=row.kind, destination=row.destination, proof="commitment")
    log.info("commitment.reported", delivery=row.id, committed=is_committed)
    return SUCCESS, None


def _names(answer: bytes, uid: str) -> bool:
    try:
        return any(uid in item[SOP_INSTANCE_UID]["Value"] for item in json.loads(answer))
    except (ValueError, TypeError, KeyError, RecursionError):
        return False
