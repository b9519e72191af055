"""The log against tampering: signed checkpoints of all chains, and the search for what was changed behind our back.

Each writer's events form a hash chain (see db/chain.py), and `audit.completed` carries its audit's hash. That shows
edits, deletions and reordering. A chain cut off at its end, or a chain that is missing whole, shows only against a
checkpoint that was signed before and kept elsewhere.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row
from sqlalchemy.orm import Session

from service.audit.errors import TriggerscopeError
from service.db import log_queries
from service.db.chain import GENESIS, Event, Head, canonical, event_hash, record_hash
from service.db.session import Database, utc_now
from service.db.tables import CheckpointRow, EventRow
from service.signing import Signer, is_signed

FORMAT = 1
ACTIVATIONS = (
    "classifier.activated", "classifier.made_default", "classifier.retired", "classifier.default_cleared",
    "classifier.rolled_back", "policy.activated", "policy.rolled_back",
)  # fmt: skip


class UnreadableCheckpoint(TriggerscopeError):
    """The file is no checkpoint of this service."""

    code = "unreadable_checkpoint"


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that the log should not show. place: a writer and sequence number, an audit, or a checkpoint."""

    kind: str
    place: str


@dataclass(frozen=True, slots=True)
class Report:
    events: int
    audits: int
    checkpoints: int
    faults: tuple[Fault, ...]


@dataclass(slots=True)
class _Seen:
    """What one pass over the events found out."""

    count: int = 0
    faults: list[Fault] = field(default_factory=list)
    wanted: dict[tuple[str, int], str] = field(default_factory=dict)  # places that checkpoints name
    records: dict[str, str] = field(default_factory=dict)
    reviews: dict[str, tuple[Any, str]] = field(default_factory=dict)
    slots: dict[str, tuple[Any, str | None]] = field(default_factory=dict)


def sign_checkpoint(database: Database, signer: Signer, actor: str) -> dict[str, Any]:
    """Sign where every chain stands, keep the statement, and return it to be kept elsewhere."""
    with database.write() as unit:
        heads = log_queries.heads(unit.session)
        document = _document(heads, signer)
        content = document["content"]
        row = CheckpointRow(at=utc_now(), events=content["events"], root=content["root"], document=document)
        unit.session.add(row)
        unit.record("log.checkpoint", content["root"], actor, events=content["events"])
    return document


def _document(heads: Sequence[Head], signer: Signer) -> dict[str, Any]:
    content = {
        "format": FORMAT,
        "at": utc_now().isoformat(timespec="seconds"),
        "heads": [{"writer": head.writer, "sequence": head.sequence, "hash": head.hash} for head in heads],
        "events": sum(head.sequence for head in heads),
        "root": tree_root([canonical({"writer": h.writer, "sequence": h.sequence, "hash": h.hash}) for h in heads]),
    }
    return {"content": content, "signature": signer.sign(canonical(content)), "public_key": signer.public_pem}


def tree_root(leaves: Sequence[bytes]) -> str:
    """The Merkle tree hash of RFC 6962, section 2.1, as hexadecimal digits."""
    return _subtree(leaves).hex()


def _subtree(leaves: Sequence[bytes]) -> bytes:
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + _subtree(leaves[:split]) + _subtree(leaves[split:])).digest()


def read_checkpoint(data: bytes) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(data)
        if document["content"]["format"] != FORMAT:
            raise UnreadableCheckpoint("the checkpoint is of another format")
        return document
    except (KeyError, TypeError, ValueError):
        raise UnreadableCheckpoint("the file is not a checkpoint") from None


def verify(database: Database, public_pem: str, kept: Sequence[dict[str, Any]] = ()) -> Report:
    """Check every event, audit, review and activation; `kept` are checkpoints from outside the database."""
    with database.read() as session:
        documents = [*log_queries.checkpoint_documents(session), *kept]
        seen = _Seen()
        for document in documents:
            _expect(document, public_pem, seen)
        _walk(session, seen)
        audits = _compare_audits(session, seen)
        _compare_states(session, seen)
    return Report(seen.count, audits, len(documents), tuple(seen.faults))


