"""The watch list over HTTP."""

from typing import Annotated

from fastapi import APIRouter, Path

from service.desk import watch_list
from service.records import watch_queries
from service.records.tables import WatchRow
from service.web.api.schemas import Region, WatchEntry, WatchList
from service.web.dependencies import Reader, ResourcesDep, Reviewer, SessionDep
from service.web.errors import problems

EntryId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]
CHANGES = problems("unknown_watch_entry", "invalid_request", "unauthenticated", "forbidden")
router = APIRouter(prefix="/v1/watch-list", tags=["watch list"])


@router.get("", responses=problems("unauthenticated", "forbidden"))
def list_watch_entries(session: SessionDep, _reader: Reader) -> WatchList:
    """Patches of confirmed triggers, with which later films are compared; the latest first, retired ones too."""
    return WatchList(items=[watch_entry(row) for row in watch_queries.entries(session)])


@router.post("/{entry_id}/retire", status_code=204, responses=CHANGES)
def retire_watch_entry(held: ResourcesDep, reviewer: Reviewer, entry_id: EntryId) -> None:
    """Compare no further film with this patch."""
    watch_list.retire(held.database, entry_id, reviewer.actor)


@router.post("/{entry_id}/restore", status_code=204, responses=CHANGES)
def restore_watch_entry(held: ResourcesDep, reviewer: Reviewer, entry_id: EntryId) -> None:
    watch_list.restore(held.database, entry_id, reviewer.actor)


def watch_entry(row: WatchRow) -> WatchEntry:
    return WatchEntry(
        id=row.id,
        active=row.retired_at is None,
        audit=row.audit_id,
        group=row.group_key,
        classifier=row.classifier_name,
        preprocessing_sha256=row.preprocessing_sha256,
        label=row.label,
        region=Region(**row.region),
        sha256=row.sha256,
        added_at=row.added_at,
        actor=row.actor,
        retired_at=row.retired_at,
    )
