"""The watch list: patches of confirmed triggers, with which later films of the same classifier are compared first.

A hit is recorded with the audit and moves it to the top of the queue. It changes neither score nor p-value nor verdict:
the policy's false-alarm rate is that of the policy alone.
"""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from service.audit import recurrence
from service.audit.classifier import Classifier
from service.audit.preprocessing import Region, model_input, to_input, to_source
from service.audit.recurrence import Patch
from service.errors import TriggerscopeError
from service.films.radiograph import Radiograph
from service.records import queries, watch_queries
from service.records.session import Database, Unit, utc_now
from service.records.storage import EvidenceChanged, NotStored
from service.records.stored_evidence import StoredEvidence
from service.records.tables import AuditRow, ReviewRow, WatchRow
from service.registry import registry


class UnknownWatchEntry(TriggerscopeError):
    """The watch list has no entry of this id."""

    code = "unknown_watch_entry"


@dataclass(frozen=True, slots=True)
class Hit:
    """A watched patch that a film shows again. entry, group: of the list; sha256: of its pixels.

    region: where it is, in source pixels. probability: the label's on this film, probability_without: the same with the
    region filled in; None where the classifier no longer has the label.
    """

    entry: str
    group: str
    sha256: str
    label: str
    region: dict[str, int]
    correlation: float
    probability: float | None
    probability_without: float | None

    @property
    def words(self) -> str:
        found = f"a patch confirmed as a trigger is in this film at its place (correlation {self.correlation:.2f})"
        if self.probability is None or self.probability_without is None:
            return found
        change = f"{self.probability:.2f} to {self.probability_without:.2f}"
        return f"{found}; filling it in takes {self.label} from {change}"

    def record(self) -> dict[str, Any]:
        return asdict(self)


def check(database: Database, radiograph: Radiograph, classifier: Classifier) -> Hit | None:
    """Compare one film with the active patches of its classifier."""
    card = classifier.card
    with database.read() as session:
        rows = watch_queries.active(session, card.name, card.preprocessing.sha256)
    if not rows:
        return None
    film = model_input(radiograph.pixels, card.preprocessing)
    found = recurrence.seen_again(film, [patch_of(row) for row in rows], classifier)
    if found is None:
        return None
    row = rows[found.index]
    region = to_source(Region(**row.region), card.preprocessing, radiograph.width, radiograph.height)
    return Hit(
        entry=row.id,
        group=row.group_key,
        sha256=row.sha256,
        label=row.label,
        region=asdict(region),
        correlation=found.correlation,
        probability=found.probability,
        probability_without=found.probability_without,
    )


def patch_of(row: WatchRow) -> Patch:
    region = Region(**row.region)
    pixels = np.frombuffer(row.pixels, dtype=np.float32).reshape(region.height, region.width)
    return Patch(region, pixels, row.label)


def follow(evidence: StoredEvidence, unit: Unit, row: ReviewRow, actor: str) -> None:
    """Keep the list in step with a review: a confirmed finding's patch goes on it, and off it when that is dismissed.

    Neither a proposal nor reopening takes it off: until somebody has signed otherwise, the patch is watched for.
    """
    if row.group_key is None:
        return
    entries = watch_queries.of_group(unit.session, row.group_key)
    if row.state == "confirmed" and all(entry.retired_at for entry in entries):
        _put_on(evidence, unit, row, entries, actor)
    elif row.state == "dismissed":
        for entry in entries:
            if entry.audit_id == row.id and entry.retired_at is None:
                _retire(unit, entry, actor)


def retire(database: Database, entry_id: str, actor: str) -> None:
    """Compare no further film with this patch."""
    with database.write() as unit:
        _retire(unit, _find(unit, entry_id), actor)


def restore(database: Database, entry_id: str, actor: str) -> None:
    with database.write() as unit:
        _restore(unit, _find(unit, entry_id), actor)


def _find(unit: Unit, entry_id: str) -> WatchRow:
    entry = watch_queries.entry(unit.session, entry_id)
    if entry is None:
        raise UnknownWatchEntry("the watch list has no entry of this id")
    return entry


def _put_on(evidence: StoredEvidence, unit: Unit, row: ReviewRow, entries: Sequence[WatchRow], actor: str) -> None:
    own = next((entry for entry in entries if entry.audit_id == row.id), None)
    if own is not None:
        _restore(unit, own, actor)
        return
    audit = unit.session.get_one(AuditRow, row.id)
    patch = _patch_of_finding(evidence, unit, audit)
    if patch is None:
        return
    data = patch.pixels.tobytes()
    entry = WatchRow(
        id=secrets.token_hex(16),
        audit_id=audit.id,
        group_key=row.group_key,
        classifier_name=audit.classifier_name,
        preprocessing_sha256=audit.preprocessing_sha256,
        label=patch.label,
        region=asdict(patch.region),
        pixels=data,
        sha256=hashlib.sha256(data).hexdigest(),
        added_at=utc_now(),
        actor=actor,
    )
    unit.session.add(entry)
    unit.session.flush()
    unit.record("watch.added", entry.id, actor, audit=audit.id, patch_sha256=entry.sha256, active=True)


def _patch_of_finding(evidence: StoredEvidence, unit: Unit, audit: AuditRow) -> Patch | None:
    """Cut from the stored pixels, for the original may be gone; None without a region, or where the pixels went too or
    are not those that were audited."""
    film = queries.film(unit.session, audit.film_sha256)
    if audit.region is None or film is None:
        return None
    try:
        pixels = evidence.pixels(audit, unit).astype(np.float32) / 255.0
    except (EvidenceChanged, NotStored):
        return None
    preprocessing = registry.preprocessing(unit.session, audit.classifier_sha256)
    region = to_input(Region(**audit.region), preprocessing, film.width, film.height)
    return recurrence.cut(model_input(pixels, preprocessing), region, audit.explained_label)


def _retire(unit: Unit, entry: WatchRow, actor: str) -> None:
    if entry.retired_at is None:
        entry.retired_at = utc_now()
        unit.record("watch.retired", entry.id, actor, patch_sha256=entry.sha256, active=False)


def _restore(unit: Unit, entry: WatchRow, actor: str) -> None:
    if entry.retired_at is not None:
        entry.retired_at = None
        unit.record("watch.restored", entry.id, actor, patch_sha256=entry.sha256, active=True)
