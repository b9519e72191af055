"""Third parties' classifiers: the three that the issue names, the small print of each form, and clear refusals."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torchvision
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import nn
from training.networks.explain_graph import ExportError

from service.__main__ import main as triggerscope
from service.audit.preprocessing import Preprocessing
from service.graphs.examiner import load_classifier
from training.__main__ import main
from training.networks.export import Description
from training.networks.instrument import NORMALISATIONS, Normalisation, instrument
from training.networks.onnx_network import Concat, explained_layer, read_network
from training.networks.tiny import TinyClassifier

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / "light_densenet121.onnx"
FILM = Path("models/examples/clean-910000.png")
IMAGENET = Normalisation(*NORMALISATIONS["imagenet"])
RNG = np.random.default_rng(0)


def options(out: Path, labels: str, size: int = 224, normalisation: str = "imagenet") -> list[str]:
    return [
        "--out", str(out), "--labels", labels, "--size", str(size), "--resampler", "bilinear", "--crop", "1",
        "--normalisation", normalisation, "--air", "black", "--licence", "unknown",
    ]  # fmt: skip


def audited(classifier: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    capsys.readouterr()
    assert triggerscope(["audit", str(FILM), "--classifier", str(classifier), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def labels_of(count: int) -> list[str]:
    return [f"label {index}" for index in range(count)]


def described(count: int, size: int) -> Description:
    return Description("other", labels_of(count), Preprocessing(size=size), "unknown", {"from": "a test"})


def exported(network: nn.Module, path: Path, size: int, channels: int = 3, **changes: object) -> Path:
    """A plain export, as a third party would make it, with a fixed batch."""
    settings = {"dynamo": True, "verbose": False, "external_data": False} | changes
    torch.onnx.export(network.eval(), (torch.rand(1, channels, size, size),), path, **settings)
    return path


# --- The three of the issue ------------------------------------------------------------------------------------------


def test_onnxs_light_densenet121(tmp_path, capsys):
    labels, out = tmp_path / "labels.txt", tmp_path / "light.onnx"
    labels.write_text("\n".join(labels_of(1000)) + "\n")
    assert main(["instrument", str(LIGHT), *options(out, str(labels))]) == 0
    printed = capsys.readouterr().out
    assert "logits against the original file" in printed
    assert "layercam_28 against autograd" in printed
    found = audited(out, capsys)
    assert found["verdict"] == "indeterminate"  # no policy yet
    assert len(found["probabilities"]) == 1000


def test_a_fresh_resnet50(tmp_path, capsys):
    torch.manual_seed(0)
    original = exported(torchvision.models.resnet50(num_classes=3), tmp_path / "resnet50.onnx", 64)
    out = tmp_path / "out.onnx"
    assert main(["instrument", str(original), *options(out, "A,B,C", size=64)]) == 0
    assert "logits against the original file" in capsys.readouterr().out
    card = load_classifier(out).card
    assert (card.grids, card.labels) == ((8, 4), ("A", "B", "C"))
    assert set(audited(out, capsys)["probabilities"]) == {"A", "B", "C"}


@pytest.mark.parametrize("form", ["checkpoint", "onnx"])
def test_a_fresh_densenet169(tmp_path, capsys, form):
    """At 64 px to save time: its explained layers then have 8 and 4 cells."""
    torch.manual_seed(0)
    network = torchvision.models.densenet169(num_classes=3).eval()
    original = tmp_path / ("densenet169.pt" if form == "checkpoint" else "densenet169.onnx")
    if form == "onnx":
        exported(network, original, 64)
    else:
        torch.save(network.state_dict(), original)
    out = tmp_path / "out.onnx"
    assert main(["instrument", str(original), *options(out, "A,B,C", size=64)]) == 0
    classifier = load_classifier(out)
    assert classifier.card.grids == (8, 4)
    film = RNG.random((2, 1, 64, 64), dtype=np.float32)
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in NORMALISATIONS["imagenet"])
    with torch.no_grad():
        want = network((torch.from_numpy(film) - mean) / std).numpy()
    np.testing.assert_allclose(classifier.logits(film), want, atol=1e-4)
    assert set(audited(out, capsys)["probabilities"]) == {"A", "B", "C"}


# --- Checkpoints in other wrappings ----------------------------------------------------------------------------------


def tiny_checkpoint(path: Path, **wrapping: object) -> tuple[TinyClassifier, Path]:
    torch.manual_seed(1)
    tiny = TinyClassifier().eval()
    torch.save(wrapping.get("wrap", lambda weights: weights)(tiny.network.state_dict()), path)
    return tiny, path


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: {"epoch": 3, "state_dict": {f"module.densenet121.{k}": v for k, v in weights.items()}},
        lambda weights: {
            "module." + k.replace("classifier.", "classifier.0.").replace("norm1.", "norm.1."): v
            for k, v in weights.items()
        },
    ],
    ids=["data parallel", "old names"],
)
def test_a_grey_checkpoint_in_a_wrapping(tmp_path, wrap):
    tiny, path = tiny_checkpoint(tmp_path / "tiny.pt", wrap=wrap)
    out = tmp_path / "out.onnx"
    made = instrument(path, out, described(5, 64), Normalisation((0.5,), (0.25,)))
    assert made.parity["original"] < 1e-5
    film = RNG.random((2, 1, 64, 64), dtype=np.float32)
    with torch.no_grad():
        np.testing.assert_allclose(load_classifier(out).logits(film), tiny(torch.from_numpy(film)).numpy(), atol=1e-5)


def test_films_with_white_air_are_turned_round(tmp_path):
    tiny, path = tiny_checkpoint(tmp_path / "tiny.pt")
    instrument(path, tmp_path / "out.onnx", described(5, 64), Normalisation((0.5,), (0.25,), air_white=True))
    film = RNG.random((1, 1, 64, 64), dtype=np.float32)
    with torch.no_grad():
        want = tiny(torch.from_numpy(1 - film)).numpy()
    np.testing.assert_allclose(load_classifier(tmp_path / "out.onnx").logits(film), want, atol=1e-5)


def test_named_layers_are_explained(tmp_path):
    _, path = tiny_checkpoint(tmp_path / "tiny.pt")
    explained = ["features.denseblock1", "features.denseblock3"]
    made = instrument(path, tmp_path / "out.onnx", described(5, 64), Normalisation((0.5,), (0.25,)), explained)
    assert made.card.grids == (16, 4)


# --- ONNX in other forms ---------------------------------------------------------------------------------------------


class Plain(nn.Module):
    """Two stages without branches; `ending` makes the logits from the last maps (N, 8, 4, 4)."""

    def __init__(self, ending: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, stride=4, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.body = nn.Sequential(
            nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(8, 8, 1), nn.ReLU()
        )
        self.ending = ending

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.ending(self.body(self.stem(pixels)))


class MatrixHead(nn.Module):
    """A mean, a matrix product and a sum, as Keras' converters write a dense layer; then a sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(8, 3)), nn.Parameter(torch.randn(3))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(maps.mean((2, 3)) @ self.weight + self.bias)


