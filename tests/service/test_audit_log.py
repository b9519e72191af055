"""Everything that can be done to the database behind the service's back, and that it is found."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from service import audit_log, review
from service.db import chain
from service.db.session import Database
from service.signing import Signer
from tests.service.db.rows import add_audit, add_classifier, add_job

Tamper = Callable[[Database], None]


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer.open(tmp_path)


@pytest.fixture
def recorded(sqlite_database: Database) -> Database:
    """Three audits, one decided, each step an event."""
    for number in (1, 2, 3):
        with sqlite_database.write() as unit:
            if number == 1:
                add_classifier(unit.session)
            job = add_job(unit.session, number, seconds=number)
            audit = add_audit(unit.session, job, "suspicious")
            review.open_review(unit, job, audit)
            unit.record("audit.completed", audit.id, "worker", record_sha256=chain.record_hash(audit))
    step = review.Step("confirm", "", "ada")
    review.record(sqlite_database, [f"{1:032x}"], step, readers=1)
    return sqlite_database


def behind_its_back(*statements: str) -> Tamper:
    """Somebody with the file: the triggers that forbid changes are dropped first."""

    def tamper(database: Database) -> None:
        with database._writing.begin() as connection:
            for table in ("events", "audits"):
                for action in ("update", "delete"):
                    connection.execute(text(f"DROP TRIGGER {table}_no_{action}"))
            for statement in statements:
                connection.execute(text(statement))

    return tamper


def found(database: Database, signer: Signer, *kept: dict[str, Any]) -> set[str]:
    return {fault.kind for fault in audit_log.verify(database, signer.public_pem, kept).faults}


def test_an_untouched_log_has_no_faults(recorded: Database, signer: Signer) -> None:
    document = audit_log.sign_checkpoint(recorded, signer, "test")
    report = audit_log.verify(recorded, signer.public_pem, [document])
    assert report.faults == ()
    assert (report.events, report.audits, report.checkpoints) == (5, 3, 2)


@pytest.mark.parametrize(
    ("tamper", "fault"),
    [
        (behind_its_back("UPDATE events SET actor = 'eve' WHERE sequence = 2"), "has been edited"),
        (behind_its_back("UPDATE events SET payload = '{}' WHERE sequence = 4"), "has been edited"),
        (behind_its_back("DELETE FROM events WHERE sequence = 2"), "events are missing before this one"),
        (behind_its_back("DELETE FROM events WHERE sequence = 1"), "events are missing before this one"),
        (
            behind_its_back(
                "UPDATE events SET sequence = 99 WHERE sequence = 1",
                "UPDATE events SET sequence = 1 WHERE sequence = 2",
                "UPDATE events SET sequence = 2 WHERE sequence = 99",
            ),
            "does not follow the one before",
        ),
        (behind_its_back("UPDATE audits SET verdict = 'unremarkable'"), "audit has been edited"),
        (behind_its_back("UPDATE audits SET reasons = '[]' WHERE id LIKE '%2'"), "audit has been edited"),
        (behind_its_back("DELETE FROM reviews", "DELETE FROM audits WHERE id LIKE '%3'"), "audit has been removed"),
        (behind_its_back("UPDATE reviews SET state = 'dismissed' WHERE id LIKE '%1'"), "review has been edited"),
        (behind_its_back("UPDATE reviews SET state = 'unflagged' WHERE id LIKE '%2'"), "review has been edited"),
        (
            behind_its_back(
                "INSERT INTO activations (slot, target, at, actor) VALUES ('default', 'x', '2026-01-01 00:00:00', 'e')"
            ),
            "activation has been edited",
        ),
    ],
)
def test_each_way_of_tampering_is_found(recorded: Database, signer: Signer, tamper: Tamper, fault: str) -> None:
    tamper(recorded)
    assert fault in found(recorded, signer)


def test_a_log_cut_off_at_its_end_shows_against_a_kept_checkpoint(recorded: Database, signer: Signer) -> None:
    document = audit_log.sign_checkpoint(recorded, signer, "test")
    behind_its_back(
        "DELETE FROM events WHERE sequence >= 4", "UPDATE reviews SET state = 'open'", "DELETE FROM checkpoints"
    )(recorded)
    assert found(recorded, signer) == set()
    assert found(recorded, signer, document) == {"cut off behind a checkpoint"}


def test_a_chain_that_is_missing_whole_shows_against_a_kept_checkpoint(recorded: Database, signer: Signer) -> None:
    document = audit_log.sign_checkpoint(recorded, signer, "test")
    behind_its_back(*(f"DELETE FROM {table}" for table in ("checkpoints", "reviews", "audits", "events")))(recorded)
    assert found(recorded, signer, document) == {"cut off behind a checkpoint"}


def test_a_log_written_anew_shows_against_a_kept_checkpoint(recorded: Database, signer: Signer) -> None:
    document = audit_log.sign_checkpoint(recorded, signer, "test")
    document["content"]["heads"][0]["hash"] = "0" * 64
    assert "checkpoint not signed by this key" in found(recorded, signer, document)


def test_a_checkpoint_of_another_key_is_refused(recorded: Database, signer: Signer, tmp_path: Path) -> None:
    other = Signer.open(tmp_path / "other")
    document = audit_log.sign_checkpoint(recorded, other, "test")
    assert found(recorded, signer, document) == {"checkpoint not signed by this key"}


def test_tree_roots_are_those_of_rfc_6962() -> None:
    """Known answers of Certificate Transparency's reference tests."""
    leaves = [bytes.fromhex(leaf) for leaf in ("", "00", "10", "2021", "3031", "40414243")]
    assert audit_log.tree_root([]) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert audit_log.tree_root(leaves[:1]) == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert audit_log.tree_root(leaves[:3]) == "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"
    assert audit_log.tree_root(leaves[:6]) == "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef"


def test_the_export_is_every_event_in_order(recorded: Database) -> None:
    with recorded.read() as session:
        lines = list(audit_log.export(session))
    assert len(lines) == 4
    assert '"kind":"review.confirm"' in lines[-1]


def test_a_file_that_is_no_checkpoint_is_refused() -> None:
    for data in (b"", b"{}", b'{"content": {"format": 99}}'):
        with pytest.raises(audit_log.UnreadableCheckpoint):
            audit_log.read_checkpoint(data)
