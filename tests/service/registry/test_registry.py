import json
import shutil
from pathlib import Path

import pytest
from sqlalchemy import select

from service.errors import ClassifierError, PolicyError
from service.graphs.examiner import Examiner
from service.ledger.verify import verify
from service.records import queries
from service.records.session import Database
from service.records.tables import EventRow, JobRow
from service.registry.examinations import Examinations
from service.registry.registry import (
    DEFAULT_SLOT,
    NoActiveClassifier,
    NothingToRollBack,
    Registry,
    UnknownClassifier,
    UnknownPolicy,
    WarnedPolicy,
    choose,
    classifier_slot,
    counts_towards_release,
    in_force,
    policy_slot,
)

NAME = "phantom-badnet3"


@pytest.fixture
def folder(tmp_path: Path, models_dir: Path) -> Path:
    """A models folder with one classifier and one policy."""
    copy = tmp_path / "models"
    copy.mkdir()
    shutil.copy(models_dir / f"{NAME}.onnx", copy)
    shutil.copy(min(models_dir.glob(f"{NAME}*.policy.json")), copy)
    return copy


@pytest.fixture
def registry(sqlite_database: Database, folder: Path, tmp_path: Path) -> Registry:
    registry = Registry(sqlite_database, folder, Examinations(tmp_path / "kept", Examiner()))
    registry.synchronise()
    return registry


def add_version(folder: Path) -> None:
    """The same graph with another word for its last label: a new version."""
    path = folder / f"{NAME}.onnx"
    data = path.read_bytes()
    assert data.count(b'"Hernia"') == 1
    path.write_bytes(data.replace(b'"Hernia"', b'"Hernix"'))


def test_what_lies_in_the_folder_is_registered_and_in_force(sqlite_database: Database, registry: Registry) -> None:
    with sqlite_database.read() as session:
        choice = choose(session, None, None)
        [policy] = queries.policies(session)
    assert choice.classifier_name == NAME
    assert choice.policy_sha256 == policy.sha256
    assert registry.classifier(choice.classifier_sha256).card.sha256 == choice.classifier_sha256
    loaded = registry.policy(choice.policy_sha256)
    assert loaded is not None
    assert loaded.sha256 == policy.sha256


def test_synchronising_again_changes_nothing(sqlite_database: Database, registry: Registry) -> None:
    with sqlite_database.read() as session:
        before = queries.activation_in_force(session, DEFAULT_SLOT)
    registry.synchronise()
    with sqlite_database.read() as session:
        after = queries.activation_in_force(session, DEFAULT_SLOT)
    assert before is not None
    assert after is not None
    assert before.id == after.id


def test_retiring_and_rolling_back(sqlite_database: Database, registry: Registry) -> None:
    with sqlite_database.read() as session:
        version = choose(session, NAME, None).classifier_sha256
    registry.retire_classifier(NAME, "test")
    with sqlite_database.read() as session:
        with pytest.raises(UnknownClassifier):
            choose(session, NAME, None)
        with pytest.raises(NoActiveClassifier):
            choose(session, None, None)
    assert registry.rollback_classifier(NAME, "test") == version
    with pytest.raises(NothingToRollBack):
        registry.rollback_classifier(NAME, "test")


def test_a_new_version_waits_for_its_activation(sqlite_database: Database, registry: Registry, folder: Path) -> None:
    with sqlite_database.read() as session:
        first = choose(session, NAME, None).classifier_sha256
    add_version(folder)
    registry.synchronise()
    with sqlite_database.read() as session:
        assert choose(session, NAME, None).classifier_sha256 == first
    second = registry.activate_classifier(NAME, None, "test")
    assert second != first
    with sqlite_database.read() as session:
        assert choose(session, NAME, None).policy_sha256 == ""  # policies belong to one version
    assert registry.classifier(first).card.sha256 == first  # its file is kept although the folder's has changed
    assert registry.rollback_classifier(NAME, "test") == first


def test_policies_are_chosen_by_name_hash_or_default(sqlite_database: Database, registry: Registry) -> None:
    with sqlite_database.read() as session:
        [policy] = queries.policies(session)
        for wanted in (policy.name, policy.sha256):
            assert choose(session, NAME, wanted).policy_sha256 == policy.sha256
        with pytest.raises(UnknownPolicy):
            choose(session, NAME, "nothing")
    assert registry.activate_policy(NAME, policy.name, "test") == policy.sha256
    assert registry.rollback_policy(NAME, "test") == policy.sha256


def test_foreign_files_are_left_out_and_refused(sqlite_database: Database, registry: Registry, folder: Path) -> None:
    (folder / "broken.onnx").write_bytes(b"not a graph")
    (folder / "broken.policy.json").write_text("{}")
    registry.synchronise()
    with sqlite_database.read() as session:
        assert len(queries.classifiers(session)) == len(queries.policies(session)) == 1
    with pytest.raises(ClassifierError):
        registry.add_classifier_file(folder / "broken.onnx", "test")
    with pytest.raises(PolicyError):
        registry.add_policy(folder / "broken.policy.json", "test")
    with pytest.raises(ClassifierError):
        registry.add_classifier_file(folder / "missing.onnx", "test")


def test_a_policy_needs_its_classifier(tmp_path: Path, sqlite_database: Database, models_dir: Path) -> None:
    registry = Registry(sqlite_database, tmp_path, Examinations(tmp_path / "kept", Examiner()))
    with pytest.raises(PolicyError, match="not registered"):
        registry.add_policy(min(models_dir.glob("*.policy.json")), "test")