def pooled(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *layers)


@pytest.mark.parametrize(
    ("ending", "opset"),
    [
        (lambda: pooled(nn.Linear(8, 3)), 20),
        (lambda: nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(8, 3, 1), nn.Flatten()), 20),
        (lambda: pooled(nn.Linear(8, 3), nn.Sigmoid()), 18),
        (MatrixHead, 20),
    ],
    ids=["gemm", "average pool and 1x1 convolution", "sigmoid", "matrix product, sum and sigmoid"],
)
def test_heads_of_several_forms(tmp_path, ending, opset):
    torch.manual_seed(2)
    original = exported(Plain(ending()), tmp_path / "plain.onnx", 64, channels=1, opset_version=opset)
    out = tmp_path / "out.onnx"
    made = instrument(original, out, described(3, 64), Normalisation((0.0,), (1.0,)))
    assert made.card.grids == (8, 4)
    film = RNG.random((1, 1, 64, 64), dtype=np.float32)
    session = onnxruntime.InferenceSession(original, providers=["CPUExecutionProvider"])
    want = session.run(None, {session.get_inputs()[0].name: film})[0].reshape(1, 3)
    got = load_classifier(out).logits(film)
    sigmoid = any("sigmoid" in note for note in made.notes)
    np.testing.assert_allclose(1 / (1 + np.exp(-got)) if sigmoid else got, want, atol=1e-5)


