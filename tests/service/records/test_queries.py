from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, update

from service.graphs.protocol import EXAMINER_VERSION
from service.records import queries
from service.records.queries import AuditFilters, Position
from service.records.session import Database
from service.records.tables import ClassifierRow
from tests.service.records.rows import START, add_audit, add_classifier, add_job, sha

LATER = START + timedelta(hours=1)
NO_FILTERS = AuditFilters()


def add_jobs(database: Database, count: int) -> None:
    with database.write() as unit:
        add_classifier(unit.session)
        for number in range(1, count + 1):
            add_job(unit.session, number, seconds=number)


def test_workers_claim_different_jobs(database: Database) -> None:
    add_jobs(database, 24)

    def claim(owner: int) -> list[str]:
        with database.write() as unit:
            return [job.id for job in queries.claim(unit.session, str(owner), LATER, 3)]

    with ThreadPoolExecutor(8) as pool:
        claimed = [job_id for ids in pool.map(claim, range(8)) for job_id in ids]
    assert len(claimed) == len(set(claimed)) == 24


def test_oldest_first_and_an_attempt_is_counted(database: Database) -> None:
    add_jobs(database, 3)
    with database.write() as unit:
        claimed = queries.claim(unit.session, "me", LATER, 2)
        assert [(job.id, job.attempts) for job in claimed] == [(f"{1:032x}", 1), (f"{2:032x}", 1)]
    with database.read() as session:
        assert queries.queue_depth(session) == 1


@pytest.mark.parametrize("state", [{"refusal": "Transpose cat_2: it moves places."}, {"examiner": None}])
def test_films_of_a_classifier_that_cannot_be_audited_wait_and_take_nobodys_room(
    database: Database, state: dict[str, str | None]
) -> None:
    add_jobs(database, 2)
    with database.write() as unit:
        add_classifier(unit.session, 2, "refused")
        unit.session.execute(update(ClassifierRow).where(ClassifierRow.sha256 == sha(2)).values(**state))
        for number in (11, 12, 13):
            add_job(unit.session, number, classifier_sha256=sha(2), classifier_name="refused")
    with database.read() as session:
        assert [queries.queue_depth_beside(session, sha(number)) for number in (1, 2)] == [2, 3]
        [(row, films)] = queries.waiting_for_classifiers(session)
        assert (row.name, films) == ("refused", 3)
    with database.write() as unit:
        assert [job.classifier_name for job in queries.claim(unit.session, "me", LATER, 9)] == ["small", "small"]
        assert not queries.has_claimable(unit.session, START)
        unit.session.execute(update(ClassifierRow).values(refusal=None, examiner=EXAMINER_VERSION))
    with database.write() as unit:
        assert len(queries.claim(unit.session, "me", LATER, 9)) == 3


def test_only_a_lease_that_ran_out_is_given_back(database: Database) -> None:
    add_jobs(database, 2)
    with database.write() as unit:
        queries.claim(unit.session, "silent", START, 1)
        queries.claim(unit.session, "busy", LATER, 1)
    with database.write() as unit:
        assert queries.requeue_expired(unit.session, START + timedelta(seconds=1)) == 1
        assert [job.id for job in queries.claim(unit.session, "other", LATER, 5)] == [f"{1:032x}"]
    with database.write() as unit:
        assert not queries.finish_job(unit.session, f"{1:032x}", "silent")
        assert queries.finish_job(unit.session, f"{1:032x}", "other")


def test_released_attempts_do_not_count(database: Database) -> None:
    add_jobs(database, 1)
    with database.write() as unit:
        queries.claim(unit.session, "me", LATER, 1)
    with database.write() as unit:
        queries.release_leases(unit.session, "me")
    with database.read() as session:
        job = queries.job(session, f"{1:032x}")
        assert job is not None
        assert (job.state, job.attempts) == ("queued", 0)


