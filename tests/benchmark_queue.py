"""How fast the queue page answers over HTTP, logged in, with many audits, at any depth and under each filter.

python -m tests.benchmark_queue [--audits 200000] [--rounds 5] [--database-url postgresql://...]

Without a URL: SQLite in a temporary folder. A PostgreSQL database has to be empty, and stays filled.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
from psycopg.types.json import Json
from sqlalchemy import insert, select

from service import logs
from service.people import accounts
from service.records.session import Database, Unit
from service.records.tables import AuditRow, ClassifierRow, FilmRow, JobRow, ReviewRow, Tables
from service.settings import Settings
from service.web.dashboard import desk
from tests.service.records.rows import START, sha
from tests.service.records.test_review_queries import audit, film, job, review
from tests.service.serving import serving

BATCH = 5_000
CLASSIFIERS, SOURCES, RARE = ("nih-badnet3", "nih-clean"), ("er-1", "er-2", "ward", "archive"), "rare"
STATES = ("open", "open", "open", "second_reader", "confirmed", "dismissed")
GROUP = f"{7:032x}"
PASSWORD = "correct horse battery staple"
VIEWS = (
    "", "show=all", "show=second_reader", "show=confirmed", "verdict=suspicious", "verdict=indeterminate",
    "show=all&verdict=unremarkable", "show=all&classifier=nih-clean", "show=all&source=ward", "source=ward",
    "classifier=nih-clean&source=ward", "show=all&classifier=nih-clean&source=ward",
    "show=all&verdict=unremarkable&classifier=nih-clean&source=ward", "show=all&classifier=nih-clean&source=rare",
    "show=dismissed&verdict=suspicious&source=rare", f"show=all&group={GROUP}", f"group={GROUP}&verdict=suspicious",
)  # fmt: skip
DEPTHS = (0.0, 0.25, 0.5, 0.75, 0.999)


def fill(database: Database, count: int) -> None:
    """Of twenty audits one is suspicious and one indeterminate; half of the suspicious ones are one group."""
    with database.write() as unit:
        for name in CLASSIFIERS:
            row = ClassifierRow(sha256=sha(CLASSIFIERS.index(name) + 1), name=name, card={}, added_at=START, actor="b")
            unit.session.add(row)
    for start in range(1, count + 1, BATCH):
        numbers = range(start, min(start + BATCH, count + 1))
        with database.write() as unit:
            for table, make in ((FilmRow, film), (JobRow, job), (AuditRow, audit), (ReviewRow, review)):
                _insert(database, unit, table, [_varied(make(number), number) for number in numbers])


def _insert(database: Database, unit: Unit, table: type[Tables], rows: list[dict[str, object]]) -> None:
    if database.is_sqlite:
        unit.session.execute(insert(table), rows)
        return
    connection = unit.session.connection().connection.driver_connection
    statement = f"COPY {table.__tablename__} ({', '.join(rows[0])}) FROM STDIN"
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row([Json(value) if isinstance(value, dict | list) else value for value in row.values()])


def _varied(values: dict[str, object], number: int) -> dict[str, object]:
    source = RARE if number % 5_000 == 0 else SOURCES[number // 7 % len(SOURCES)]
    changes: dict[str, object] = {"source": source, "classifier_name": CLASSIFIERS[0 if source == RARE else number % 2]}
    flagged = bool(values.get("priority"))
    if "priority" in values:
        key = GROUP if number % 40 < 20 else f"{number:032x}"
        changes["group_key"] = key if flagged else None
        values["group_key"] = None
    if flagged:
        changes["state"] = STATES[number // 20 % len(STATES)]
    return values | {name: value for name, value in changes.items() if name in values}


def log_in(client: httpx.Client) -> None:
    client.get("/login").raise_for_status()
    answer = client.post("/login", data={"name": "ada", "password": PASSWORD, "next": "/"})
    assert answer.status_code == 303, answer.text


def addresses(database: Database, view: str) -> Iterator[str]:
    """The view's first page and pages as deep as its rows go."""
    words = dict(part.split("=") for part in view.split("&") if part)
    filters = desk.selection(**words).filters
    wanted = {
        ReviewRow.state: filters.state, ReviewRow.priority: filters.priority, ReviewRow.source: filters.source,
        ReviewRow.classifier_name: filters.classifier, ReviewRow.group_key: filters.group,
    }  # fmt: skip
    order = (ReviewRow.priority.desc(), ReviewRow.received_at.desc(), ReviewRow.id.desc())
    conditions = [column == value for column, value in wanted.items() if value is not None]
    with database.read() as session:
        ids = session.scalars(select(ReviewRow.id).where(*conditions).order_by(*order)).all()
        for depth in DEPTHS if ids else DEPTHS[:1]:
            row = session.get(ReviewRow, ids[int(depth * len(ids))]) if depth else None
            cursor = f"&cursor={desk._cursor(row)}" if row else ""
            yield f"/?{view}{cursor}"


def measure(client: httpx.Client, paths: list[str], rounds: int) -> np.ndarray:
    """Milliseconds of each request, and of the processor that client and service spent; the first round is left out."""
    spent = []
    for turn in range(rounds + 1):
        for path in paths:
            started, worked = time.perf_counter(), time.process_time()
            client.get(path).raise_for_status()
            if turn:
                spent.append((1e3 * (time.perf_counter() - started), 1e3 * (time.process_time() - worked)))
    return np.array(spent)


def described(spent: np.ndarray) -> str:
    wall, processor = np.percentile(spent, 95, axis=0)
    return f"p95 {wall:7.1f} ms, least {spent[:, 0].min():6.1f} ms, processor p95 {processor:6.1f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audits", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--database-url", default="")
    arguments = parser.parse_args()
    logs.configure("error")
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            data_dir=Path(folder), models_dir=Path(folder), database_url=arguments.database_url, embedded_worker=False
        )
        database = Database(settings.resolved_database_url)
        database.upgrade()
        fill(database, arguments.audits)
        if not database.is_sqlite:
            with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("VACUUM ANALYZE")  # what autovacuum does soon after
        accounts.create(database, "ada", "reviewer", PASSWORD, "benchmark")
        print(f"{database.engine.dialect.name}, {arguments.audits} audits, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC")
        everything = []
        with serving(settings) as client:
            log_in(client)
            for view in VIEWS:
                spent = measure(client, list(addresses(database, view)), arguments.rounds)
                everything.append(spent)
                print(f"{described(spent)}  /?{view}", flush=True)
        load = ", ".join(f"{number:.1f}" for number in os.getloadavg())
        print(f"{described(np.concatenate(everything))}  all pages; load {load}")
        database.close()


if __name__ == "__main__":
    main()
