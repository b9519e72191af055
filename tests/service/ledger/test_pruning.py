"""Old events go, what they vouched for stays verifiable, and the archive proves what went."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from service.ledger import pruning, verify
from service.ledger.signing import Signer
from service.records import log_queries
from service.records.session import Database, utc_now
from tests.service.ledger.test_verify import behind_its_back, record_some, staff

LONG_AGO = timedelta(days=400)


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer.open(tmp_path)


@pytest.fixture
def a_year_later(monkeypatch: pytest.MonkeyPatch) -> datetime:
    """What is recorded before this fixture's day passes is old: the clock of pruning stands a year ahead."""
    later = datetime.now(UTC) + LONG_AGO
    for module in (pruning, verify):
        monkeypatch.setattr(module, "utc_now", lambda: later)
    return later - pruning.LEAST_AGE


def test_what_remains_is_verified_and_what_went_is_proven(
    database: Database, signer: Signer, a_year_later: datetime
) -> None:
    record_some(database)
    kept = verify.sign_checkpoint(database, signer, "test")
    archived = list(pruning.archive(database, a_year_later))
    statements = pruning.prune(database, signer, a_year_later, "test")
    assert [s["content"]["last_sequence"] for s in statements] == [len(archived)] == [6]
    with database.read() as session:
        kinds = [row.kind for row in log_queries.events(session)]
    assert kinds == [
        "carried.classifier.made_default", *["carried.audit.completed"] * 3, "carried.review.confirm",
        "carried.log.checkpoint", "log.pruned",
    ]  # fmt: skip
    assert verify.verify(database, signer.public_pem, [kept]).faults == ()
    report = pruning.verify_archive(archived, database, signer.public_pem, [kept])
    assert (report.events, report.proven, report.faults) == (6, 6, ())

    pruning.prune(database, signer, a_year_later, "test")  # the same once more, one chain further
    assert verify.verify(database, signer.public_pem, [kept]).faults == ()
    with database.read() as session:
        assert len(list(log_queries.prunings(session))) == 2

    altered = [archived[0].replace('"actor":"ada"', '"actor":"eve"'), *archived[1:]]
    for lines in (altered, archived[1:], archived[:2] + archived[3:]):
        assert pruning.verify_archive(lines, database, signer.public_pem).faults


def test_accounts_keys_and_patches_are_still_checked(
    sqlite_database: Database, signer: Signer, a_year_later: datetime
) -> None:
    record_some(sqlite_database)
    staff(sqlite_database)
    pruning.prune(sqlite_database, signer, a_year_later, "test")
    assert verify.verify(sqlite_database, signer.public_pem).faults == ()
    changes = ("accounts SET role = 'auditor'", "api_keys SET revoked_at = NULL", "watch_list SET pixels = x'01'")
    behind_its_back(sqlite_database, "; ".join(f"UPDATE {change}" for change in changes))
    found = {fault.kind for fault in verify.verify(sqlite_database, signer.public_pem).faults}
    assert found == {"account has been edited", "key has been edited", "watched patch has been edited"}


@pytest.mark.parametrize(
    ("statements", "fault"),
    [
        ("UPDATE audits SET verdict = 'unremarkable'", "audit has been edited"),
        ("UPDATE reviews SET decided_by = 'eve'", "review has been edited"),
        ("UPDATE activations SET target = 'x'", "activation has been edited"),
        ("DELETE FROM prunings", "events are missing before this one"),
        ("DELETE FROM prunings; DELETE FROM events WHERE kind != 'log.pruned'", "events are missing before this one"),
        ("DELETE FROM events WHERE kind = 'log.pruned'", "pruning without its statement or event"),
        (
            "UPDATE prunings SET document = replace(document, '\"root\": \"', '\"root\": \"0')",
            "pruning not signed by this key",
        ),
        ("UPDATE prunings SET last_sequence = 7", "pruning not signed by this key"),
    ],
)  # fmt: skip
def test_tampering_with_a_pruned_log_is_found(
    sqlite_database: Database, signer: Signer, a_year_later: datetime, statements: str, fault: str
) -> None:
    record_some(sqlite_database)
    pruning.prune(sqlite_database, signer, a_year_later, "test")
    behind_its_back(sqlite_database, statements)
    assert fault in {found.kind for found in verify.verify(sqlite_database, signer.public_pem).faults}


def test_six_months_are_kept(sqlite_database: Database, signer: Signer) -> None:
    with pytest.raises(pruning.TooYoung):
        pruning.prune(sqlite_database, signer, utc_now() - timedelta(days=180), "test")
    with sqlite_database.write() as unit:
        unit.record("test", "subject", "test")
    with pytest.raises(DBAPIError, match="append-only"), sqlite_database.write() as unit:
        unit.session.execute(text("DELETE FROM events"))


def test_a_file_that_is_no_archive_is_refused(sqlite_database: Database, signer: Signer) -> None:
    for line in ("", "{}", "[1]"):
        with pytest.raises(pruning.UnreadableArchive):
            pruning.verify_archive([line], sqlite_database, signer.public_pem)
