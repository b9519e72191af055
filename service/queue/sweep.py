"""What is tidied up by and by: originals past their time, files that a killed process left, old keys."""

from datetime import timedelta

from service.records import pacs_queries, queries
from service.records.session import Database, utc_now
from service.records.storage import Storage

ACTOR = "worker"
ORPHAN_SECONDS = 3600.0
SWEEP_BATCH = 500


def sweep(database: Database, storage: Storage) -> None:
    """Remove originals past their time, files that a killed process left, and old Idempotency-Keys."""
    storage.sweep_partials(ORPHAN_SECONDS)
    _remove_orphans(database, storage)
    with database.write() as unit:
        now = utc_now()
        queries.forget_idempotency_keys(unit.session, now - timedelta(hours=24))
        for film in queries.films_with_expired_original(unit.session, now, SWEEP_BATCH):
            storage.remove_original(film.sha256)
            film.original_expires_at = None
            unit.record("film.original_removed", film.sha256, ACTOR)
        pacs_queries.forget_expired_identities(unit.session, now)


def _remove_orphans(database: Database, storage: Storage) -> None:
    """Originals whose intake was killed before its commit."""
    found = list(storage.originals_older_than(ORPHAN_SECONDS))
    for start in range(0, len(found), SWEEP_BATCH):
        batch = found[start : start + SWEEP_BATCH]
        with database.read() as session:
            known = queries.known_films(session, batch)
        for sha256 in set(batch) - known:
            storage.remove_original(sha256)
