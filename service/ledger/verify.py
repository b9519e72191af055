"""The log against tampering: signed checkpoints of all chains, and the search for what was changed behind our back.

Each writer's events form a hash chain (see db/chain.py), and events carry the hashes of the audits and reviews that
they are about. That shows edits, deletions and reordering. A chain cut off at its end, or a chain that is missing
whole, shows only against a checkpoint that was signed before and kept elsewhere. A chain whose oldest part was pruned
(see pruning.py) starts at the signed statement about it.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.orm import Session

from service.errors import TriggerscopeError
from service.ledger.merkle import Tree
from service.ledger.signing import Signer, is_signed
from service.records import log_queries
from service.records.chain import (
    GENESIS,
    Head,
    StoredEvent,
    canonical,
    content_hash,
    event_hash,
    stored_record_hash,
    stored_review_hash,
)
from service.records.log_queries import CARRIED
from service.records.session import Database, utc_now
from service.records.tables import CheckpointRow, EventRow

FORMAT = 1
ACTIVATIONS = (
    "classifier.activated", "classifier.made_default", "classifier.retired", "classifier.default_cleared",
    "classifier.rolled_back", "policy.activated", "policy.rolled_back",
)  # fmt: skip
STANDING: dict[str, dict[str, Any]] = {  # events of accounts, keys and watched patches, and what their kind says
    "account.created": {"disabled": False}, "account.changed": {},
    "key.created": {"revoked": False}, "key.revoked": {"revoked": True},
    "watch.added": {}, "watch.retired": {}, "watch.restored": {},
}  # fmt: skip
WORDS = {"account": "account", "key": "key", "watch": "watched patch"}
LINE = ("writer", "sequence", "actor", "kind", "subject", "payload", "previous_hash", "hash")


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
    """What one pass over the events found out; of people's decisions and changes, not of every film."""

    public_pem: str
    count: int = 0
    audits: int = 0
    faults: list[Fault] = field(default_factory=list)
    starts: dict[str, Head] = field(default_factory=dict)  # where pruned chains go on
    statements: dict[str, str] = field(default_factory=dict)  # what was pruned, as the statements say
    pruned: dict[str, str] = field(default_factory=dict)  # and as events say
    wanted: dict[tuple[str, int], str] = field(default_factory=dict)  # places that checkpoints name
    checkpoints: Counter[str] = field(default_factory=Counter)  # how often each root was signed
    reviews: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    activations: dict[str, list[tuple[str, str | None, str]]] = field(default_factory=dict)
    standing: dict[tuple[str, str], list[tuple[str, dict[str, Any]]]] = field(default_factory=dict)


def sign_checkpoint(database: Database, signer: Signer, actor: str) -> dict[str, Any]:
    """Sign where every chain stands, keep the statement, and return it to be kept elsewhere."""
    with database.write() as unit:
        heads = log_queries.heads(unit.session)
        document = signed(_content(heads), signer)
        content = document["content"]
        row = CheckpointRow(at=utc_now(), events=content["events"], root=content["root"], document=document)
        unit.session.add(row)
        unit.record("log.checkpoint", content["root"], actor, events=content["events"])
    return document


def _content(heads: Sequence[Head]) -> dict[str, Any]:
    listed = [{"writer": head.writer, "sequence": head.sequence, "hash": head.hash} for head in heads]
    return {
        "format": FORMAT,
        "at": utc_now().isoformat(timespec="seconds"),
        "heads": listed,
        "events": sum(head.sequence for head in heads),
        "root": tree_root([canonical(head) for head in listed]),
    }


def signed(content: dict[str, Any], signer: Signer) -> dict[str, Any]:
    return {"content": content, "signature": signer.sign(canonical(content)), "public_key": signer.public_pem}


def signed_content(document: Any, public_pem: str) -> dict[str, Any] | None:
    """What a document says, or None where this key did not sign it."""
    try:
        content: dict[str, Any] = document["content"]
        return content if is_signed(canonical(content), document["signature"], public_pem) else None
    except (KeyError, TypeError, ValueError):
        return None


def tree_root(leaves: Iterable[bytes]) -> str:
    tree = Tree()
    for leaf in leaves:
        tree.add(leaf)
    return tree.root()


