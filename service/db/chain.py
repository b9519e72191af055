"""Hash chains over events: each writer's events name the hash of the one before; and hashes of the rows they name."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row

from service.db.tables import AuditRow, EventRow, ReviewRow

GENESIS = "0" * 64
AUDIT_COLUMNS = tuple(column.key for column in AuditRow.__table__.columns)
REVIEW_COLUMNS = tuple(column.key for column in ReviewRow.__table__.columns)
ADDED_LATER = {"hypothesis", "watch_hit"}  # not in the record where they are null, as old records have none
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode


@dataclass(frozen=True, slots=True)
class Event:
    at: datetime
    actor: str
    kind: str
    subject: str
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Head:
    """The last event of one writer's chain."""

    writer: str
    sequence: int = 0
    hash: str = GENESIS


def event_hash(writer: str, sequence: int, previous_hash: str, event: Event) -> str:
    """SHA-256 of the event in canonical JSON, its place in the chain included."""
    content = {
        "writer": writer,
        "sequence": sequence,
        "previous_hash": previous_hash,
        "at": event.at.isoformat(timespec="microseconds"),
        "actor": event.actor,
        "kind": event.kind,
        "subject": event.subject,
        "payload": event.payload,
    }
    return hashlib.sha256(canonical(content)).hexdigest()


def canonical(content: dict[str, Any]) -> bytes:
    """The one JSON text of a document that is hashed or signed."""
    return _encode(content).encode()


def audit_record(row: AuditRow | Row[Any]) -> dict[str, Any]:
    """Everything that an audit keeps, as JSON values."""
    values = {name: _json_value(getattr(row, name)) for name in AUDIT_COLUMNS}
    return {name: value for name, value in values.items() if value is not None or name not in ADDED_LATER}


def record_hash(row: AuditRow | Row[Any]) -> str:
    """What the event `audit.completed` keeps of its audit, so that a later change of the row shows."""
    return hashlib.sha256(canonical(audit_record(row))).hexdigest()


def review_hash(row: ReviewRow | Row[Any]) -> str:
    """What `audit.completed` and each `review.*` event keep of the review as they leave it; nulls are left out."""
    values = {name: _json_value(getattr(row, name)) for name in REVIEW_COLUMNS}
    return hashlib.sha256(canonical({name: value for name, value in values.items() if value is not None})).hexdigest()


def _json_value(value: Any) -> Any:
    return value.isoformat(timespec="microseconds") if isinstance(value, datetime) else value


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
