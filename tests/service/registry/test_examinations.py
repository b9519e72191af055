"""What becomes of registered files under another examiner, and which files are the same classifier."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from sqlalchemy import update

from service.audit import pipeline
from service.errors import ClassifierError
from service.films.radiograph import Decoder
from service.graphs.description import Description, description_of
from service.graphs.examiner import ExaminationStopped, Examiner, load_classifier
from service.graphs.protocol import EXAMINER_VERSION
from service.ledger.signing import Signer, is_signed
from service.records import queries
from service.records.chain import canonical
from service.records.session import Database
from service.records.tables import ClassifierRow
from service.registry.examinations import PENDING, Examinations, require_same_answers
from service.registry.registry import Registry, choose, classifier_slot, in_force, policy_slot, waiting_versions
from tests.conftest import REPOSITORY
from tests.service.registry.earlier import (
    install,
    sha256,
    tiny,
    with_a_transposed_layer,
    with_anothers_logits,
    written_by_another,
)
from tests.service.serving import png
from tests.tiny import CLASSIFIER


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "kept"


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer.open(tmp_path)


@pytest.fixture
def reopened(database: Database, tmp_path: Path, store: Path, signer: Signer) -> Callable[[], Registry]:
    """The registry as a process has it after its start."""

    def open_registry() -> Registry:
        return Registry(database, tmp_path / "models", Examinations(store, Examiner(), signer.sign))

    return open_registry


def row_of(database: Database, key: str) -> ClassifierRow:
    with database.read() as session:
        return queries.registered_classifier(session, key)


def kinds(database: Database, subject: str) -> list[str]:
    with database.read() as session:
        return [event.kind for event in queries.events_about(session, subject)]


def test_an_honest_file_goes_on_under_its_key_with_its_policy(
    database: Database, store: Path, reopened: Callable[[], Registry], signer: Signer
) -> None:
    data = written_by_another()
    policy, key = install(database, store, data), sha256(data)
    registry = reopened()
    registry.synchronise()
    row = row_of(database, key)
    assert (row.refusal, row.examiner, row.file_sha256) == (None, EXAMINER_VERSION, key)
    assert row.identity == Examiner().derive(CLASSIFIER.read_bytes()).identity
    assert kinds(database, key) == ["classifier.examined_again"]
    assert is_signed(canonical(row.report or {}), row.report_signature or "", signer.public_pem)
    with database.read() as session:
        assert choose(session, None, None).policy_sha256 == policy.sha256
    classifier = registry.classifier(key)
    with Decoder(1) as decoder:
        film = decoder.decode(png(1))
    now = pipeline.audit_radiograph(film, classifier, registry.policy(policy.sha256))
    offline = load_classifier(store / f"{key}.onnx")
    before = pipeline.audit_radiograph(film, offline, registry.policy(policy.sha256))
    assert (now.score, now.verdict, now.p_value) == (before.score, before.verdict, before.p_value)


def test_a_file_with_maps_of_another_network_loses_its_policy(
    database: Database, store: Path, reopened: Callable[[], Registry]
) -> None:
    data = with_anothers_logits()
    policy, key = install(database, store, data), sha256(data)
    reopened().synchronise()
    with database.read() as session:
        assert in_force(session, policy_slot(key)) is None
        assert in_force(session, classifier_slot("tiny")) == key
        [event] = [e for e in queries.events_about(session, policy_slot(key)) if e.kind == "policy.out_of_force"]
    assert "differ by" in event.payload["reason"]
    assert row_of(database, key).refusal is None
    assert policy.sha256


def test_a_file_that_is_refused_now_says_so_and_is_tried_again(
    database: Database, store: Path, reopened: Callable[[], Registry]
) -> None:
    data = with_a_transposed_layer()
    install(database, store, data)
    key = sha256(data)
    registry = reopened()
    for _ in range(2):
        registry.synchronise()
    sentence = row_of(database, key).refusal or ""
    assert "Transpose" in sentence
    assert kinds(database, key) == ["classifier.refused"]
    with database.read() as session:
        assert list(waiting_versions(session)) == ["tiny"]
    for use in (lambda: registry.classifier(key), lambda: registry.activate_classifier("tiny", None, "test")):
        with pytest.raises(ClassifierError, match="Transpose"):
            use()


def test_a_kept_file_that_was_changed_is_refused_and_heals_by_handing_it_in_again(
    database: Database, store: Path, reopened: Callable[[], Registry]
) -> None:
    data = written_by_another()
    install(database, store, data)
    key = sha256(data)
    kept = store / f"{key}.onnx"
    kept.write_bytes(data + b"\x00")
    registry = reopened()
    registry.synchronise()
    assert row_of(database, key).refusal == "The kept file is not the one that was registered."
    kept.write_bytes(data)
    registry.synchronise()
    assert row_of(database, key).refusal is None
    assert kinds(database, key) == ["classifier.refused", "classifier.examined_again"]


def test_what_a_newer_examiner_has_not_seen_waits_until_it_has(
    database: Database, reopened: Callable[[], Registry]
) -> None:
    registry = reopened()
    row = registry.add_classifier(written_by_another(), "test").row
    registry.activate_classifier("tiny", None, "test")
    with database.write() as unit:
        unit.session.execute(update(ClassifierRow).values(examiner="0.9"))
    registry = reopened()
    with pytest.raises(ClassifierError, match="examined again"):
        registry.classifier(row.sha256)
    registry.synchronise(only_quick=True)
    with database.read() as session:
        assert waiting_versions(session)["tiny"].refusal is None
    registry.synchronise()
    now = row_of(database, row.sha256)
    assert (now.examiner, now.identity, now.derived_sha256) == (EXAMINER_VERSION, row.identity, row.derived_sha256)
    assert kinds(database, row.sha256) == ["classifier.added", "classifier.examined_again"]
    assert PENDING.endswith("examined again.")


def test_the_end_of_the_service_refuses_nothing(
    database: Database, store: Path, reopened: Callable[[], Registry]
) -> None:
    data = written_by_another()
    install(database, store, data)
    registry = reopened()
    registry.close()
    with pytest.raises(ExaminationStopped):
        registry.synchronise()
    row = row_of(database, sha256(data))
    assert (row.refusal, row.examiner) == (None, None)
    assert kinds(database, row.sha256) == []


def described(data: bytes, **changes: object) -> Description:
    said = {item.key: item.value for item in onnx.load_from_string(data).metadata_props}["triggerscope"]
    return description_of(json.dumps(json.loads(said) | changes))


def renamed() -> bytes:
    """Other names for all tensors, and no maps."""
    model = tiny()
    names = {name for node in model.graph.node for name in (*node.input, *node.output)} - {"", "radiograph", "logits"}
    other = {name: f"t{number}" for number, name in enumerate(sorted(names))}
    for node in model.graph.node:
        for part in (node.input, node.output):
            part[:] = [other.get(name, name) for name in part]
    for tensor in (*model.graph.initializer, *model.graph.input, *model.graph.output, *model.graph.value_info):
        tensor.name = other.get(tensor.name, tensor.name)
    kept = [output for output in model.graph.output if output.name == "logits"]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    return bytes(model.SerializeToString())


def test_one_graph_is_one_classifier_whoever_wrote_the_file(
    sqlite_database: Database, tmp_path: Path, store: Path
) -> None:
    registry = Registry(sqlite_database, tmp_path / "models", Examinations(store, Examiner()))
    first = registry.add_classifier(CLASSIFIER.read_bytes(), "test")
    assert first.is_new
    for data in (CLASSIFIER.read_bytes(), written_by_another(), renamed()):
        again = registry.add_classifier(data, "test")
        assert (again.is_new, again.row.sha256) == (False, first.row.sha256)
    labels = ["One", "Two", "Three", "Four", "Five"]
    other = registry.add_classifier(renamed(), "test", described(CLASSIFIER.read_bytes(), labels=labels))
    assert other.is_new
    assert other.row.sha256 != first.row.sha256
    registry.activate_classifier("tiny", other.row.sha256, "test")
    assert registry.classifier(other.row.sha256).card.labels == tuple(labels)
    film = np.zeros((1, 1, 64, 64), np.float32)
    both = [registry.classifier(key).logits(film) for key in (first.row.sha256, other.row.sha256)]
    np.testing.assert_array_equal(*both)


def test_why_a_file_is_refused_is_kept_once(sqlite_database: Database, tmp_path: Path, store: Path) -> None:
    registry = Registry(sqlite_database, tmp_path / "models", Examinations(store, Examiner()))
    data = with_a_transposed_layer()
    for _ in range(2):
        with pytest.raises(ClassifierError, match="Transpose"):
            registry.add_classifier(data, "test")
    with sqlite_database.read() as session:
        [event] = queries.events_about(session, sha256(data))
    assert (event.kind, event.actor) == ("classifier.upload_refused", "test")
    assert "Transpose" in event.payload["reason"]
    assert not (store / f"{sha256(data)}.onnx").exists()


def test_answers_on_a_device_are_held_beside_the_processors() -> None:
    """No device is here; two classifiers that answer otherwise stand for one that computes otherwise."""
    files = [REPOSITORY / "models" / f"{name}.onnx" for name in ("phantom-clean", "phantom-badnet3")]
    one, other = map(load_classifier, files)
    require_same_answers(one, one)
    with pytest.raises(ClassifierError, match="gives other logits than the processor"):
        require_same_answers(one, other)
