import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from pytorch_grad_cam import GradCAM, LayerCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from service.audit.classifier import METADATA_KEY, Classifier
from service.audit.preprocessing import Preprocessing
from service.errors import ClassifierError
from service.graphs.examiner import Examiner, load_classifier
from service.graphs.reading import OPERATORS
from tests.conftest import REPOSITORY
from tests.tiny import GRIDS, LABELS, SIZE
from tests.training.banded import banded, trained_tiny
from training.networks.densenet import build
from training.networks.export import (
    DENSENET_BLOCKS,
    ExportError,
    autograd_maps,
    check_batch,
    export,
    storable,
    verify,
)
from training.networks.tiny import TinyClassifier, export_tiny

ZERO, ONE = np.zeros(len(LABELS), np.float32), np.ones(len(LABELS), np.float32)


@pytest.fixture(scope="module")
def trained() -> TinyClassifier:
    return trained_tiny()


@pytest.fixture(scope="module")
def path(trained: TinyClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny.onnx"
    export_tiny(trained, path)
    return path


@pytest.fixture(scope="module")
def exported(path: Path) -> Classifier:
    return load_classifier(path)


@pytest.fixture(scope="module")
def batch() -> np.ndarray:
    torch.manual_seed(2)
    return banded(3)[0].numpy()


@pytest.mark.parametrize("film_count", [1, 3])
def test_maps_equal_autograd_for_any_batch_size(trained, exported, batch, film_count):
    films = exported.explain(batch[:film_count], ZERO, ONE)
    explained = torch.from_numpy(np.stack([saliency.explained_labels for _, saliency in films]))
    logits, maps = autograd_maps(storable(trained), DENSENET_BLOCKS, torch.from_numpy(batch[:film_count]), explained)
    got = np.stack([prediction.logits for prediction, _ in films])
    np.testing.assert_allclose(got, logits.numpy(), atol=1e-5)
    assert set(maps) == set(films[0][1].maps)
    for name, want in maps.items():
        got = np.stack([saliency.maps[name] for _, saliency in films])
        assert got.shape == want.shape == (film_count, 2, *[int(name.rsplit("_", 1)[1])] * 2)
        assert np.abs(got - want.numpy()).sum() <= 1e-3 * want.sum()


@pytest.mark.parametrize(("method", "name"), [(LayerCAM, "layercam"), (GradCAM, "gradcam")])
@pytest.mark.parametrize(("block", "grid"), list(zip(DENSENET_BLOCKS, GRIDS, strict=True)))
def test_maps_equal_pytorch_grad_cam_before_its_scaling(trained, exported, batch, method, name, block, grid):
    network = storable(trained)
    films = exported.explain(batch, ZERO, ONE)
    got = np.concatenate([saliency.maps[f"{name}_{grid}"] for _, saliency in films])
    explained = [(film, int(label)) for film, (_, saliency) in enumerate(films) for label in saliency.explained_labels]
    want = np.stack([unscaled(method, network, block, batch[film, None], label) for film, label in explained])
    assert want.max() > 0
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3 * want.max())


def unscaled(method, network: nn.Module, block: str, film: np.ndarray, label: int) -> np.ndarray:
    """pytorch-grad-cam's map of one film and label at the block's own grid."""
    layer, target = network.get_submodule(block), ClassifierOutputTarget(label)
    radiograph = torch.from_numpy(film).requires_grad_()
    with method(model=network, target_layers=[layer]) as cam:
        hooked = cam.activations_and_grads
        target(hooked(radiograph)[0]).backward()
        activations, gradients = hooked.activations[0].numpy(), hooked.gradients[0].numpy()
        raw = cam.get_cam_image(radiograph, layer, [target], activations, gradients, eigen_smooth=False)
    return np.maximum(raw[0], 0)  # as BaseCAM.compute_cam_per_layer does before it scales


def test_the_mean_of_a_class_activation_map_plus_its_bias_is_the_logit(trained, exported, batch):
    bias = trained.network.classifier.bias.detach().numpy()
    for prediction, saliency in exported.explain(batch, ZERO, ONE):
        means = saliency.class_activation_maps.mean(axis=(1, 2))
        np.testing.assert_allclose(means + bias, prediction.logits, atol=1e-5)


def test_explained_labels_have_the_largest_excess_over_centre_in_units_of_scale(exported, batch):
    centre = np.array([0, 5, -5, 0, 0], np.float32)
    scale = np.array([1, 1, 1, 0.01, 10], np.float32)
    for prediction, saliency in exported.explain(batch, centre, scale):
        order = np.argsort(-(prediction.logits - centre) / scale)
        assert saliency.explained_labels.tolist() == order[:2].tolist()


