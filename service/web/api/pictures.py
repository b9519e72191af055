"""Pictures and maps of one audit, drawn on demand."""

import io
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Response
from PIL import Image
from sqlalchemy.orm import Session

from service.audit import preprocessing as core
from service.desk.explainer import ChangeName, Maps
from service.desk.pictures import LONGEST_PX, OPACITY, finest, map_picture
from service.names import NAME_PATTERN
from service.records.tables import AuditRow
from service.registry.registry import preprocessing
from service.web.api.parameters import LABEL_LENGTH, AuditId
from service.web.api.schemas import (
    Region,
    SaliencyMap,
)
from service.web.api.view import find_job, finished
from service.web.dependencies import Reader, ResourcesDep, SessionDep
from service.web.errors import RequestError, problems
from service.web.resources import Resources

CACHE = {"Cache-Control": "private, max-age=3600"}
router = APIRouter(prefix="/v1/audits", tags=["audits"])

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FINEST = "Default: the finest LayerCAM."
_LABEL = "Default: the explained label, whose maps are stored. Those of others are made on demand."
MapLabel = Annotated[str | None, Query(max_length=LABEL_LENGTH, description=_LABEL)]
_PNG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": _BINARY}}}


@router.get(
    "/{audit_id}/overlay.png",
    response_class=Response,
    responses=_PNG
    | problems("audit_not_found", "not_finished", "map_not_found", "not_stored", "evidence_changed", "too_busy"),
)
def get_overlay(
    session: SessionDep,
    held: ResourcesDep,
    _reader: Reader,
    audit_id: AuditId,
    map_name: Annotated[str | None, Query(alias="map", pattern=NAME_PATTERN, description=_FINEST)] = None,
    label: MapLabel = None,
    opacity: Annotated[float, Query(ge=0, le=1)] = OPACITY,
    size: Annotated[int, Query(ge=32, le=2048, description="Longest side in pixels; never enlarged.")] = LONGEST_PX,
) -> Response:
    """A label's map and the region over the radiograph, drawn on demand."""
    row = finished(find_job(session, audit_id))
    picture = draw(session, held, row, map_name, label=label, opacity=opacity, size=size)
    return Response(picture, media_type="image/png", headers=CACHE)


@router.get(
    "/{audit_id}/maps/{map_name}",
    responses=problems(
        "audit_not_found", "not_finished", "map_not_found", "not_stored", "evidence_changed", "too_busy"
    ),
)
def get_map(
    session: SessionDep,
    held: ResourcesDep,
    _reader: Reader,
    audit_id: AuditId,
    map_name: Annotated[str, Path(pattern=NAME_PATTERN)],
    label: MapLabel = None,
) -> SaliencyMap:
    """One map, raw, on its own grid."""
    job = find_job(session, audit_id)
    row = finished(job)
    maps = _maps(held, row, label)
    if map_name not in maps:
        raise RequestError("map_not_found", f"maps: {', '.join(sorted(maps))}")
    box = core.shown(job.film.width, job.film.height, preprocessing(session, row.classifier_sha256))
    return SaliencyMap(
        name=map_name, label=label or row.explained_label, values=maps[map_name].tolist(), covers=Region(**asdict(box))
    )


@router.get(
    "/{audit_id}/radiograph.png",
    response_class=Response,
    responses=_PNG | problems("audit_not_found", "not_finished", "not_stored", "evidence_changed"),
)
def get_radiograph(session: SessionDep, held: ResourcesDep, _reader: Reader, audit_id: AuditId) -> Response:
    """The decoded film, 8 bits, without tags."""
    row = finished(find_job(session, audit_id))
    buffer = io.BytesIO()
    Image.fromarray(held.evidence.pixels(row)).save(buffer, "PNG", compress_level=1)
    return Response(buffer.getvalue(), media_type="image/png", headers=CACHE)


@router.get(
    "/{audit_id}/counterfactual.png",
    response_class=Response,
    responses=_PNG | problems("audit_not_found", "not_finished", "not_stored", "evidence_changed", "too_busy"),
)
def get_counterfactual(
    session: SessionDep,
    held: ResourcesDep,
    _reader: Reader,
    audit_id: AuditId,
    change: Annotated[ChangeName, Query(description="What the causal test does to the film.")] = "fill_in",
    part: Annotated[Literal["film", "window"], Query(description="Or the hottest window, enlarged.")] = "film",
) -> Response:
    """The film as the classifier sees it, as it came or with a causal test's change, and the hottest window."""
    row = finished(find_job(session, audit_id))
    picture = held.explainer.changed_film(row, change, close_up=part == "window")
    return Response(picture, media_type="image/png", headers=CACHE)


def draw(
    session: Session,
    held: Resources,
    row: AuditRow,
    map_name: str | None,
    *,
    label: str | None = None,
    opacity: float,
    size: int,
) -> bytes:
    maps = _maps(held, row, label)
    name = map_name or finest(maps)
    if name not in maps:
        raise RequestError("map_not_found", f"maps: {', '.join(sorted(maps))}")
    prepared = preprocessing(session, row.classifier_sha256)
    return map_picture(held.evidence.pixels(row), row, prepared, maps[name], opacity=opacity, longest_px=size)


def _maps(held: Resources, row: AuditRow, label: str | None) -> Maps:
    if label is not None and label not in row.probabilities:
        raise RequestError("map_not_found", f"labels: {', '.join(sorted(row.probabilities))}")
    return held.explainer.maps(row, label or row.explained_label)
