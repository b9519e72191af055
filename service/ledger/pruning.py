"""Removing old events provably: archived first, then replaced by signed statements that the rest is verified from.

A statement names one chain's oldest part by its first and last sequence number, the hash that it ends with, and the
Merkle root (RFC 6962) over the hashes of its events. What those events vouch for and is still needed, such as the
hash of an audit's record, is recorded anew under `carried.` and the kind that it had.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from service.errors import TriggerscopeError
from service.ledger.merkle import Tree
from service.ledger.signing import Signer
from service.ledger.verify import (
    ACTIVATIONS,
    FORMAT,
    Fault,
    event_line,
    faults_of,
    moment,
    signed,
    signed_content,
    tree_root,
)
from service.records import log_queries
from service.records.chain import Head, StoredEvent, content_hash
from service.records.log_queries import CARRIED
from service.records.session import Database, Unit, utc_now
from service.records.tables import EventRow, PruningRow

LEAST_AGE = timedelta(days=184)  # six months, whichever they are
MOST_AT_ONCE = 10_000  # events of one statement, and of one transaction
NEEDED: dict[str, tuple[str, ...]] = {
    "audit.completed": ("record_sha256", "review_sha256", "files"),
    "log.checkpoint": (),
    "log.pruned": ("statement_sha256",),
    "account.created": ("role",),
    "account.changed": ("role", "disabled"),
    "key.created": ("scopes",),
    "key.revoked": (),
    "watch.added": ("patch_sha256", "active"),
    "watch.retired": ("patch_sha256", "active"),
    "watch.restored": ("patch_sha256", "active"),
}


class TooYoung(TriggerscopeError):
    """Events are kept for six months at least."""

    code = "too_young"


class UnreadableArchive(TriggerscopeError):
    """The file is no export of the log."""

    code = "unreadable_archive"


@dataclass(frozen=True, slots=True)
class ArchiveReport:
    """proven: events under a signed statement whose Merkle root they give."""

    events: int
    proven: int
    faults: tuple[Fault, ...]


@dataclass(slots=True)
class _Part:
    """One chain of an archive, as far as it was read."""

    head: Head
    tree: Tree = field(default_factory=Tree)


def archive(database: Database, before: datetime) -> Iterator[str]:
    """The events that `prune` would remove, each as a line of JSON. Raises TooYoung."""
    _require_age(before)
    return _archived(database, before)


def _archived(database: Database, before: datetime) -> Iterator[str]:
    with database.snapshot() as session:
        for writer, last_sequence in log_queries.prunable(session, before):
            for row in log_queries.events(session, writer, last_sequence):
                yield event_line(row)


def prune(database: Database, signer: Signer, before: datetime, actor: str) -> list[dict[str, Any]]:
    """Remove events from before a day that lies six months back, or longer; returns the statements about them."""
    _require_age(before)
    with database.read() as session:
        chains = log_queries.prunable(session, before)
    statements = []
    for writer, last_sequence in chains:
        while document := _prune_part(database, signer, writer, last_sequence, actor):
            statements.append(document)
    return statements


def _require_age(before: datetime) -> None:
    if before > utc_now() - LEAST_AGE:
        raise TooYoung(f"events are kept for {LEAST_AGE.days} days at least")


def _prune_part(database: Database, signer: Signer, writer: str, last: int, actor: str) -> dict[str, Any] | None:
    """One statement's worth of one chain, in one transaction; None when nothing is left up to `last`."""
    with database.write() as unit:
        previous = log_queries.last_pruning(unit.session, writer)
        start = _end_of(previous) if previous else Head(writer)
        rows = list(log_queries.events(unit.session, writer, min(last, start.sequence + MOST_AT_ONCE)))
        if not rows:
            return None
        content = {
            "format": FORMAT,
            "at": utc_now().isoformat(timespec="seconds"),
            "writer": writer,
            "first_sequence": start.sequence + 1,
            "last_sequence": rows[-1].sequence,
            "previous_hash": start.hash,
            "last_hash": rows[-1].hash,
            "root": tree_root(bytes.fromhex(row.hash) for row in rows),
        }
        document = signed(content, signer)
        unit.session.add(PruningRow(writer=writer, last_sequence=rows[-1].sequence, document=document))
        unit.session.flush()
        log_queries.delete_events(unit.session, writer, rows[-1].sequence)
        _carry(unit, rows, actor)
        place = f"{writer}/{rows[-1].sequence}"
        unit.record("log.pruned", place, actor, events=len(rows), statement_sha256=content_hash(content))
    return document


def _end_of(row: PruningRow) -> Head:
    return Head(row.writer, row.last_sequence, row.document["content"]["last_hash"])


def _carry(unit: Unit, rows: Sequence[StoredEvent], actor: str) -> None:
    """Record anew what living rows are checked against; of a review only where it stood last."""
    reviewed = (row for row in rows if _kind(row).startswith("review.") and "review_sha256" in row.payload)
    last_reviews = {row.subject: row for row in reviewed}
    for row in rows:
        kind, names = _kind(row), NEEDED.get(_kind(row))
        if kind in ACTIVATIONS:
            names = ("target",)
        elif last_reviews.get(row.subject) is row:
            names = ("state", "review_sha256")
        if names is not None:
            facts = {name: row.payload[name] for name in names if name in row.payload}
            at, by = row.payload.get("at", moment(row)), row.payload.get("by", row.actor)
            unit.record(f"{CARRIED}{kind}", row.subject, actor, at=at, by=by, **facts)


def _kind(row: StoredEvent) -> str:
    return row.kind.removeprefix(CARRIED)


def verify_archive(
    lines: Iterable[str], database: Database, public_pem: str, kept: Sequence[dict[str, Any]] = ()
) -> ArchiveReport:
    """Check exported events against the statements in the database, and against checkpoints kept elsewhere.

    Raises UnreadableArchive.
    """
    with database.read() as session:
        documents = [row.document for row in log_queries.prunings(session)]
    contents = [content for document in documents if (content := signed_content(document, public_pem))]
    ends = {(content["writer"], content["last_sequence"]): content for content in contents}
    starts = {(content["writer"], content["first_sequence"]) for content in contents}
    wanted = {
        (head["writer"], head["sequence"]): head["hash"]
        for content in (signed_content(document, public_pem) for document in kept)
        for head in (content or {}).get("heads", ())
    }
    faults: list[Fault] = []
    count = proven = 0
    part = _Part(Head(""))
    for row in _rows(lines):
        count += 1
        place = (row.writer, row.sequence)
        if row.writer != part.head.writer:
            part = _Part(Head(row.writer, row.sequence - 1, row.previous_hash))
        if place in starts:
            part.tree = Tree()
        faults += faults_of(row, part.head)
        part.head = Head(row.writer, row.sequence, row.hash)
        part.tree.add(bytes.fromhex(row.hash))
        if wanted.get(place, row.hash) != row.hash:
            faults.append(Fault("not what a checkpoint signed", f"{row.writer}/{row.sequence}"))
        content = ends.get(place)
        if content and (content["root"], content["last_hash"]) == (part.tree.root(), row.hash):
            proven += row.sequence - content["first_sequence"] + 1
        elif content:
            faults.append(Fault("not the events that were pruned", f"{row.writer}/{row.sequence}"))
    return ArchiveReport(count, proven, tuple(faults))


def _rows(lines: Iterable[str]) -> Iterator[EventRow]:
    try:
        for line in lines:
            values = json.loads(line)
            yield EventRow(**(values | {"at": datetime.fromisoformat(values["at"])}))
    except (KeyError, TypeError, ValueError):
        raise UnreadableArchive("the file is not an export of this service's log") from None
