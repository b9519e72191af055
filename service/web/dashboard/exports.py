"""Taking audits out: tables of a selection, and signed bundles."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from tempfile import SpooledTemporaryFile
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse
from PIL import Image
from sqlalchemy.orm import Session

from service.desk.pictures import finest, map_picture
from service.ledger import bundles
from service.ledger.bundle_verifier import STORED
from service.ledger.bundles import Exhibit
from service.people.keys import Principal
from service.records import queries, review_queries
from service.records.chain import audit_record, canonical
from service.records.review_queries import DeskFilters, DeskPosition
from service.records.session import Database
from service.records.storage import EvidenceChanged, NotStored, audit_maps, grey_pixels
from service.records.tables import NO_POLICY, AuditRow, ReviewRow
from service.registry.registry import preprocessing
from service.web.api.parameters import AuditId
from service.web.api.view import find_job
from service.web.dashboard.desk import Selection, SelectionDep
from service.web.dependencies import Reader, ReaderForm, ResourcesDep, SessionDep
from service.web.errors import RequestError
from service.web.resources import Resources

try:
    from service.web.dashboard import parquet
except ImportError:  # pyarrow is an extra
    parquet = None  # type: ignore[assignment]  # the route says so

BATCH = 500
SPOOL_BYTES, CHUNK_BYTES = 16 * 1024 * 1024, 256 * 1024
MOST_IN_BUNDLE = 50
FORMULA_START = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run what starts so
COLUMNS = (
    "id", "received_at", "verdict", "review", "decided_by", "p_value", "score", "explained_label", "hypothesis",
    "region_x", "region_y", "region_width", "region_height", "classifier", "classifier_sha256", "policy",
    "policy_sha256", "source", "film_sha256",
)  # fmt: skip
router = APIRouter(include_in_schema=False)


@router.get("/exports/audits.csv")
def export_csv(held: ResourcesDep, reader: Reader, selected: SelectionDep) -> Response:
    """What the queue shows with the same address, all of it."""
    _record_table(held, reader, "csv", selected)
    return _download(_csv(held.database, selected.filters), "text/csv; charset=utf-8", "audits.csv")


@router.get("/exports/audits.jsonl")
def export_json_lines(held: ResourcesDep, reader: Reader, selected: SelectionDep) -> Response:
    _record_table(held, reader, "jsonl", selected)
    lines = (canonical(_complete(row)) + b"\n" for row in _rows(held.database, selected.filters))
    return _download(lines, "application/x-ndjson", "audits.jsonl")


@router.get("/exports/audits.parquet")
def export_parquet(held: ResourcesDep, reader: Reader, selected: SelectionDep) -> Response:
    """The table of the CSV file, with types."""
    if parquet is None:
        raise RequestError("parquet_not_installed", "install triggerscope[parquet]")
    _record_table(held, reader, "parquet", selected)
    file = SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115 -- _chunks closes it
    parquet.write(file, COLUMNS, (_cells(row) for row in _rows(held.database, selected.filters)))
    return _download(_chunks(file), "application/vnd.apache.parquet", "audits.parquet")


@router.get("/audits/{audit_id}/bundle.zip")
def export_bundle(session: SessionDep, held: ResourcesDep, reader: Reader, audit_id: AuditId) -> Response:
    """One audit's evidence, signed; that it was taken out becomes part of the log."""
    return _bundle(session, held, reader, [audit_id], f"audit-{audit_id[:12]}.zip")


@router.post("/exports/bundle.zip")
def export_bundle_of_some(session: SessionDep, held: ResourcesDep, submitted: ReaderForm) -> Response:
    """The chosen audits' evidence in one signed bundle."""
    ids = list(dict.fromkeys(submitted.values("id")))
    if not 1 <= len(ids) <= MOST_IN_BUNDLE:
        raise RequestError("invalid_request", f"choose between 1 and {MOST_IN_BUNDLE} audits")
    return _bundle(session, held, submitted.principal, ids, "audits.zip")


def _record_table(held: Resources, reader: Principal, kind: str, selected: Selection) -> None:
    with held.database.write() as unit:
        unit.record("audits.exported", kind, reader.actor, selection=asdict(selected))


