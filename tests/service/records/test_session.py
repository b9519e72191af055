from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from sqlalchemy import func, select, text

from service.records.chain import GENESIS, Event, content_hash, event_hash
from service.records.session import Database
from service.records.tables import ClassifierRow, EventRow
from tests.service.records.rows import add_classifier


def chain(database: Database) -> list[EventRow]:
    with database.read() as session:
        return list(session.scalars(select(EventRow).order_by(EventRow.sequence)))


def test_a_unit_that_raises_leaves_nothing(database: Database) -> None:
    def write_and_fail() -> None:
        with database.write() as unit:
            add_classifier(unit.session)
            unit.record("classifier.added", "x", "test")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(ClassifierRow)) == 0
    assert chain(database) == []


def test_events_name_the_hash_of_the_one_before(database: Database) -> None:
    with database.write() as unit:
        unit.record("first", "a", "test", number=1)
        unit.record("second", "b", 'te"st\\', text="é")
    with database.write() as unit:
        unit.record("third", "c", "test")
    rows = chain(database)
    assert [row.sequence for row in rows] == [1, 2, 3]
    assert [row.previous_hash for row in rows] == [GENESIS, rows[0].hash, rows[1].hash]
    for row in rows:  # what was read back hashes to what was written
        event = Event(row.at, row.actor, row.kind, row.subject, row.payload)
        assert event_hash(row.writer, row.sequence, row.previous_hash, event) == row.hash
        names = ("writer", "sequence", "actor", "kind", "subject", "payload", "previous_hash")
        content = {name: getattr(row, name) for name in names} | {"at": row.at.isoformat(timespec="microseconds")}
        assert content_hash(content) == row.hash


def test_threads_share_one_unbroken_chain(database: Database) -> None:
    def write(number: int) -> None:
        with database.write() as unit:
            unit.record("test", str(number), "test")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
    rows = chain(database)
    assert [row.sequence for row in rows] == list(range(1, 41))
    assert all(later.previous_hash == row.hash for row, later in pairwise(rows))


def test_sqlite_is_set_up_to_lose_nothing(sqlite_database: Database) -> None:
    with sqlite_database.engine.connect() as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert connection.scalar(text("PRAGMA synchronous")) == 2  # FULL
        assert connection.scalar(text("PRAGMA foreign_keys")) == 1
