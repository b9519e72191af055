"""Third parties' classifiers: the three that the issue names, the small print of each form, and clear refusals."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnx.version_converter
import onnxruntime
import pytest
import torch
import torchvision
from torch import nn

from service.__main__ import main as triggerscope
from service.audit.preprocessing import Preprocessing
from service.errors import ClassifierError
from service.graphs.description import NORMALISATIONS, Description, Normalisation
from service.graphs.examiner import load_classifier
from training.__main__ import main
from training.networks.instrument import instrument
from training.networks.tiny import TinyClassifier

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / "light_densenet121.onnx"
FILM = Path("models/examples/clean-910000.png")
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


def described(count: int, size: int, normalisation: Normalisation | None = None) -> Description:
    return Description("other", tuple(labels_of(count)), Preprocessing(size=size), normalisation or Normalisation())


def exported(network: nn.Module, path: Path, size: int, channels: int = 3, **changes: object) -> Path:
    """A plain export, as a third party would make it, with a fixed batch."""
    settings = {"dynamo": True, "verbose": False, "external_data": False} | changes
    torch.onnx.export(network.eval(), (torch.rand(1, channels, size, size),), path, **settings)
    return path


# --- The three of the issue ------------------------------------------------------------------------------------------


def test_onnxs_light_densenet121(tmp_path, capsys):
    """Of opset 9 it is refused; onnx's own converter makes it readable."""
    labels, out, newer = tmp_path / "labels.txt", tmp_path / "light.onnx", tmp_path / "newer.onnx"
    labels.write_text("\n".join(labels_of(1000)) + "\n")
    assert main(["instrument", str(LIGHT), *options(out, str(labels))]) == 2
    assert "opset 9; opsets 13 to" in capsys.readouterr().err
    onnx.save(onnx.version_converter.convert_version(onnx.load(LIGHT), 13), newer)
    assert main(["instrument", str(newer), *options(out, str(labels))]) == 0
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
    made = instrument(path, out, described(5, 64, Normalisation((0.5,), (0.25,))))
    assert made.parity["original"] < 1e-5
    film = RNG.random((2, 1, 64, 64), dtype=np.float32)
    with torch.no_grad():
        np.testing.assert_allclose(load_classifier(out).logits(film), tiny(torch.from_numpy(film)).numpy(), atol=1e-5)


def test_films_with_white_air_are_turned_round(tmp_path):
    tiny, path = tiny_checkpoint(tmp_path / "tiny.pt")
    turned = Normalisation((0.5,), (0.25,), air_white=True)
    instrument(path, tmp_path / "out.onnx", described(5, 64, turned))
    film = RNG.random((1, 1, 64, 64), dtype=np.float32)
    with torch.no_grad():
        want = tiny(torch.from_numpy(1 - film)).numpy()
    np.testing.assert_allclose(load_classifier(tmp_path / "out.onnx").logits(film), want, atol=1e-5)


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
        (lambda: pooled(nn.Linear(8, 3), nn.Softmax(dim=1)), 18),
        (lambda: pooled(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3), nn.LogSoftmax(dim=1)), 20),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(128, 3)), 20),
    ],
    ids=[
        "gemm",
        "pool and convolution",
        "sigmoid",
        "matrix product, sum, sigmoid",
        "softmax",
        "two layers",
        "all cells",
    ],
)
def test_heads_of_several_forms(tmp_path, ending, opset):
    torch.manual_seed(2)
    original = exported(Plain(ending()), tmp_path / "plain.onnx", 64, channels=1, opset_version=opset)
    out = tmp_path / "out.onnx"
    made = instrument(original, out, described(3, 64))
    assert made.card.grids == (8, 4)
    assert made.parity["original"] <= 1e-4
    film = RNG.random((1, 1, 64, 64), dtype=np.float32)
    session = onnxruntime.InferenceSession(original, providers=["CPUExecutionProvider"])
    want = session.run(None, {session.get_inputs()[0].name: film})[0].reshape(1, 3)
    got = load_classifier(out).logits(film)
    [end] = [note.split()[1] for note in made.notes if "taken off" in note] or [""]
    shown = got if not end else 1 / (1 + np.exp(-got))
    np.testing.assert_allclose(np.log(shown) if end == "LogSoftmax" else shown, want, atol=1e-5)


