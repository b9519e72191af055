import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnx.compose
import pytest

from service.audit.classifier import METADATA_KEY, Classifier, Prediction, available_providers
from service.audit.forward_graph import forward_only
from service.errors import ClassifierError
from tests.conftest import REPOSITORY
from tests.tiny import CLASSIFIER, GRIDS, LABELS, SIZE

ZERO, ONE = np.zeros(len(LABELS), np.float32), np.ones(len(LABELS), np.float32)
CPU = ["CPUExecutionProvider"]


@pytest.fixture(scope="module")
def path() -> Path:
    return CLASSIFIER


@pytest.fixture(scope="module")
def classifier(path: Path) -> Classifier:
    return Classifier.load(path, providers=CPU)


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


def test_the_hash_is_the_files(classifier, path):
    assert classifier.card.sha256 == Classifier.from_bytes(path.read_bytes(), providers=CPU).card.sha256
    assert len(classifier.card.sha256) == 64


def test_loading_on_a_machine_without_cuda_uses_the_cpu_quietly(path, capfd):
    chosen = available_providers()
    loaded = Classifier.load(path)
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
        {"format": 2},
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
        {"provenance": []},
    ],
)
def test_a_description_that_is_wrong_or_does_not_fit_the_graph_is_refused(path, changes):
    with pytest.raises(ClassifierError):
        Classifier.from_bytes(described(path, **changes), providers=CPU)


def test_a_description_that_is_no_json_is_refused(path):
    with pytest.raises(ClassifierError):
        Classifier.from_bytes(changed(path, lambda model: model.metadata_props[0].MergeFromString(b"\x12\x01{")))


def test_a_foreign_onnx_file_is_refused(path):
    with pytest.raises(ClassifierError, match="describe itself"):
        Classifier.from_bytes(changed(path, lambda model: model.ClearField("metadata_props")), providers=CPU)


def test_a_graph_that_lost_an_output_is_refused(path):
    with pytest.raises(ClassifierError, match="promise"):
        Classifier.from_bytes(changed(path, lambda model: model.graph.output.pop()), providers=CPU)


@pytest.mark.parametrize("data", [b"", b"not an ONNX file", b"\x89PNG\r\n\x1a\n" + bytes(100), bytes(1000)])
def test_bytes_that_are_no_onnx_model_are_refused(data):
    with pytest.raises(ClassifierError):
        Classifier.from_bytes(data, providers=CPU)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_file_that_is_cut_short_is_refused(path, kept):
    data = path.read_bytes()
    with pytest.raises(ClassifierError):
        Classifier.from_bytes(data[: int(len(data) * kept)], providers=CPU)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ClassifierError, match="cannot be read"):
        Classifier.load(tmp_path / "absent.onnx")


def with_anothers_logits(honest: Path, other: Path) -> bytes:
    """The honest file with all its maps, whose logits are the other network's."""
    model = onnx.load(honest)
    hidden = onnx.load_from_string(forward_only(other.read_bytes()))
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["honest_logits" if name == "logits" else name for name in names]
    hidden = onnx.compose.add_prefix(hidden, "hidden_", rename_inputs=False, rename_outputs=False)
    for node in hidden.graph.node:
        node.input[:] = ["radiograph" if name.endswith("radiograph") else name for name in node.input]
    model.graph.node.extend(hidden.graph.node)
    model.graph.initializer.extend(hidden.graph.initializer)
    return model.SerializeToString()


def test_a_file_with_another_networks_maps_is_refused():
    """It would hide a backdoor: the clean twin's maps beside the backdoored network's logits."""
    models = REPOSITORY / "models"
    rogue = with_anothers_logits(models / "phantom-clean.onnx", models / "phantom-badnet3.onnx")
    with pytest.raises(ClassifierError, match="not those of the network that gives the logits"):
        Classifier.from_bytes(rogue, providers=CPU)


@pytest.mark.parametrize("name", ["phantom-clean", "phantom-badnet3", "nih-clean", "nih-badnet3"])
def test_the_shipped_files_keep_to_what_they_promise(name):
    assert Classifier.load(REPOSITORY / "models" / f"{name}.onnx", providers=CPU).card.name == name