def test_factors_and_summands_of_channels_are_read():
    """Batch norm, then Mul and Add with a number a channel, as Caffe2 wrote its scale layers."""
    weight, scale, shift = (RNG.random(shape).astype(np.float32) for shape in ((6, 1, 3, 3), (6, 1, 1), (1, 6, 1, 1)))
    norm = [RNG.random(6).astype(np.float32) + 0.5 for _ in range(4)]
    head, bias = RNG.random((6, 2)).astype(np.float32), RNG.random(2).astype(np.float32)
    stored = {"weight": weight, "scale": scale, "shift": shift, "head": head, "bias": bias}
    stored |= {f"norm{index}": values for index, values in enumerate(norm)}
    nodes = [
        helper.make_node("Conv", ["x", "weight"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", *(f"norm{index}" for index in range(4))], ["b"]),
        helper.make_node("Mul", ["b", "scale"], ["c"]),
        helper.make_node("Add", ["shift", "c"], ["d"]),
        helper.make_node("Relu", ["d"], ["e"]),
        helper.make_node("GlobalAveragePool", ["e"], ["f"]),
        helper.make_node("Flatten", ["f"], ["g"]),
        helper.make_node("Gemm", ["g", "head", "bias"], ["y"]),
    ]
    model = graph_of(nodes, stored, size=16)
    film = RNG.random((1, 1, 16, 16), dtype=np.float32)
    want = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        got = read_network(model, 16)(torch.from_numpy(film)).numpy()
    np.testing.assert_allclose(got, want.run(None, {"x": film})[0], rtol=1e-4)


def graph_of(nodes: list[onnx.NodeProto], stored: dict[str, np.ndarray], size: int, channels: int = 1) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", channels, size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values, name) for name, values in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_the_explained_layers_are_those_that_end_the_blocks():
    """torchvision's own names for the same layers are denseblock2 and denseblock3."""
    network = read_network(onnx.load(LIGHT), 224)
    for side, channels in ((28, 512), (14, 1024)):
        layer = explained_layer(network, side)
        assert isinstance(network.layers[layer], Concat)
        step = next(step for step in network.steps if step.layer == layer)
        with torch.no_grad():
            found = Until(network, step.makes)(torch.rand(1, 3, 224, 224))
        assert found.shape == (1, channels, side, side)


class Until(nn.Module):
    """A read network up to one of its tensors."""

    def __init__(self, network: nn.Module, tensor: str) -> None:
        super().__init__()
        self.network, self.tensor = network, tensor

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        values = {self.network.input_name: pixels}
        for step in self.network.steps:
            values[step.makes] = self.network.layers[step.layer](*(values[name] for name in step.reads))
            if step.makes == self.tensor:
                break
        return values[self.tensor]


# --- Refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        (lambda: pooled(nn.Linear(8, 3), nn.Softmax(dim=1)), "softmax"),
        (lambda: pooled(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)), "global average pooling and one linear layer"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(128, 3)), "global average pooling"),
        (lambda: nn.Sequential(nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)), "Tanh"),
    ],
    ids=["softmax", "two layers", "no pooling", "unknown operator"],
)
def test_other_endings_are_refused_with_the_reason(tmp_path, ending, reason):
    original = exported(Plain(ending()), tmp_path / "plain.onnx", 64, channels=1)
    with pytest.raises(ExportError, match=reason):
        instrument(original, tmp_path / "out.onnx", described(3, 64), Normalisation((0.0,), (1.0,)))
    assert not (tmp_path / "out.onnx").exists()


def test_a_maximum_pool_behind_an_explained_layer_is_refused(tmp_path):
    original = exported(Plain(pooled(nn.Linear(8, 3))), tmp_path / "plain.onnx", 64, channels=1)
    network = read_network(onnx.load(original), 64)
    first = next(step.makes for step in network.steps if "Relu" in step.layer)
    normalisation = Normalisation((0.0,), (1.0,))
    with pytest.raises(ExportError, match="MaxPool"):
        instrument(original, tmp_path / "out.onnx", described(3, 64), normalisation, [first])


def test_what_does_not_fit_is_refused_on_one_line(tmp_path, capsys):
    _, path = tiny_checkpoint(tmp_path / "tiny.pt")
    (tmp_path / "not.onnx").write_bytes(b"not a model")
    torch.save({"layer1.0.conv1.weight": torch.zeros(3)}, tmp_path / "resnet.pt")
    torch.save(TinyClassifier(), tmp_path / "pickled.pt")
    grey = options(tmp_path / "out.onnx", "A,B,C,D,E", 64, "0.5/0.25")
    cases = {
        "5 outputs, and 2 labels": [str(path), *options(tmp_path / "out.onnx", "A,B", 64, "0.5/0.25")],
        "normalisation is for 3": [str(path), *options(tmp_path / "out.onnx", "A,B,C,D,E", 64)],
        "not MEAN/STD": [str(path), *options(tmp_path / "out.onnx", "A,B,C,D,E", 64, "half")],
        "no module 'features.block9'": [str(path), *grey, "--explain", "features.block9"],
        "no DenseNet's checkpoint": [str(tmp_path / "resnet.pt"), *grey],
        "save the network's state_dict": [str(tmp_path / "pickled.pt"), *grey],
        "no valid ONNX file": [str(tmp_path / "not.onnx"), *grey],
        "only squares": [str(LIGHT), *options(tmp_path / "out.onnx", "A,B", 64)],
    }
    for reason, arguments in cases.items():
        assert main(["instrument", *arguments]) == 2
        assert reason in capsys.readouterr().err
    assert not (tmp_path / "out.onnx").exists()


def test_missing_metadata_are_asked_for_by_name(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["instrument", "some.onnx", "--out", str(tmp_path / "out.onnx"), "--size", "224"])
    asked = capsys.readouterr().err
    assert all(name in asked for name in ("--labels", "--resampler", "--crop", "--normalisation", "--air", "--licence"))