def test_the_graph_of_an_onnx_file_stays_as_it_is(tmp_path):
    original = exported(Plain(pooled(nn.Linear(8, 3))), tmp_path / "plain.onnx", 64, channels=1)
    made = instrument(original, tmp_path / "out.onnx", described(3, 64))
    assert onnx.load(tmp_path / "out.onnx").graph == onnx.load(original).graph
    assert load_classifier(tmp_path / "out.onnx").card.identity == made.card.identity


def test_logits_of_labels_that_exclude_each_other(tmp_path, capsys):
    """Said on the command line, because the file ends in plain logits; one of two outputs is named."""

    class Two(Plain):
        def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            maps = self.body(self.stem(pixels))
            return maps, self.ending(maps)

    torch.manual_seed(2)
    original = tmp_path / "two.onnx"
    network = Two(pooled(nn.Linear(8, 3)))
    exported(network, original, 64, channels=1, output_names=["maps", "scores"])
    out = tmp_path / "out.onnx"
    more = ["--head", "softmax", "--output", "scores"]
    assert main(["instrument", str(original), *options(out, "A,B,C", 64, "none"), *more]) == 0
    assert "log-odds" in capsys.readouterr().out
    film = RNG.random((1, 1, 64, 64), dtype=np.float32)
    with torch.no_grad():
        want = network(torch.from_numpy(film))[1].softmax(1).numpy()
    np.testing.assert_allclose(1 / (1 + np.exp(-load_classifier(out).logits(film))), want, atol=1e-5)


# --- Refusals --------------------------------------------------------------------------------------------------------


def test_what_the_service_refuses_is_not_written(tmp_path):
    ending = nn.Sequential(nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    original = exported(Plain(ending), tmp_path / "plain.onnx", 64, channels=1)
    with pytest.raises(ClassifierError, match="Tanh"):
        instrument(original, tmp_path / "out.onnx", described(3, 64))
    assert not (tmp_path / "out.onnx").exists()


def test_what_does_not_fit_is_refused_on_one_line(tmp_path, capsys):
    _, path = tiny_checkpoint(tmp_path / "tiny.pt")
    (tmp_path / "not.onnx").write_bytes(b"not a model")
    plain = exported(Plain(pooled(nn.Linear(8, 2))), tmp_path / "plain.onnx", 64, channels=1)
    torch.save({"layer1.0.conv1.weight": torch.zeros(3)}, tmp_path / "resnet.pt")
    torch.save(TinyClassifier(), tmp_path / "pickled.pt")
    grey = options(tmp_path / "out.onnx", "A,B,C,D,E", 64, "0.5/0.25")
    cases = {
        "5 outputs, and 2 labels": [str(path), *options(tmp_path / "out.onnx", "A,B", 64, "0.5/0.25")],
        "normalisation is for 3": [str(path), *options(tmp_path / "out.onnx", "A,B,C,D,E", 64)],
        "not MEAN/STD": [str(path), *options(tmp_path / "out.onnx", "A,B,C,D,E", 64, "half")],
        "no output other": [str(plain), *options(tmp_path / "out.onnx", "A,B", 64, "none"), "--output", "other"],
        "no DenseNet's checkpoint": [str(tmp_path / "resnet.pt"), *grey],
        "save the network's state_dict": [str(tmp_path / "pickled.pt"), *grey],
        "no ONNX model": [str(tmp_path / "not.onnx"), *grey],
        "preprocessing makes 96 x 96": [str(plain), *options(tmp_path / "out.onnx", "A,B", 96, "none")],
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
