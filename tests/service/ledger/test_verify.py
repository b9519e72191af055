"""Everything that can be done to the database behind the service's back, and that it is found."""

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.app import open_database
from service.desk import review
from service.desk.review import open_review
from service.ledger import verify
from service.ledger.signing import Signer
from service.people import accounts, keys
from service.records.chain import record_hash, review_hash
from service.records.session import Database, utc_now
from service.records.tables import ActivationRow, WatchRow
from service.settings import Settings
from tests.service.records.rows import add_audit, add_classifier, add_job
from tests.service.serving import png

GUARDED = ("events", "audits", "activations", "prunings")


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer.open(tmp_path)


@pytest.fixture(scope="module")
def recorded_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recorded") / "log.sqlite3"
    database = Database(f"sqlite:///{path}")
    database.upgrade()
    record_some(database)
    database.close()
    return path


@pytest.fixture
def recorded(recorded_file: Path, tmp_path: Path) -> Iterator[Database]:
    """Three audits, one decided, one classifier in force, each step an event."""
    database = Database(f"sqlite:///{shutil.copy(recorded_file, tmp_path)}")
    yield database
    database.close()


def record_some(database: Database) -> None:
    for number in (1, 2, 3):
        with database.write() as unit:
            if number == 1:
                add_classifier(unit.session)
                unit.session.add(ActivationRow(slot="default", target="small", at=utc_now(), actor="ada"))
                unit.record("classifier.made_default", "default", "ada", target="small")
            job = add_job(unit.session, number, seconds=number)
            audit = add_audit(unit.session, job, "suspicious")
            opened = open_review(unit, job, audit, "worker")
            hashes = {"record_sha256": record_hash(audit), "review_sha256": review_hash(opened)}
            unit.record("audit.completed", audit.id, "worker", **hashes)
    review.record(database, [f"{1:032x}"], review.Step("confirm", "", "ada"), readers=1)


def staff(database: Database) -> None:
    """Two accounts, one of them disabled; two keys, one of them revoked; one watched patch of the first audit."""
    for name, role in (("ada", "administrator"), ("bob", "auditor")):
        accounts.create(database, name, role, "correct horse battery staple", "test")
    accounts.change(database, "bob", "account:ada", disabled=True)
    for name in ("pacs", "old"):
        keys.create(database, name, ["audits:write"], None, "account:ada")
    keys.revoke(database, "old", "account:ada")
    patch = bytes(4)
    with database.write() as unit:
        entry = WatchRow(
            id="patch",
            audit_id=f"{1:032x}",
            group_key="group",
            classifier_name="small",
            preprocessing_sha256="",
            label="Mass",
            region={"x": 0, "y": 0, "width": 1, "height": 1},
            pixels=patch,
            sha256=hashlib.sha256(patch).hexdigest(),
            added_at=utc_now(),
            actor="account:ada",
        )
        unit.session.add(entry)
        unit.record("watch.added", entry.id, entry.actor, audit=entry.audit_id, patch_sha256=entry.sha256, active=True)


def behind_its_back(database: Database, statements: str) -> None:
    """Somebody with the file: the triggers that forbid changes are dropped first."""
    triggers = [f"{table}_no_{action}" for table in GUARDED for action in ("update", "delete")]
    connection = sqlite3.connect(str(database.engine.url.database))
    connection.executescript(f"{''.join(f'DROP TRIGGER IF EXISTS {name}; ' for name in triggers)} {statements}")
    connection.close()


def found(database: Database, signer: Signer, *kept: dict[str, Any]) -> set[str]:
    return {fault.kind for fault in verify.verify(database, signer.public_pem, kept).faults}


def test_an_untouched_log_has_no_faults(database: Database, signer: Signer) -> None:
    record_some(database)
    document = verify.sign_checkpoint(database, signer, "test")
    report = verify.verify(database, signer.public_pem, [document])
    assert report.faults == ()
    assert (report.events, report.audits, report.checkpoints) == (6, 3, 2)


