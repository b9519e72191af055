"""Statements about the watch list."""

from collections.abc import Collection, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.records.tables import WatchRow


def entry(session: Session, entry_id: str) -> WatchRow | None:
    return session.get(WatchRow, entry_id)


def entries(session: Session) -> Sequence[WatchRow]:
    """All of them, the latest first."""
    return session.scalars(select(WatchRow).order_by(WatchRow.added_at.desc(), WatchRow.id)).all()


def active(session: Session, classifier_name: str, preprocessing_sha256: str) -> Sequence[WatchRow]:
    """What films of a classifier are compared with."""
    statement = select(WatchRow).where(
        WatchRow.classifier_name == classifier_name,
        WatchRow.preprocessing_sha256 == preprocessing_sha256,
        WatchRow.retired_at.is_(None),
    )
    return session.scalars(statement.order_by(WatchRow.added_at, WatchRow.id)).all()


def of_group(session: Session, group_key: str) -> Sequence[WatchRow]:
    return session.scalars(select(WatchRow).where(WatchRow.group_key == group_key)).all()


def watched_groups(session: Session, keys: Collection[str]) -> set[str]:
    """Which of these groups have a patch on the list now."""
    statement = select(WatchRow.group_key).where(WatchRow.group_key.in_(keys), WatchRow.retired_at.is_(None))
    return set(session.scalars(statement))
