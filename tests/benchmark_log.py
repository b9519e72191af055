"""How long `log verify` takes over events that vouch for audits and reviews.

python -m tests.benchmark_log [--events 100000]
"""

import argparse
import os
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import insert, select

from service.ledger import verify
from service.ledger.signing import Signer
from service.records.chain import Event, Head, extend, record_hash, review_hash
from service.records.session import Database
from service.records.tables import AuditRow, EventRow, ReviewRow
from tests.service.records.test_review_queries import seed

EVENTS_PER_AUDIT = 3
FILES = {name: {"sha256": "0" * 64, "byte_count": 1_048_704} for name in ("original", "pixels", "maps")}


def record(database: Database) -> None:
    """For each audit three events, as the service writes them."""
    names = tuple(column.key for column in EventRow.__table__.columns)
    with database.write() as unit:
        head, events = Head("benchmark"), []
        found = select(AuditRow, ReviewRow).join(ReviewRow, ReviewRow.id == AuditRow.id).order_by(AuditRow.id)
        for audit, review in unit.session.execute(found).all():
            hashes = {"record_sha256": record_hash(audit), "review_sha256": review_hash(review), "files": FILES}
            at, film = audit.received_at, {"source": "er", "bytes": 61_234, "classifier": audit.classifier_sha256}
            events.append(Event(at, "key:pacs", "film.received", audit.id, film))
            events.append(Event(at, "worker", "audit.completed", audit.id, {"verdict": audit.verdict, **hashes}))
            events.append(Event(at, "worker", "film.original_removed", audit.film_sha256, {}))
        rows, _ = extend(head, events)
        unit.session.execute(insert(EventRow), [{name: getattr(row, name) for name in names} for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000)
    events = parser.parse_args().events
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/log.sqlite3")
        database.upgrade()
        seed(database, events // EVENTS_PER_AUDIT)
        record(database)
        signer = Signer.open(Path(folder))
        started, worked = time.perf_counter(), time.process_time()
        report = verify.verify(database, signer.public_pem)
        wall, processor = time.perf_counter() - started, time.process_time() - worked
        database.close()
    assert report.faults == (), report.faults[:3]
    load = ", ".join(f"{number:.1f}" for number in os.getloadavg())
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, SQLite: {report.events} events, {report.audits} audits")
    print(f"{processor:.1f} s of one processor, {wall:.1f} s by the clock at load {load}")


if __name__ == "__main__":
    main()