def test_a_policy_changes_the_explained_labels_and_their_maps_only(exported, batch):
    (plain, first), *_ = exported.explain(batch, ZERO, ONE)
    last = int(np.argmin(plain.logits))
    centre = np.where(np.arange(len(LABELS)) == last, -100, 0).astype(np.float32)
    (same, second), *_ = exported.explain(batch, centre, ONE)
    assert second.explained_labels.tolist() == [last, int(first.explained_labels[0])]
    np.testing.assert_array_equal(same.logits, plain.logits)
    np.testing.assert_allclose(second.maps["layercam_8"][1], first.maps["layercam_8"][0], rtol=1e-5, atol=1e-7)


def test_the_files_card_holds_what_was_exported(exported):
    card = exported.card
    assert (card.name, card.labels, card.explained_count, card.grids) == ("tiny", LABELS, 2, GRIDS)
    assert card.preprocessing == Preprocessing(size=SIZE)
    assert card.provenance == {"dataset": "phantoms", "made_by": "triggerscope-train tiny"}


def test_weights_are_stored_as_float16_and_change_logits_little(trained, exported, path, batch):
    stored = {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}
    weights = [tensor for tensor in stored.values() if len(tensor.dims) == 4 and tensor.dims[-1] > 1]
    assert weights
    assert {tensor.data_type for tensor in weights} == {TensorProto.FLOAT16}
    with torch.no_grad():
        unrounded = trained(torch.from_numpy(batch)).numpy()
    assert np.abs(exported.logits(batch) - unrounded).max() < 0.02


def test_the_file_is_a_plain_forward_graph(path):
    graph = onnx.load(path).graph
    assert [item.name for item in (*graph.input, *graph.output)] == ["radiograph", "logits"]
    assert {node.op_type for node in graph.node} <= set(OPERATORS)


def test_the_file_names_no_path_of_the_machine_that_made_it(path):
    model = onnx.load(path)
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert str(REPOSITORY).encode() not in path.read_bytes()


def test_the_same_weights_make_the_same_bytes(trained, path, tmp_path):
    again = tmp_path / "again.onnx"
    export_tiny(trained, again)
    assert again.read_bytes() == path.read_bytes()
    assert METADATA_KEY in {entry.key for entry in onnx.load(again).metadata_props}


def test_preparing_the_stored_weights_does_not_change_the_network(trained):
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    storable(trained)
    assert all(torch.equal(before[name], value) for name, value in trained.state_dict().items())


def test_another_networks_export_is_refused(exported):
    with pytest.raises(ExportError, match="logits"):
        verify(exported, storable(trained_tiny(seed=1, steps=1)), DENSENET_BLOCKS)


def test_maps_that_differ_are_refused(path, trained):
    model = onnx.load_model_from_string(Examiner().derive(path.read_bytes()).data)
    split = next(node for node in model.graph.node if node.op_type == "HardSigmoid")
    next(attribute for attribute in split.attribute if attribute.name == "alpha").f = 0.0
    with pytest.raises(ExportError, match="layercam"):
        verify(Classifier.from_derived(model.SerializeToString(), ""), storable(trained), DENSENET_BLOCKS)


def test_other_layers_than_the_service_explains_are_refused(exported, trained):
    with pytest.raises(ExportError, match="other layers"):
        verify(exported, storable(trained), ["network.features.denseblock1", "network.features.denseblock3"])


def test_a_weight_beyond_float16_is_refused(trained):
    broken = storable(trained)
    with torch.no_grad():
        broken.get_submodule("network.classifier").weight[0, 0] = 1e6
    with pytest.raises(ExportError, match="float16"):
        storable(broken)


def test_a_network_that_the_service_refuses_is_not_written(tmp_path):
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Conv2d(1, len(LABELS), 3)

        def forward(self, radiograph):
            return torch.tanh(self.block(radiograph)).mean((2, 3))

    path = tmp_path / "gated.onnx"
    with pytest.raises(ClassifierError, match="Tanh"):
        export(
            Gated(),
            path,
            name="gated",
            labels=LABELS,
            preprocessing=Preprocessing(size=SIZE),
            licence="none",
            provenance={},
            explained_blocks=["block"],
        )
    assert not path.exists()


def test_the_small_densenet_at_224_has_grids_of_28_and_14_cells(tmp_path):
    labels = [f"label {index}" for index in range(14)]
    card = export(
        build("small", len(labels), seed=0),
        tmp_path / "small.onnx",
        name="small",
        labels=labels,
        preprocessing=Preprocessing(),
        licence="Apache-2.0",
        provenance={},
    )
    assert card.grids == (28, 14)
    described = json.loads(onnx.load(tmp_path / "small.onnx").metadata_props[0].value)
    assert (described["explained_count"], described["head"]) == (1, "sigmoid")


def test_the_check_batch_is_a_batch_of_model_inputs():
    batch = check_batch(SIZE)
    assert batch.shape == (2, 1, SIZE, SIZE)
    assert batch.dtype == np.float32
    assert batch.min() >= 0
    assert batch.max() == 1
