"""The queue, one audit, groups of like findings, and what reviewers decide."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from importlib.util import find_spec
from typing import Annotated, Literal
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, Query, Response
from sqlalchemy.orm import Session

from service.desk import review, watch_list
from service.names import NAME, NAME_PATTERN
from service.pacs.identity import VIEWER_FIELDS
from service.people import accounts
from service.people.keys import Principal
from service.records import pacs_queries, queries, review_queries, watch_queries
from service.records.review_queries import COUNT_CAP, DeskFilters, DeskPosition
from service.records.session import utc_now
from service.records.storage import EvidenceChanged, NotStored
from service.records.tables import AuditRow, JobRow, ReviewRow
from service.registry.examinations import waits_because
from service.web.api.parameters import LABEL_LENGTH, AuditId
from service.web.api.schemas import Verdict
from service.web.api.view import audit_resource, find_job
from service.web.dashboard.explanation import Explanation, explain, map_choices
from service.web.dashboard.rendering import RenderDep, back_to
from service.web.dependencies import Reader, ResourcesDep, ReviewForm, SessionDep, SubmittedForm
from service.web.errors import RequestError
from service.web.resources import Resources

PAGE_SIZE = 50
GROUP_LIMIT = 60
MOST_AT_ONCE = 500
COMMENT_LENGTH = 2000
GROUP = r"^[0-9a-f]{32}$"
ACTOR = rf"^(nobody|anonymous|(account|key):{NAME})$"
Shown = Literal["open", "second_reader", "confirmed", "dismissed", "all"]
TABS: dict[Shown, str] = {
    "open": "To review",
    "second_reader": "Second reader",
    "confirmed": "Confirmed",
    "dismissed": "Dismissed",
    "all": "All audits",
}
ASSIGNMENTS = ("take", "assign", "release")
router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class Tab:
    name: Shown
    words: str
    count: str


@dataclass(frozen=True, slots=True)
class Selection:
    """What the queue shows, as its address says it."""

    show: Shown = "open"
    verdict: Verdict | None = None
    classifier: str | None = None
    source: str | None = None
    group: str | None = None
    assignee: str | None = None

    @property
    def filters(self) -> DeskFilters:
        state = None if self.show == "all" else self.show
        priority = None if self.verdict is None else review.PRIORITIES[self.verdict]
        return DeskFilters(state, priority, self.classifier, self.source, self.group, self.assignee)

    def address(self, path: str = "/", **changes: str | None) -> str:
        values = {
            "show": self.show, "verdict": self.verdict, "classifier": self.classifier, "source": self.source,
            "group": self.group, "assignee": self.assignee, **changes,
        }  # fmt: skip
        kept = {name: value for name, value in values.items() if value and (name, value) != ("show", "open")}
        return path + (f"?{urlencode(kept)}" if kept else "")


def selection(
    show: Shown = "open",
    verdict: Annotated[Verdict | Literal[""], Query()] = "",
    classifier: Annotated[str, Query(pattern=rf"{NAME_PATTERN}|^$")] = "",
    source: Annotated[str, Query(pattern=rf"{NAME_PATTERN}|^$")] = "",
    group: Annotated[str, Query(pattern=rf"{GROUP}|^$")] = "",
    assignee: Annotated[str, Query(pattern=rf"{ACTOR}|^$")] = "",
) -> Selection:
    return Selection(show, verdict or None, classifier or None, source or None, group or None, assignee or None)


SelectionDep = Annotated[Selection, Depends(selection)]


@router.get("/")
def queue_page(
    session: SessionDep,
    reader: Reader,
    render: RenderDep,
    selected: SelectionDep,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:
    rows = review_queries.desk_page(session, selected.filters, _position(cursor) if cursor else None, PAGE_SIZE + 1)
    classifiers, sources = review_queries.names_in_use(session)
    return render(
        "queue.html",
        reader,
        rows=rows[:PAGE_SIZE],
        readers_there=accounts.reviewers(session),
        watched=_watched(session, rows),
        older=selected.address(cursor=_cursor(rows[PAGE_SIZE - 1])) if len(rows) > PAGE_SIZE else None,
        tabs=_tabs(session),
        selected=selected,
        classifiers=classifiers,
        sources=sources,
        waiting=queries.queue_depth(session),
        held_up=[(row.name, films, waits_because(row)) for row, films in queries.waiting_for_classifiers(session)],
        is_first=cursor is None,
        parquet=find_spec("pyarrow") is not None,
    )


@router.get("/audits/{audit_id}")
def audit_page(
    session: SessionDep,
    held: ResourcesDep,
    reader: Reader,
    render: RenderDep,
    audit_id: AuditId,
    selected: SelectionDep,
    map_name: Annotated[str | None, Query(alias="map", pattern=NAME_PATTERN)] = None,
    label: Annotated[str | None, Query(max_length=LABEL_LENGTH)] = None,
) -> Response:
    job = find_job(session, audit_id)
    desk = review_queries.review(session, audit_id)
    before, after = _neighbours(session, selected, desk)
    names, gaps = _stored(held, job.audit)
    explanation = _explanation(held, job)
    choices = map_choices(names, explanation.hypothesis) if explanation else []
    return render(
        "audit.html",
        reader,
        audit=audit_resource(job),
        review=desk,
        explanation=explanation,
        gaps=gaps,
        files=job.audit and job.audit.files,
        maps=choices,
        map_name=map_name if map_name in names else choices[0].name if choices else None,
        label=label if job.audit and label in job.audit.probabilities else job.audit and job.audit.explained_label,
        viewer=_site_viewer(session, held, reader, job),
        readers_there=accounts.reviewers(session),
        is_watched=bool(desk and _watched(session, [desk])),
        like=review_queries.like(session, desk.group_key) if desk and desk.group_key else {},
        events=queries.events_about(session, audit_id),
        before=before,
        after=after,
        selected=selected,
    )


@router.get("/groups")
def groups_page(session: SessionDep, reader: Reader, render: RenderDep) -> Response:
    groups = review_queries.groups(session, GROUP_LIMIT)
    watched = watch_queries.watched_groups(session, [group.key for group, _ in groups])
    return render("groups.html", reader, groups=groups, watched=watched)


@router.post("/reviews")
def record_reviews(held: ResourcesDep, submitted: ReviewForm) -> Response:
    """One decision, comment or assignment, for the audits that the form names or a whole group of open findings."""
    word, comment, actor = submitted.value("decision"), _comment(submitted.value("comment")), submitted.principal.actor
    ids = _chosen(held, submitted.values("id"), submitted.value("group"))
    if not ids:
        raise RequestError("invalid_request", "choose at least one audit")
    if word in ASSIGNMENTS:
        review.assign(held.database, ids, _assignee(submitted), comment, actor)
    else:
        step = review.Step(_decision(word), comment, actor)
        review.record(held.database, ids, step, held.desk.readers, partial(watch_list.follow, held.evidence))
    return back_to(submitted.value("then"))


def _assignee(submitted: SubmittedForm) -> str | None:
    word = submitted.value("decision")
    if word == "assign":
        return submitted.value("assignee") or None
    return submitted.principal.actor if word == "take" else None


def _decision(word: str) -> review.Decision | None:
    decisions: dict[str, review.Decision | None] = {
        "confirm": "confirm", "dismiss": "dismiss", "refer": "refer", "reopen": "reopen", "comment": None,
    }  # fmt: skip
    if word not in decisions:
        raise RequestError("invalid_request", "no such decision")
    return decisions[word]


def _comment(text: str) -> str:
    if len(text) > COMMENT_LENGTH:
        raise RequestError("invalid_request", f"a comment has at most {COMMENT_LENGTH} characters")
    if "\0" in text:
        raise RequestError("invalid_request", "a comment holds no NUL character: PostgreSQL keeps none")
    return text


def _chosen(held: Resources, ids: list[str], group: str) -> list[str]:
    if group:
        with held.database.read() as session:
            return list(review_queries.group_ids(session, group, ("open", "second_reader"), MOST_AT_ONCE))
    return ids[:MOST_AT_ONCE]


def _tabs(session: Session) -> list[Tab]:
    counts = review_queries.counts(session, [Selection(name).filters for name in TABS])
    return [
        Tab(name, words, f"{COUNT_CAP}+" if count > COUNT_CAP else str(count))
        for (name, words), count in zip(TABS.items(), counts, strict=True)
    ]


def _watched(session: Session, rows: Sequence[ReviewRow]) -> set[str]:
    """Groups of these findings that were confirmed as a trigger and are on the watch list."""
    return watch_queries.watched_groups(session, {row.group_key for row in rows if row.group_key})


def _neighbours(session: Session, selected: Selection, row: ReviewRow | None) -> tuple[str | None, str | None]:
    """Addresses of the audits before and after this one in the queue that led here."""
    if row is None:
        return None, None
    place = DeskPosition(row.priority, row.received_at, row.id)
    found = review_queries.neighbours(session, selected.filters, place)
    before, after = (selected.address(f"/audits/{audit_id}") if audit_id else None for audit_id in found)
    return before, after


def _site_viewer(session: Session, held: Resources, reader: Principal, job: JobRow) -> str | None:
    """The film's address in the site's own viewer, for reviewers, while its identity is known."""
    if not held.desk.viewer_url or "audits:review" not in reader.scopes:
        return None
    known = pacs_queries.identity(session, job.film_sha256)
    if known is None or known.expires_at <= utc_now():
        return None
    address = held.desk.viewer_url
    for field, uid in VIEWER_FIELDS.items():
        address = address.replace(f"{{{field}}}", quote(getattr(known, uid), safe=""))
    return address


def _explanation(held: Resources, job: JobRow) -> Explanation | None:
    if job.audit is None:
        return None
    return explain(job.audit, job.film, held.registry.policy(job.audit.policy_sha256))


def _stored(held: Resources, row: AuditRow | None) -> tuple[list[str], list[str]]:
    """The names of an audit's maps, and why something cannot be shown: none where all is as it was recorded."""
    if row is None:
        return [], []
    names: list[str] = []
    gaps: list[str] = []
    try:
        names = list(held.evidence.maps(row))
    except (EvidenceChanged, NotStored) as error:
        gaps.append(error.detail)
    try:
        held.evidence.pixels_file(row)
    except (EvidenceChanged, NotStored) as error:
        gaps.append(error.detail)
    return names, list(dict.fromkeys(gaps))


def _cursor(row: ReviewRow) -> str:
    return base64.urlsafe_b64encode(f"{row.priority}|{row.received_at.isoformat()}|{row.id}".encode()).decode()


def _position(cursor: str) -> DeskPosition:
    try:
        priority, at, audit_id = base64.b64decode(cursor, altchars=b"-_", validate=True).decode().split("|")
        position = DeskPosition(int(priority), datetime.fromisoformat(at), audit_id)
    except (binascii.Error, ValueError):
        raise RequestError("invalid_cursor", "take cursors from the page as they are") from None
    if position.received_at.tzinfo is None:
        raise RequestError("invalid_cursor", "take cursors from the page as they are")
    return position