def read_checkpoint(data: bytes) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(data)
        if document["content"]["format"] != FORMAT:
            raise UnreadableCheckpoint("the checkpoint is of another format")
        return document
    except (KeyError, TypeError, ValueError):
        raise UnreadableCheckpoint("the file is not a checkpoint") from None


def verify(database: Database, public_pem: str, kept: Sequence[dict[str, Any]] = ()) -> Report:
    """Check every event, and the rows that events vouch for; `kept` are checkpoints from outside the database."""
    seen = _Seen(public_pem)
    for document in kept:
        _expect(document, seen)
    looks: dict[str, Callable[[Session, _Seen], None]] = {
        "prunings": _follow_prunings, "events": _walk, "checkpoints": _compare_checkpoints,
        "audits": _compare_audits, "activations": _compare_activations, "accounts": _compare_standing,
    }  # fmt: skip
    with database.snapshot() as session:
        for row in log_queries.checkpoints(session):
            _expect(row.document, seen)
        for table, look in looks.items():
            try:
                look(session, seen)
            except (ValueError, TypeError, AttributeError):  # not JSON, or not a time, any more
                seen.faults.append(Fault("holds a value that cannot be read", table))
        count = len(kept) + seen.checkpoints.total()
    return Report(seen.count, seen.audits, count, tuple(seen.faults))


def _expect(document: dict[str, Any], seen: _Seen) -> None:
    content = signed_content(document, seen.public_pem)
    if content is None:
        seen.faults.append(Fault("checkpoint not signed by this key", "checkpoint"))
        return
    for head in content["heads"]:
        seen.wanted[head["writer"], head["sequence"]] = head["hash"]


def _follow_prunings(session: Session, seen: _Seen) -> None:
    for row in log_queries.prunings(session):
        place = f"{row.writer}/{row.last_sequence}"
        content = signed_content(row.document, seen.public_pem)
        if content is None or (content["writer"], content["last_sequence"]) != (row.writer, row.last_sequence):
            seen.faults.append(Fault("pruning not signed by this key", place))
            continue
        before = seen.starts.get(row.writer, Head(row.writer))
        if (content["first_sequence"], content["previous_hash"]) != (before.sequence + 1, before.hash):
            seen.faults.append(Fault("pruning does not follow the one before", place))
        seen.starts[row.writer] = Head(row.writer, row.last_sequence, content["last_hash"])
        seen.statements[place] = content_hash(content)


def _walk(session: Session, seen: _Seen) -> None:
    head = Head("")
    for row in log_queries.events(session):
        if row.writer != head.writer:
            head = seen.starts.get(row.writer, Head(row.writer))
        seen.faults.extend(faults_of(row, head))
        if seen.wanted.pop((row.writer, row.sequence), row.hash) != row.hash:
            seen.faults.append(Fault("not what a checkpoint signed", f"{row.writer}/{row.sequence}"))
        head = Head(row.writer, row.sequence, row.hash)
        _note(row, seen)
    for (writer, sequence), wanted in seen.wanted.items():
        start = seen.starts.get(writer, Head(writer))
        if sequence > start.sequence or (sequence == start.sequence and wanted != start.hash):
            seen.faults.append(Fault("cut off behind a checkpoint", f"{writer}/{sequence}"))
    for place in seen.pruned.keys() | seen.statements.keys():
        if seen.pruned.get(place) != seen.statements.get(place):
            seen.faults.append(Fault("pruning without its statement or event", place))


def faults_of(row: StoredEvent | EventRow, head: Head) -> Iterator[Fault]:
    """What is wrong with an event behind `head`."""
    place = f"{row.writer}/{row.sequence}"
    if row.sequence != head.sequence + 1:
        yield Fault("events are missing before this one", place)
    elif row.previous_hash != (head.hash if head.sequence else GENESIS):
        yield Fault("does not follow the one before", place)
    if event_hash(row.writer, row.sequence, row.previous_hash, row) != row.hash:
        yield Fault("has been edited", place)