def test_the_same_row_is_inserted_once(database: Database) -> None:
    for wanted in (True, False):
        row = ClassifierRow(sha256=sha(1), name="small", card={"a": [1]}, added_at=START, actor="test")
        with database.write() as unit:
            assert queries.insert_unless_present(unit.session, row) is wanted
    with database.read() as session:
        assert [found.card for found in queries.classifiers(session)] == [{"a": [1]}]


def all_pages(database: Database, filters: AuditFilters, size: int) -> list[str]:
    found: list[str] = []
    after = None
    with database.read() as session:
        while page := queries.audits_page(session, filters, after, size):
            found += [job.id for job in page]
            after = Position(page[-1].received_at, page[-1].id)
    return found


@pytest.mark.parametrize("verdict", [None, "suspicious"])
def test_pages_cover_everything_once_even_within_one_instant(database: Database, verdict: str | None) -> None:
    with database.write() as unit:
        add_classifier(unit.session)
        for number in range(1, 12):
            word = "suspicious" if number % 2 else "unremarkable"
            add_audit(unit.session, add_job(unit.session, number, seconds=number // 4), word)
    wanted = [n for n in range(11, 0, -1) if verdict is None or n % 2]
    assert all_pages(database, AuditFilters(verdict=verdict), 3) == [f"{n:032x}" for n in wanted]


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        (AuditFilters(state="queued"), [4]),
        (AuditFilters(classifier="small"), [4, 3, 2]),
        (AuditFilters(classifier="large", verdict="suspicious"), [1]),
        (AuditFilters(source="ward"), [3]),
        (AuditFilters(since_at=START + timedelta(seconds=2), until_at=START + timedelta(seconds=4)), [3, 2]),
        (AuditFilters(verdict="unremarkable", state="failed"), []),
    ],
)
def test_filters(database: Database, filters: AuditFilters, wanted: list[int]) -> None:
    with database.write() as unit:
        add_classifier(unit.session)
        add_audit(unit.session, add_job(unit.session, 1, seconds=1, classifier_name="large"), "suspicious")
        add_audit(unit.session, add_job(unit.session, 2, seconds=2))
        add_audit(unit.session, add_job(unit.session, 3, seconds=3, source="ward"))
        add_job(unit.session, 4, seconds=4)
    assert all_pages(database, filters, 10) == [f"{n:032x}" for n in wanted]


def test_an_original_stays_while_a_job_needs_it(database: Database) -> None:
    with database.write() as unit:
        add_classifier(unit.session)
        add_job(unit.session, 1)
        add_audit(unit.session, add_job(unit.session, 2))
    with database.write() as unit:
        films = queries.films_with_expired_original(unit.session, LATER + timedelta(days=1), 10)
        assert [film.sha256 for film in films] == [sha(2)]


@pytest.mark.parametrize(
    ("filters", "index"),
    [
        (NO_FILTERS, "ix_jobs_received_at_id"),
        (AuditFilters(verdict="suspicious"), "ix_audits_verdict_received_at_id"),
        (AuditFilters(state="failed"), "ix_jobs_state_received_at_id"),
        (AuditFilters(classifier="small"), "ix_jobs_classifier_name_received_at_id"),
        (AuditFilters(source="er"), "ix_jobs_source_received_at_id"),
        (AuditFilters(classifier="small", verdict="suspicious"), "ix_audits_classifier_name_verdict_received_at_id"),
    ],
)
def test_each_list_is_read_from_an_index(sqlite_database: Database, filters: AuditFilters, index: str) -> None:
    statements: list[tuple[str, Any]] = []

    def remember(_c: object, _cursor: object, statement: str, parameters: object, *_rest: object) -> None:
        statements.append((statement, parameters))

    event.listen(sqlite_database.engine, "before_cursor_execute", remember)
    with sqlite_database.read() as session:
        queries.audits_page(session, filters, Position(LATER, "f"), 5)
    event.remove(sqlite_database.engine, "before_cursor_execute", remember)
    statement, parameters = statements[-1]
    with sqlite_database.engine.connect() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
    text_of_plan = " ".join(str(row) for row in plan)
    assert index in text_of_plan
    assert "ORDER BY" not in text_of_plan  # no sorting of what was found
