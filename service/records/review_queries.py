"""Statements of the auditor's desk."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, func, literal, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session, joinedload

from service.records.tables import AuditRow, JobRow, ReviewRow, UtcDateTime

COUNT_CAP = 1000
VERDICTS = 3  # priorities are those of the verdicts, 0 to 2, and the same again for hits on the watch list
NOBODY = "nobody"
PLACE = (ReviewRow.priority, ReviewRow.received_at, ReviewRow.id)  # what the queue is ordered by


@dataclass(frozen=True, slots=True)
class DeskFilters:
    state: str | None = None
    priority: int | None = None  # of a verdict; hits on the watch list with this verdict are among them
    classifier: str | None = None
    source: str | None = None
    group: str | None = None
    assignee: str | None = None  # an actor, or NOBODY


@dataclass(frozen=True, slots=True)
class DeskPosition:
    """Where a page of the queue ended."""

    priority: int
    received_at: datetime
    id: str


@dataclass(frozen=True, slots=True)
class Group:
    """Open findings at one place, about one label, under one classifier."""

    key: str
    count: int
    latest: str


def desk_page(session: Session, filters: DeskFilters, after: DeskPosition | None, limit: int) -> Sequence[ReviewRow]:
    """Hits on the watch list first, then suspicious, then indeterminate, latest first, from just behind `after`."""
    return session.scalars(desk_statement(filters, after, limit)).all()


def desk_statement(filters: DeskFilters, after: DeskPosition | None, limit: int) -> Select[ReviewRow]:
    statement = select(ReviewRow).where(*_conditions(filters)).options(joinedload(ReviewRow.audit, innerjoin=True))
    if after:
        statement = statement.where(tuple_(*PLACE) < _bound(after))
    return statement.order_by(*(column.desc() for column in PLACE)).limit(limit)


def neighbours(session: Session, filters: DeskFilters, here: DeskPosition) -> tuple[str | None, str | None]:
    """The audits just before and just after a place in the queue."""
    bound = _bound(here)
    ids = select(ReviewRow.id).where(*_conditions(filters))
    earlier = ids.where(tuple_(*PLACE) > bound).order_by(*(column.asc() for column in PLACE)).limit(1)
    later = ids.where(tuple_(*PLACE) < bound).order_by(*(column.desc() for column in PLACE)).limit(1)
    return session.scalar(earlier), session.scalar(later)


def counts(session: Session, views: Sequence[DeskFilters]) -> Sequence[int]:
    """How long each view is; at most COUNT_CAP + 1, so that a long ledger costs nothing."""
    some = [select(ReviewRow.id).where(*_conditions(view)).limit(COUNT_CAP + 1).subquery() for view in views]
    return session.execute(select(*(select(func.count()).select_from(rows).scalar_subquery() for rows in some))).one()


def review(session: Session, audit_id: str) -> ReviewRow | None:
    return session.get(ReviewRow, audit_id)


def reviews_for_update(session: Session, ids: Sequence[str]) -> Sequence[ReviewRow]:
    statement = select(ReviewRow).where(ReviewRow.id.in_(ids)).order_by(ReviewRow.id).with_for_update()
    return session.scalars(statement).all()


def groups(session: Session, limit: int) -> list[tuple[Group, AuditRow]]:
    """The largest groups of open findings, each with its latest audit."""
    counted = (
        select(ReviewRow.group_key, func.count())
        .where(ReviewRow.group_key.is_not(None), ReviewRow.state.in_(("open", "second_reader")))
        .group_by(ReviewRow.group_key)
        .order_by(func.count().desc(), ReviewRow.group_key)
        .limit(limit)
    )
    found = []
    for key, members in session.execute(counted).all():
        newest = select(ReviewRow.id).where(ReviewRow.group_key == key).order_by(ReviewRow.received_at.desc()).limit(1)
        audit = session.get_one(AuditRow, session.scalars(newest).one())
        found.append((Group(str(key), members, audit.id), audit))
    return found


def like(session: Session, group: str) -> dict[str, int]:
    """How many audits of a group stand in each state."""
    statement = select(ReviewRow.state, func.count()).where(ReviewRow.group_key == group).group_by(ReviewRow.state)
    return {row[0]: row[1] for row in session.execute(statement)}


def group_ids(session: Session, group: str, states: Sequence[str], limit: int) -> Sequence[str]:
    statement = select(ReviewRow.id).where(ReviewRow.group_key == group, ReviewRow.state.in_(states))
    return session.scalars(statement.limit(limit)).all()


def names_in_use(session: Session) -> tuple[list[str], list[str]]:
    """Classifiers and sources that the ledger knows, for the filters; the indexes give them without a scan."""
    return _distinct(session, "classifier_name"), _distinct(session, "source")


def _distinct(session: Session, name: str) -> list[str]:
    """The first fifty; skips along an index from value to value."""
    column = getattr(JobRow, name)
    found = select(func.min(column).label("value")).cte(recursive=True)
    following = select(func.min(column)).where(column > found.c.value).scalar_subquery()
    found = found.union_all(select(following).where(found.c.value.is_not(None)))
    values = select(found.c.value).where(found.c.value.is_not(None)).limit(50)
    return list(session.scalars(values))


def _conditions(filters: DeskFilters) -> list[ColumnElement[bool]]:
    wanted: dict[InstrumentedAttribute[Any], object] = {
        ReviewRow.state: filters.state,
        ReviewRow.classifier_name: filters.classifier,
        ReviewRow.source: filters.source,
        ReviewRow.group_key: filters.group,
    }
    found = [column == value for column, value in wanted.items() if value is not None]
    if filters.priority is not None:  # the range lets an index that ends in the order do both
        found += [ReviewRow.priority >= filters.priority, ReviewRow.priority % VERDICTS == filters.priority]
    if filters.assignee is not None:
        is_nobody = filters.assignee == NOBODY
        found.append(ReviewRow.assignee.is_(None) if is_nobody else ReviewRow.assignee == filters.assignee)
    return found


def _bound(at: DeskPosition) -> ColumnElement[Any]:
    return tuple_(literal(at.priority), literal(at.received_at, UtcDateTime()), literal(at.id))