def _bundle(session: Session, held: Resources, reader: Principal, ids: Sequence[str], name: str) -> Response:
    rows = [find_job(session, audit_id).audit for audit_id in ids]
    audits = [row for row in rows if row is not None]
    if len(audits) < len(rows):
        raise RequestError("not_finished", "an audit has no verdict yet")
    hashes = {row.policy_sha256 for row in audits} - {NO_POLICY}
    policies = {sha256: held.registry.policy_file(sha256) for sha256 in sorted(hashes)}
    exhibits = (_exhibit(session, held, row) for row in audits)
    file = SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115 -- _chunks closes it
    used = [queries.classifier(session, sha256) for sha256 in sorted({row.classifier_sha256 for row in audits})]
    bundles.write(exhibits, policies, held.desk.signer, file, [row for row in used if row is not None])
    with held.database.write() as unit:
        for row in audits:
            unit.record("audit.exported", row.id, reader.actor)
    return _download(_chunks(file), "application/zip", name)


def _chunks(file: SpooledTemporaryFile[bytes]) -> Iterator[bytes]:
    with file:
        file.seek(0)
        yield from iter(lambda: file.read(CHUNK_BYTES), b"")


def _exhibit(session: Session, held: Resources, row: AuditRow) -> Exhibit:
    """A stored file that is not what was recorded, or missing, is left out with the reason, and what would be drawn
    from it with it; the history is read last, so that it tells of that too."""
    files: dict[str, bytes] = {}
    left_out: dict[str, str] = {}
    for name, read in (("pixels", held.evidence.pixels_file), ("maps", held.evidence.maps_file)):
        try:
            files[STORED[name]] = read(row)
        except (EvidenceChanged, NotStored) as error:
            left_out[STORED[name]] = error.detail
    files |= _pictures(session, row, files)
    with held.database.read() as now:
        return Exhibit(row, queries.events_about(now, row.id), files, left_out)


def _pictures(session: Session, row: AuditRow, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """What can be drawn from the stored files that are there."""
    if STORED["pixels"] not in files:
        return {}
    pixels, radiograph = grey_pixels(files[STORED["pixels"]]), io.BytesIO()
    Image.fromarray(pixels).save(radiograph, "PNG")
    pictures = {"radiograph.png": radiograph.getvalue()}
    if STORED["maps"] in files:
        maps = audit_maps(files[STORED["maps"]])
        prepared = preprocessing(session, row.classifier_sha256)
        pictures["overlay.png"] = map_picture(pixels, row, prepared, maps[finest(maps)])
    return pictures


def _rows(database: Database, filters: DeskFilters) -> Iterator[ReviewRow]:
    """Page by page, so that a long export holds neither memory nor a transaction."""
    after: DeskPosition | None = None
    while True:
        with database.read() as session:
            rows = review_queries.desk_page(session, filters, after, BATCH)
        yield from rows
        if len(rows) < BATCH:
            return
        after = DeskPosition(rows[-1].priority, rows[-1].received_at, rows[-1].id)


def _csv(database: Database, filters: DeskFilters) -> Iterator[bytes]:
    yield _line(COLUMNS)
    for row in _rows(database, filters):
        yield _line(_cells(row))


def _line(cells: tuple[Any, ...]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer).writerow([_harmless(cell) for cell in cells])
    return buffer.getvalue().encode()


def _harmless(cell: Any) -> Any:
    if isinstance(cell, datetime):
        return cell.isoformat()
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA_START) else cell


def _cells(row: ReviewRow) -> tuple[Any, ...]:
    audit, region = row.audit, row.audit.region or {}
    return (
        row.id, audit.received_at, audit.verdict, row.state, row.decided_by, audit.p_value, audit.score,
        audit.explained_label, audit.hypothesis, *(region.get(name) for name in ("x", "y", "width", "height")),
        audit.classifier_name, audit.classifier_sha256, audit.policy_name, audit.policy_sha256, row.source,
        audit.film_sha256,
    )  # fmt: skip


def _complete(row: ReviewRow) -> dict[str, Any]:
    decided_at = row.decided_at.isoformat() if row.decided_at else None
    review = {"state": row.state, "decided_by": row.decided_by, "decided_at": decided_at}
    return audit_record(row.audit) | {"source": row.source, "review": review}


def _download(body: Any, media_type: str, name: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return StreamingResponse(body, media_type=media_type, headers=headers)
