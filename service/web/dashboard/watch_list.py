"""The page of the watch list."""

import io

import numpy as np
from fastapi import APIRouter, Response
from PIL import Image

from service.desk import watch_list
from service.records import watch_queries
from service.web.api.watch_list import EntryId
from service.web.dashboard.rendering import RenderDep, back_to
from service.web.dependencies import Reader, ResourcesDep, ReviewForm, SessionDep
from service.web.errors import RequestError

CHANGES = {"retire": watch_list.retire, "restore": watch_list.restore}
router = APIRouter(include_in_schema=False)


@router.get("/watch-list")
def watch_list_page(session: SessionDep, reader: Reader, render: RenderDep) -> Response:
    return render("watch_list.html", reader, entries=watch_queries.entries(session))


@router.get("/watch-list/{entry_id}/patch.png", response_class=Response)
def patch_picture(session: SessionDep, _reader: Reader, entry_id: EntryId) -> Response:
    """The patch as the classifier sees it, one pixel for one."""
    row = watch_queries.entry(session, entry_id)
    if row is None:
        raise watch_list.UnknownWatchEntry("the watch list has no entry of this id")
    buffer = io.BytesIO()
    Image.fromarray(np.rint(watch_list.patch_of(row).pixels * 255).astype(np.uint8)).save(buffer, "PNG")
    return Response(buffer.getvalue(), media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})


@router.post("/watch-list/{entry_id}")
def change_watch_entry(held: ResourcesDep, submitted: ReviewForm, entry_id: EntryId) -> Response:
    change = CHANGES.get(submitted.value("change"))
    if change is None:
        raise RequestError("invalid_request", "no such change")
    change(held.database, entry_id, submitted.principal.actor)
    return back_to("/watch-list")