def _expect(document: dict[str, Any], public_pem: str, seen: _Seen) -> None:
    content = document["content"]
    if not is_signed(canonical(content), document["signature"], public_pem):
        seen.faults.append(Fault("checkpoint not signed by this key", content["at"]))
        return
    for head in content["heads"]:
        seen.wanted[head["writer"], head["sequence"]] = head["hash"]


def _walk(session: Session, seen: _Seen) -> None:
    head = Head("")
    for row in log_queries.events(session):
        if row.writer != head.writer:
            head = Head(row.writer)
        seen.faults.extend(_faults_of(row, head))
        if seen.wanted.pop((row.writer, row.sequence), row.hash) != row.hash:
            seen.faults.append(Fault("not what a checkpoint signed", f"{row.writer}/{row.sequence}"))
        head = Head(row.writer, row.sequence, row.hash)
        _note(row, seen)
    for writer, sequence in seen.wanted:
        seen.faults.append(Fault("cut off behind a checkpoint", f"{writer}/{sequence}"))


def _faults_of(row: Row[Any], head: Head) -> Iterator[Fault]:
    place = f"{row.writer}/{row.sequence}"
    if row.sequence != head.sequence + 1:
        yield Fault("events are missing before this one", place)
    elif row.previous_hash != (head.hash if head.sequence else GENESIS):
        yield Fault("does not follow the one before", place)
    event = Event(row.at, row.actor, row.kind, row.subject, row.payload)
    if event_hash(row.writer, row.sequence, row.previous_hash, event) != row.hash:
        yield Fault("has been edited", place)


def _note(row: Row[Any], seen: _Seen) -> None:
    seen.count += 1
    if row.kind == "audit.completed":
        seen.records[row.subject] = str(row.payload.get("record_sha256", ""))
    elif row.kind.startswith("review."):
        _keep_latest(seen.reviews, row, str(row.payload.get("state")))
    elif row.kind in ACTIVATIONS:
        _keep_latest(seen.slots, row, row.payload.get("target"))


def _keep_latest(found: dict[str, tuple[Any, Any]], row: Row[Any], value: str | None) -> None:
    if row.subject not in found or found[row.subject][0] <= row.at:
        found[row.subject] = (row.at, value)


def _compare_audits(session: Session, seen: _Seen) -> int:
    count = 0
    records = dict(seen.records)
    for count, row in enumerate(log_queries.audits(session), 1):  # noqa: B007 -- the number of audits is the result
        recorded = records.pop(row.id, None)
        if recorded is None:
            seen.faults.append(Fault("audit without its event", row.id))
        elif recorded and recorded != record_hash(row):
            seen.faults.append(Fault("audit has been edited", row.id))
    seen.faults.extend(Fault("audit has been removed", audit_id) for audit_id in records)
    return count


def _compare_states(session: Session, seen: _Seen) -> None:
    for audit_id, state, verdict in log_queries.review_states(session):
        fresh = "unflagged" if verdict == "unremarkable" else "open"
        if state != seen.reviews.get(audit_id, (None, fresh))[1]:
            seen.faults.append(Fault("review has been edited", audit_id))
    in_force = log_queries.in_force(session)
    for slot in {*in_force, *seen.slots}:
        if in_force.get(slot) != seen.slots.get(slot, (None, None))[1]:
            seen.faults.append(Fault("activation has been edited", slot))


def export(session: Session) -> Iterable[str]:
    """Every event as one line of JSON, chain by chain."""
    for row in log_queries.events(session):
        yield event_line(row)


def event_line(row: EventRow | Row[Any]) -> str:
    names = ("writer", "sequence", "actor", "kind", "subject", "payload", "previous_hash", "hash")
    values = {name: getattr(row, name) for name in names}
    return canonical(values | {"at": row.at.isoformat(timespec="microseconds")}).decode()
