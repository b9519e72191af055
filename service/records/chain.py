"""Hash chains over events: each writer's events name the hash of the one before; and hashes of the rows they name."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from service.records.tables import AuditRow, EventRow, ReviewRow

GENESIS = "0" * 64
AUDIT_COLUMNS = tuple(column.key for column in AuditRow.__table__.columns)
REVIEW_COLUMNS = tuple(column.key for column in ReviewRow.__table__.columns)
AUDIT_TIMES = ("received_at", "completed_at")
REVIEW_TIMES = ("received_at", "decided_at")
ADDED_LATER = {
    "files",
    "fingerprint",
    "hypothesis",
    "watch_hit",
}  # not in the record where they are null, as old records have none
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode


@dataclass(frozen=True, slots=True)
class Event:
    at: datetime
    actor: str
    kind: str
    subject: str
    payload: dict[str, Any]


class StoredEvent(NamedTuple):
    """A row of `events`, its columns in their order."""

    writer: str
    sequence: int
    at: datetime
    actor: str
    kind: str
    subject: str
    payload: dict[str, Any]
    previous_hash: str
    hash: str


@dataclass(frozen=True, slots=True)
class Head:
    """The last event of one writer's chain."""

    writer: str
    sequence: int = 0
    hash: str = GENESIS


def event_hash(writer: str, sequence: int, previous_hash: str, event: Event | StoredEvent | EventRow) -> str:
    """SHA-256 of the event in canonical JSON, its place in the chain included."""
    text = (  # what `canonical` gives, put together by hand: a log is verified in half the time
        f'{{"actor":{_encode(event.actor)},"at":{_encode(_time_text(event.at))},"kind":{_encode(event.kind)},'
        f'"payload":{_encode(event.payload)},"previous_hash":{_encode(previous_hash)},"sequence":{sequence:d},'
        f'"subject":{_encode(event.subject)},"writer":{_encode(writer)}}}'
    )
    return hashlib.sha256(text.encode()).hexdigest()


def canonical(content: dict[str, Any]) -> bytes:
    """The one JSON text of a document that is hashed or signed."""
    return _encode(content).encode()


def audit_record(row: AuditRow) -> dict[str, Any]:
    """Everything that an audit keeps, as JSON values."""
    return _audit_content([getattr(row, name) for name in AUDIT_COLUMNS])


def record_hash(row: AuditRow) -> str:
    """What the event `audit.completed` keeps of its audit, so that a later change of the row shows."""
    return content_hash(audit_record(row))


def review_hash(row: ReviewRow) -> str:
    """What `audit.completed` and each `review.*` event keep of the review as they leave it; nulls are left out."""
    return stored_review_hash([getattr(row, name) for name in REVIEW_COLUMNS])


def stored_record_hash(values: Sequence[Any]) -> str:
    """`record_hash` of an audit's columns in their order."""
    return content_hash(_audit_content(values))


def stored_review_hash(values: Sequence[Any]) -> str:
    """`review_hash` of a review's columns in their order."""
    content = {name: value for name, value in zip(REVIEW_COLUMNS, values, strict=True) if value is not None}
    return content_hash(_with_times_as_text(content, REVIEW_TIMES))


def content_hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(canonical(content)).hexdigest()


def _audit_content(values: Sequence[Any]) -> dict[str, Any]:
    content = dict(zip(AUDIT_COLUMNS, values, strict=True))
    for name in ADDED_LATER:
        if content[name] is None:
            del content[name]
    return _with_times_as_text(content, AUDIT_TIMES)


def _with_times_as_text(content: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    for name in names:
        if name in content:
            content[name] = _time_text(content[name])
    return content


def _time_text(at: datetime) -> str:
    return at.isoformat(timespec="microseconds")


def extend(head: Head, events: Sequence[Event]) -> tuple[list[EventRow], Head]:
    """The rows that append `events` to a chain, and its new head."""
    rows = []
    for event in events:
        sequence = head.sequence + 1
        digest = event_hash(head.writer, sequence, head.hash, event)
        rows.append(
            EventRow(
                writer=head.writer,
                sequence=sequence,
                at=event.at,
                actor=event.actor,
                kind=event.kind,
                subject=event.subject,
                payload=event.payload,
                previous_hash=head.hash,
                hash=digest,
            )
        )
        head = Head(head.writer, sequence, digest)
    return rows, head