def _note(row: StoredEvent, seen: _Seen) -> None:
    seen.count += 1
    kind, payload = row.kind.removeprefix(CARRIED), row.payload
    if kind.startswith("review.") and "review_sha256" in payload:
        at = _happened(row)
        if row.subject not in seen.reviews or seen.reviews[row.subject][0] <= at:
            seen.reviews[row.subject] = (at, payload)
    elif kind in ACTIVATIONS:
        step = (_happened(row), payload.get("target"), payload.get("by", row.actor))
        seen.activations.setdefault(row.subject, []).append(step)
    elif kind in STANDING:
        of = (kind.partition(".")[0], row.subject)
        seen.standing.setdefault(of, []).append((_happened(row), STANDING[kind] | payload))
    elif kind == "log.checkpoint":
        seen.checkpoints[row.subject] += 1
    elif kind == "log.pruned":
        seen.pruned[row.subject] = str(payload.get("statement_sha256"))


def _happened(row: StoredEvent) -> str:
    return str(row.payload["at"]) if row.kind.startswith(CARRIED) else moment(row)


def _compare_checkpoints(session: Session, seen: _Seen) -> None:
    left = Counter(seen.checkpoints)
    for row in log_queries.checkpoints(session):
        left[row.root] -= 1
        content = row.document.get("content", {})
        if (content.get("root"), content.get("events")) != (row.root, row.events):
            seen.faults.append(Fault("checkpoint has been edited", row.root))
    faults = (Fault("checkpoint has been removed, or added", root) for root, count in left.items() if count)
    seen.faults.extend(faults)


def _compare_audits(session: Session, seen: _Seen) -> None:
    for audit, review, payload in log_queries.audits(session):
        seen.audits += 1
        audit_id = audit[0]
        if payload is None:
            seen.faults.append(Fault("audit without its event", audit_id))
        elif payload.get("record_sha256") != stored_record_hash(audit):
            seen.faults.append(Fault("audit has been edited", audit_id))
        _, latest = seen.reviews.get(audit_id, ("", payload or {}))
        if review[0] is None:
            seen.faults.append(Fault("review has been removed", audit_id))
        elif latest.get("review_sha256") != stored_review_hash(review):
            seen.faults.append(Fault("review has been edited", audit_id))
    seen.faults.extend(Fault("audit has been removed", audit_id) for audit_id in log_queries.audits_missing(session))


def _compare_activations(session: Session, seen: _Seen) -> None:
    """Every change of a slot is there with its event, and the latest is in force."""
    found: dict[str, list[tuple[str | None, str]]] = {}
    for slot, target, actor in log_queries.activations(session):
        found.setdefault(slot, []).append((target, actor))
    for slot in found.keys() | seen.activations.keys():
        told = [
            (target, actor) for _, target, actor in sorted(seen.activations.get(slot, []), key=lambda step: step[0])
        ]
        rows = found.get(slot, [])
        if Counter(rows) != Counter(told) or rows[-1] != told[-1]:
            seen.faults.append(Fault("activation has been edited", slot))


def _compare_standing(session: Session, seen: _Seen) -> None:
    """Accounts, keys and watched patches stand as the events about each, taken in order, left them."""
    told = {of: _left_by(steps) for of, steps in seen.standing.items()}
    for kind, subject, stands in log_queries.standing(session):
        said = told.pop((kind, subject), None)
        if said is None:
            seen.faults.append(Fault(f"{WORDS[kind]} without its event", subject))
        elif stands != {name: said.get(name) for name in stands}:
            seen.faults.append(Fault(f"{WORDS[kind]} has been edited", subject))
    seen.faults.extend(Fault(f"{WORDS[kind]} has been removed", subject) for kind, subject in told)


def _left_by(steps: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    left: dict[str, Any] = {}
    for _, said in sorted(steps, key=lambda step: step[0]):
        left |= said
    return left


def export(session: Session) -> Iterable[str]:
    """Every event as one line of JSON, chain by chain."""
    for row in log_queries.events(session):
        yield event_line(row)


def event_line(row: EventRow | StoredEvent) -> str:
    return canonical({name: getattr(row, name) for name in LINE} | {"at": moment(row)}).decode()


def moment(row: EventRow | StoredEvent) -> str:
    return str(row.at.isoformat(timespec="microseconds"))
