"""The queue's order, its pages, and that no page needs a scan or a sort."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import insert, text
from sqlalchemy.dialects import sqlite

from service.records import review_queries
from service.records.review_queries import NOBODY, DeskFilters, DeskPosition, desk_statement
from service.records.session import Database
from service.records.tables import AuditRow, ClassifierRow, FilmRow, JobRow, ReviewRow
from tests.service.records.rows import START, sha

SEEDED = 20_000
VERDICTS = ("unremarkable",) * 17 + ("indeterminate", "suspicious", "unremarkable")


def seed(database: Database, count: int) -> None:
    """Audits one second apart; of twenty one is suspicious and one indeterminate."""
    numbers = range(1, count + 1)
    with database.write() as unit:
        unit.session.execute(
            insert(ClassifierRow), [{"sha256": sha(1), "name": "small", "card": {}, "added_at": START, "actor": "test"}]
        )
        for table, make in ((FilmRow, film), (JobRow, job), (AuditRow, audit), (ReviewRow, review)):
            unit.session.execute(insert(table), [make(number) for number in numbers])


def film(number: int) -> dict[str, object]:
    received = {"received_at": START + timedelta(seconds=number), "source": "er", "actor": "test"}
    size = {"byte_count": 1, "width": 2, "height": 3, "attributes": {}, "original_expires_at": None}
    return {"sha256": sha(number), "pixels_sha256": sha(number), **size, **received}


def job(number: int) -> dict[str, object]:
    names = {"classifier_sha256": sha(1), "classifier_name": "small", "policy_sha256": ""}
    received = {"received_at": START + timedelta(seconds=number), "source": "er", "actor": "test"}
    return {"id": f"{number:032x}", "film_sha256": sha(number), "state": "done", "attempts": 1, **names, **received}


def audit(number: int) -> dict[str, object]:
    at = START + timedelta(seconds=number)
    values = {"score": 1.0, "probabilities": {"Mass": 0.5}, "explained_label": "Mass", "evidence": {}, "reasons": []}
    hashes = {"pixels_sha256": sha(number), "preprocessing_sha256": sha(9), "policy_sha256": ""}
    names = {"classifier_sha256": sha(1), "classifier_name": "small", "timings_ms": {}, "code_version": "0"}
    times = {"received_at": at, "completed_at": at, "verdict": VERDICTS[number % 20]}
    return {"id": f"{number:032x}", "film_sha256": sha(number), **values, **hashes, **names, **times}


def review(number: int) -> dict[str, object]:
    priority = {"suspicious": 2, "indeterminate": 1, "unremarkable": 0}[VERDICTS[number % 20]]
    names = {"classifier_name": "small", "source": "er", "received_at": START + timedelta(seconds=number)}
    return {"id": f"{number:032x}", "state": "open" if priority else "unflagged", "priority": priority, **names}


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('seeded') / 'test.sqlite3'}")
    database.upgrade()
    seed(database, SEEDED)
    yield database
    database.close()


def test_pages_follow_each_other_in_order_of_urgency(database: Database) -> None:
    seed(database, 60)
    found: list[tuple[int, str]] = []
    after: DeskPosition | None = None
    with database.read() as session:
        while rows := review_queries.desk_page(session, DeskFilters(), after, 7):
            found += [(row.priority, row.id) for row in rows]
            after = DeskPosition(rows[-1].priority, rows[-1].received_at, rows[-1].id)
    assert found == sorted(found, reverse=True)
    assert len({audit_id for _, audit_id in found}) == 60
    assert [priority for priority, _ in found[:6]] == [2, 2, 2, 1, 1, 1]


def test_neighbours_are_those_on_the_page(database: Database) -> None:
    seed(database, 60)
    filters = DeskFilters(state="open")
    with database.read() as session:
        rows = review_queries.desk_page(session, filters, None, 10)
        here = DeskPosition(rows[2].priority, rows[2].received_at, rows[2].id)
        assert review_queries.neighbours(session, filters, here) == (rows[1].id, rows[3].id)
        first = DeskPosition(rows[0].priority, rows[0].received_at, rows[0].id)
        assert review_queries.neighbours(session, filters, first)[0] is None


@pytest.mark.parametrize(
    "filters",
    [
        DeskFilters(),
        DeskFilters(state="open"),
        DeskFilters(state="open", priority=2),
        DeskFilters(state="unflagged", classifier="small"),
        DeskFilters(state="open", source="er"),
        DeskFilters(classifier="small"),
        DeskFilters(source="er", priority=0),
        DeskFilters(state="open", assignee="account:ada"),
        DeskFilters(state="open", assignee=NOBODY),
        DeskFilters(group="none"),
    ],
)
@pytest.mark.parametrize("after", [None, DeskPosition(1, START + timedelta(seconds=9000), f"{9000:032x}")])
def test_a_page_is_read_from_an_index_without_sorting(
    seeded: Database, filters: DeskFilters, after: DeskPosition | None
) -> None:
    compiled = desk_statement(filters, after, 50).compile(
        dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True}
    )
    with seeded.read() as session:
        plan = [str(row[3]) for row in session.execute(text(f"EXPLAIN QUERY PLAN {compiled}"))]
    assert any("ix_reviews_" in step for step in plan), plan
    assert not any("TEMP B-TREE" in step for step in plan), plan
    assert not any(step.startswith("SCAN audits") for step in plan), plan


def test_counting_stops_at_the_cap(seeded: Database) -> None:
    with seeded.read() as session:
        counts = review_queries.counts(session, [DeskFilters(), DeskFilters(state="open", priority=2)])
    assert tuple(counts) == (review_queries.COUNT_CAP + 1, SEEDED // 20)


def test_names_in_use_are_all_different_ones_in_order(database: Database) -> None:
    with database.read() as session:
        assert review_queries.names_in_use(session) == ([], [])
    seed(database, 5)
    with database.write() as unit:
        for number, (classifier, source) in enumerate([("a", "ward"), ("small", "clinic"), ("a", "er")], 1):
            row = unit.session.get_one(JobRow, f"{number:032x}")
            row.classifier_name, row.source = classifier, source
    with database.read() as session:
        assert review_queries.names_in_use(session) == (["a", "small"], ["clinic", "er", "ward"])