TAMPERING = [
    ("UPDATE events SET actor = 'eve' WHERE sequence = 2", "has been edited"),
    ("UPDATE events SET payload = '{}' WHERE sequence = 4", "has been edited"),
    ("UPDATE events SET payload = '{' WHERE sequence = 4", "holds a value that cannot be read"),
    ("UPDATE events SET at = '2026-01-01 00:00:00.000000' WHERE sequence = 3", "has been edited"),
    ("UPDATE events SET at = 'yesterday' WHERE sequence = 3", "holds a value that cannot be read"),
    ("UPDATE events SET writer = 'eve' WHERE sequence > 2", "events are missing before this one"),
    ("DELETE FROM events WHERE sequence = 2", "events are missing before this one"),
    ("DELETE FROM events WHERE sequence = 1", "events are missing before this one"),
    ("DELETE FROM events WHERE sequence >= 5", "review has been edited"),
    ("DELETE FROM events", "audit without its event"),
    (
        "UPDATE events SET sequence = 99 WHERE sequence = 1; UPDATE events SET sequence = 1 WHERE sequence = 2; "
        "UPDATE events SET sequence = 2 WHERE sequence = 99",
        "does not follow the one before",
    ),
    (
        "INSERT INTO events SELECT writer, 6, at, actor, kind, subject, payload, hash, 'a' FROM events "
        "WHERE sequence = 5",
        "has been edited",
    ),
    *(
        (f"UPDATE audits SET {change} WHERE id LIKE '%2'", "audit has been edited")
        for change in (
            "verdict = 'unremarkable'", "reasons = '[]'", "score = 0.0", "p_value = 0.5", "evidence = '{\"gini\": 1}'",
            "explained_label = 'Hernia'", "hypothesis = 'counter'", "policy_sha256 = 'x'", "classifier_sha256 = 'x'",
            "region = '{\"x\": 0, \"y\": 0, \"width\": 1, \"height\": 1}'", "film_sha256 = 'x'",
            "received_at = '2020-01-01 00:00:00.000000'", "timings_ms = '{\"decode\": 1}'",
        )
    ),
    ("DELETE FROM reviews; DELETE FROM audits WHERE id LIKE '%3'", "audit has been removed"),
    (
        "UPDATE audits SET id = 'x' WHERE id LIKE '%3'",
        "audit without its event",
    ),
    *(
        (f"UPDATE reviews SET {change}", "review has been edited")
        for change in (
            "state = 'dismissed' WHERE id LIKE '%1'", "state = 'unflagged' WHERE id LIKE '%2'", "decided_by = 'eve'",
            "decided_at = '2026-01-01 00:00:00.000000'", "first_reader = 'eve'", "proposal = 'confirmed'",
            "assignee = 'eve'", "priority = 0", "source = 'x'", "group_key = 'x'",
            "received_at = '2020-01-01 00:00:00.000000'",
        )
    ),
    ("DELETE FROM reviews WHERE id LIKE '%2'", "review has been removed"),
    (
        "INSERT INTO activations (slot, target, at, actor) VALUES ('default', 'x', '2026-01-01 00:00:00', 'e')",
        "activation has been edited",
    ),
    ("UPDATE activations SET target = 'x'", "activation has been edited"),
    ("UPDATE activations SET actor = 'eve'", "activation has been edited"),
    ("DELETE FROM activations", "activation has been edited"),
    ("DELETE FROM checkpoints", "checkpoint has been removed, or added"),
    ("UPDATE checkpoints SET root = 'x'", "checkpoint has been edited"),
    ("UPDATE checkpoints SET events = 1", "checkpoint has been edited"),
    ("UPDATE checkpoints SET document = '{}'", "checkpoint not signed by this key"),
    (
        "INSERT INTO checkpoints SELECT 9, at, events, root, document FROM checkpoints",
        "checkpoint has been removed, or added",
    ),
    (
        "INSERT INTO prunings VALUES ('w', 1, '{\"content\": {}, \"signature\": \"\", \"public_key\": \"\"}')",
        "pruning not signed by this key",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("statements", "fault"), TAMPERING, ids=[statements[:60] for statements, _ in TAMPERING])
def test_each_way_of_tampering_is_found(recorded: Database, signer: Signer, statements: str, fault: str) -> None:
    verify.sign_checkpoint(recorded, signer, "test")
    behind_its_back(recorded, statements)
    assert fault in found(recorded, signer)


@pytest.fixture(scope="module")
def staffed_file(recorded_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = Path(shutil.copy(recorded_file, tmp_path_factory.mktemp("staffed")))
    database = Database(f"sqlite:///{path}")
    staff(database)
    database.close()
    return path


@pytest.mark.parametrize(
    ("statements", "fault"),
    [
        ("UPDATE accounts SET role = 'administrator' WHERE name = 'bob'", "account has been edited"),
        ("UPDATE accounts SET disabled_at = NULL", "account has been edited"),
        ("DELETE FROM accounts WHERE name = 'bob'", "account has been removed"),
        (
            "INSERT INTO accounts SELECT 'eve', password_hash, role, created_at, NULL, NULL FROM accounts "
            "WHERE name = 'ada'",
            "account without its event",
        ),
        ("UPDATE api_keys SET scopes = '[\"admin\"]'", "key has been edited"),
        ("UPDATE api_keys SET revoked_at = NULL", "key has been edited"),
        ("DELETE FROM api_keys WHERE name = 'old'", "key has been removed"),
        ("UPDATE api_keys SET name = 'x' WHERE name = 'old'", "key without its event"),
        ("UPDATE watch_list SET pixels = x'01020304'", "watched patch has been edited"),
        ("UPDATE watch_list SET retired_at = '2026-01-01 00:00:00.000000'", "watched patch has been edited"),
        ("DELETE FROM watch_list", "watched patch has been removed"),
    ],
)
def test_changes_of_accounts_keys_and_patches_are_found(
    staffed_file: Path, tmp_path: Path, signer: Signer, statements: str, fault: str
) -> None:
    staffed = Database(f"sqlite:///{shutil.copy(staffed_file, tmp_path)}")
    assert found(staffed, signer) == set()
    behind_its_back(staffed, statements)
    assert fault in found(staffed, signer)
    staffed.close()


def test_a_log_cut_off_at_its_end_shows_against_a_kept_checkpoint(recorded: Database, signer: Signer) -> None:
    document = verify.sign_checkpoint(recorded, signer, "test")
    behind_its_back(
        recorded,
        "DELETE FROM events WHERE sequence >= 5 OR kind = 'log.checkpoint'; DELETE FROM checkpoints; "
        "UPDATE reviews SET state = 'open', decided_by = NULL, decided_at = NULL",
    )
    assert found(recorded, signer) == set()
    assert found(recorded, signer, document) == {"cut off behind a checkpoint"}


def test_a_chain_that_is_missing_whole_shows_against_a_kept_checkpoint(recorded: Database, signer: Signer) -> None:
    document = verify.sign_checkpoint(recorded, signer, "test")
    tables = ("checkpoints", "reviews", "audits", "events", "activations")
    behind_its_back(recorded, "; ".join(f"DELETE FROM {table}" for table in tables))
    assert found(recorded, signer, document) == {"cut off behind a checkpoint"}


def test_a_log_written_anew_shows_against_a_kept_checkpoint(recorded: Database, signer: Signer) -> None:
    document = verify.sign_checkpoint(recorded, signer, "test")
    document["content"]["heads"][0]["hash"] = "0" * 64
    assert "checkpoint not signed by this key" in found(recorded, signer, document)


def test_a_checkpoint_of_another_key_is_refused(recorded: Database, signer: Signer, tmp_path: Path) -> None:
    other = Signer.open(tmp_path / "other")
    document = verify.sign_checkpoint(recorded, other, "test")
    assert found(recorded, signer, document) == {"checkpoint not signed by this key"}


def test_tree_roots_are_those_of_rfc_6962() -> None:
    """Known answers of Certificate Transparency's reference tests."""
    leaves = [bytes.fromhex(leaf) for leaf in ("", "00", "10", "2021", "3031", "40414243")]
    assert verify.tree_root([]) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert verify.tree_root(leaves[:1]) == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert verify.tree_root(leaves[:3]) == "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"
    assert verify.tree_root(leaves[:6]) == "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef"


def test_the_export_is_every_event_in_order(recorded: Database) -> None:
    with recorded.read() as session:
        lines = list(verify.export(session))
    assert len(lines) == 5
    assert '"kind":"review.confirm"' in lines[-1]


def test_a_file_that_is_no_checkpoint_is_refused() -> None:
    for data in (b"", b"{}", b'{"content": {"format": 99}}'):
        with pytest.raises(verify.UnreadableCheckpoint):
            verify.read_checkpoint(data)


def test_what_the_service_records_itself_has_no_faults(
    client: httpx.Client, shared_settings: Settings, tokens: dict[str, str]
) -> None:
    """Audits, a mismatch with the deployed classifier, and people's decisions, through the real service."""
    headers = {"Content-Type": "image/png"}
    first = client.post("/v1/audits", content=png(881), headers=headers).json()
    probabilities = json.dumps(dict.fromkeys(first["probabilities"], 0.0) | {first["explained_label"]: 1.0})
    differs = {"data": {"probabilities": probabilities}, "files": {"file": ("film.png", png(882), "image/png")}}
    second = client.post("/v1/audits", **differs).json()
    reviewer = {"Authorization": f"Bearer {tokens['audits:review']}"}
    for decision in ("take", "comment", "confirm", "reopen"):
        form = {"id": [first["id"], second["id"]], "decision": decision, "comment": "x"}
        assert httpx.post(client.base_url.join("/reviews"), data=form, headers=reviewer).status_code == 303
    with open_database(shared_settings) as database:
        report = verify.verify(database, Signer.open(shared_settings.data_dir).public_pem)
    assert report.faults == ()
    assert report.audits >= 2