@pytest.mark.usefixtures("registry")
def test_a_kept_file_that_was_changed_is_not_used(sqlite_database: Database, tmp_path: Path, models_dir: Path) -> None:
    with sqlite_database.read() as session:
        choice = choose(session, None, None)
        assert in_force(session, DEFAULT_SLOT) == NAME
    other = (models_dir / "phantom-clean.onnx").read_bytes()
    (tmp_path / "kept" / f"{choice.classifier_sha256}.onnx").write_bytes(other)
    (tmp_path / "kept" / f"{choice.policy_sha256}.policy.json").write_bytes(
        (min(models_dir.glob("phantom-clean*.policy.json"))).read_bytes()
    )
    restarted = Registry(sqlite_database, tmp_path / "none", Examinations(tmp_path / "kept", Examiner()))
    with pytest.raises(ClassifierError, match="not the one"):
        restarted.classifier(choice.classifier_sha256)
    with pytest.raises(PolicyError, match="not the one"):
        restarted.policy(choice.policy_sha256)


def test_a_known_file_is_not_loaded_again_at_the_next_start(
    sqlite_database: Database, folder: Path, tmp_path: Path
) -> None:
    class Counting(Examiner):
        calls = 0

        def _opened(self, *given, **settings):
            Counting.calls += 1
            return super()._opened(*given, **settings)

    for _ in range(2):
        registry = Registry(sqlite_database, folder, Examinations(tmp_path / "kept", Counting()))
        registry.synchronise()
    assert Counting.calls == 1
    with sqlite_database.read() as session:
        assert registry.classifier(in_force(session, classifier_slot(NAME)) or "").card.name == NAME
    assert Counting.calls == 1  # what was derived is at hand under its hash


def test_whoever_names_what_is_in_force_has_chosen_nothing(
    sqlite_database: Database, registry: Registry, tmp_path: Path, folder: Path
) -> None:
    [kept] = folder.glob("*.policy.json")
    with sqlite_database.read() as session:
        [policy] = queries.policies(session)
    newer = tmp_path / "newer.policy.json"
    newer.write_text(json.dumps(json.loads(kept.read_text()) | {"created_at": "2026-12-01T00:00:00+00:00"}))
    other = registry.add_policy(newer, "test")
    assert other.name == policy.name
    with sqlite_database.read() as session:
        for classifier, named in ((None, None), (NAME, None), (None, policy.name), (NAME, policy.sha256)):
            choice = choose(session, classifier, named)
            assert (choice.policy_sha256, choice.chosen_by) == (policy.sha256, "in_force")
        assert choose(session, None, other.sha256).chosen_by == "named"
        assert choose(session, None, other.sha256).policy_sha256 == other.sha256


@pytest.mark.parametrize(
    ("chosen_by", "rule", "policy_in_force", "counts"),
    [
        ("in_force", None, True, True),
        ("in_force", None, False, False),
        ("rule", "ct", False, True),
        ("named", None, True, False),
        (None, None, True, True),  # from before it was kept
        (None, None, False, False),
        (None, "ct", False, True),
    ],
)
def test_what_counts_towards_a_release(
    sqlite_database: Database, registry: Registry, chosen_by: str | None, rule: str | None, policy_in_force: bool,
    counts: bool,
) -> None:  # fmt: skip
    with sqlite_database.read() as session:
        choice = choose(session, None, None)
    policy = choice.policy_sha256 if policy_in_force else ""
    job = JobRow(
        classifier_name=NAME, classifier_sha256=choice.classifier_sha256, policy_sha256=policy, rule=rule,
        chosen_by=chosen_by,
    )  # fmt: skip
    with sqlite_database.read() as session:
        assert counts_towards_release(session, job) is counts
    registry.retire_classifier(NAME, "test")
    with sqlite_database.read() as session:
        assert not counts_towards_release(session, job)


def warned(folder: Path) -> str:
    """The folder's policy, with a warning; its name."""
    [path] = folder.glob("*.policy.json")
    table = json.loads(path.read_bytes()) | {"name": "warned", "warnings": ["6 of 96 films stand apart"]}
    path.write_text(json.dumps(table))
    return "warned"


def test_a_policy_with_warnings_goes_into_force_only_for_a_reason(
    database: Database, folder: Path, tmp_path: Path
) -> None:
    name = warned(folder)
    registry = Registry(database, folder, Examinations(tmp_path / "kept", Examiner()))
    registry.synchronise()
    with database.read() as session:
        assert choose(session, NAME, None).policy_sha256 == ""
        [policy] = queries.policies(session)
    for reason in ("", "  "):
        with pytest.raises(WarnedPolicy):
            registry.activate_policy(NAME, name, "chief", reason)
    assert registry.activate_policy(NAME, name, "chief", "looked at all six: pacemakers") == policy.sha256
    registry.synchronise()
    with database.read() as session:
        assert choose(session, NAME, None).policy_sha256 == policy.sha256
        override = queries.override(session, policy.sha256)
        event = session.scalars(select(EventRow).where(EventRow.kind == "policy.activated")).one()
    assert override is not None
    assert (override.actor, override.despite_warnings) == ("chief", "looked at all six: pacemakers")
    assert (event.actor, event.payload["despite_warnings"]) == ("chief", "looked at all six: pacemakers")
    assert not [fault for fault in verify(database, "").faults if fault.place == policy_slot(policy.classifier_sha256)]


def test_a_reason_without_a_warning_is_not_kept(sqlite_database: Database, registry: Registry) -> None:
    with sqlite_database.read() as session:
        [policy] = queries.policies(session)
    registry.activate_policy(NAME, policy.name, "test", "no reason needed")
    with sqlite_database.read() as session:
        assert queries.override(session, policy.sha256) is None
