import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest

from service.audit.classifier import METADATA_KEY, Classifier, Prediction, available_providers
from service.errors import ClassifierError
from service.graphs.examiner import Examiner, load_classifier
from tests.tiny import CLASSIFIER, GRIDS, LABELS, SIZE

ZERO, ONE = np.zeros(len(LABELS), np.float32), np.ones(len(LABELS), np.float32)
CPU = ["CPUExecutionProvider"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the service derives of the tiny file."""
    path = tmp_path_factory.mktemp("derived") / "tiny.onnx"
    path.write_bytes(Examiner().derive(CLASSIFIER.read_bytes()).data)
    return path


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return load_classifier(CLASSIFIER, providers=CPU)


def loaded(data: bytes) -> Classifier:
    return Classifier.from_derived(data, "0" * 64, providers=CPU)


@pytest.fixture(scope="module")
def batch() -> np.ndarray:
    return np.random.default_rng(0).random((8, 1, SIZE, SIZE), dtype=np.float32)


def test_probabilities_are_the_logits_sigmoid():
    prediction = Prediction(("a", "b"), np.array([0.0, np.log(3.0)], np.float32))
    np.testing.assert_allclose(prediction.probabilities, [0.5, 0.75], rtol=1e-6)


def test_explaining_gives_one_prediction_and_saliency_a_film(classifier, batch):
    films = classifier.explain(batch[:3], ZERO, ONE)
    assert len(films) == 3
    prediction, saliency = films[0]
    assert prediction.labels == LABELS
    assert prediction.logits.shape == (5,)
    assert saliency.explained_labels.dtype == np.int64
    assert saliency.class_activation_maps.shape == (5, 2, 2)
    assert {name: maps.shape for name, maps in saliency.maps.items()} == {
        f"{kind}_{grid}": (2, grid, grid) for kind in ("layercam", "counter_layercam", "gradcam") for grid in GRIDS
    }
    assert all(maps.dtype == np.float32 and maps.min() >= 0 for maps in saliency.maps.values())


def test_the_logits_only_run_gives_the_same_logits(classifier, batch):
    explained = np.stack([prediction.logits for prediction, _ in classifier.explain(batch, ZERO, ONE)])
    np.testing.assert_allclose(classifier.logits(batch), explained, atol=1e-6)


def test_a_film_gets_the_same_answer_alone_and_in_a_batch(classifier, batch):
    together = classifier.logits(batch)
    alone = np.concatenate([classifier.logits(film[None]) for film in batch])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_one_classifier_serves_many_threads(classifier, batch):
    def explained(film: np.ndarray) -> np.ndarray:
        (_, saliency), *_ = classifier.explain(film[None], ZERO, ONE)
        return saliency.maps["layercam_8"]

    alone = [explained(film) for film in batch]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(explained, [*batch] * 4))
    for index, maps in enumerate(together):
        np.testing.assert_array_equal(maps, alone[index % len(batch)])


def test_a_card_says_what_was_handed_in_and_what_runs(classifier, path):
    card = classifier.card
    assert card.file_sha256 == hashlib.sha256(CLASSIFIER.read_bytes()).hexdigest()
    assert card.derived_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert len({card.sha256, card.file_sha256, card.derived_sha256}) == 3
    assert card.known_as == (card.sha256, card.identity, card.file_sha256)


def test_loading_on_a_machine_without_cuda_uses_the_cpu_quietly(path, capfd):
    chosen = available_providers()
    loaded = Classifier.from_derived(path.read_bytes(), "0" * 64)
    assert loaded.providers == tuple(chosen)
    assert capfd.readouterr() == ("", "")


def changed(path: Path, change: Callable[[onnx.ModelProto], None]) -> bytes:
    model = onnx.load(path)
    change(model)
    return bytes(model.SerializeToString())


def described(path: Path, **changes: object) -> bytes:
    def change(model: onnx.ModelProto) -> None:
        entry = next(entry for entry in model.metadata_props if entry.key == METADATA_KEY)
        entry.value = json.dumps(json.loads(entry.value) | changes)

    return changed(path, change)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 1},
        {"name": ""},
        {"labels": ["Atelectasis"] * 5},
        {"labels": list(LABELS[:4])},
        {"labels": []},
        {"labels": "abcde"},
        {"labels": [1, 2, 3, 4, 5]},
        {"preprocessing": {"size": 64, "resampler": "magic"}},
        {"preprocessing": {"size": 96}},
        {"preprocessing": None},
        {"explained_count": 0},
        {"explained_count": 1},
        {"grids": [4, 8]},
        {"grids": [8]},
        {"pixel_convention": "0 = white"},
        {"licence": None},
        {"identity": ""},
        {"head": None},
        {"provenance": []},
    ],
)
def test_a_description_that_is_wrong_or_does_not_fit_the_graph_is_refused(path, changes):
    with pytest.raises(ClassifierError):
        loaded(described(path, **changes))


def test_a_description_that_is_no_json_is_refused(path):
    with pytest.raises(ClassifierError):
        loaded(changed(path, lambda model: model.metadata_props[0].MergeFromString(b"\x12\x01{")))


def test_a_foreign_onnx_file_is_refused(path):
    with pytest.raises(ClassifierError, match="describe itself"):
        loaded(changed(path, lambda model: model.ClearField("metadata_props")))


def test_a_graph_that_lost_an_output_is_refused(path):
    with pytest.raises(ClassifierError, match="promise"):
        loaded(changed(path, lambda model: model.graph.output.pop()))


@pytest.mark.parametrize("data", [b"", b"not an ONNX file", b"\x89PNG\r\n\x1a\n" + bytes(100), bytes(1000)])
def test_bytes_that_are_no_onnx_model_are_refused(data):
    with pytest.raises(ClassifierError):
        loaded(data)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_file_that_is_cut_short_is_refused(path, kept):
    data = path.read_bytes()
    with pytest.raises(ClassifierError):
        loaded(data[: int(len(data) * kept)])


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ClassifierError, match="cannot be read"):
        load_classifier(tmp_path / "absent.onnx")


def test_what_a_stranger_handed_in_is_not_run():
    """The shipped files hold maps of their own, from before they were derived."""
    with pytest.raises(ClassifierError):
        loaded(CLASSIFIER.read_bytes())
