"""Derived maps beside PyTorch's own autograd in float32: three architectures by both of torch's exporters.

Weights are random, and the batch norms have the statistics of film-like pictures, so that activations are sane.
"""

import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from service.arrays import FloatArray
from service.audit.classifier import Classifier
from service.audit.preprocessing import Preprocessing
from service.graphs.description import Description, Normalisation
from service.graphs.examination import pictures
from service.graphs.examiner import Examiner, opened
from training.networks.export import autograd_maps

SIZE, LABELS, SEED = 224, 14, 0
SETTLING = 16  # pictures that batch norms take their statistics from
ARCHITECTURES = {
    "densenet121": ("features.denseblock2", "features.denseblock3"),
    "resnet50": ("layer2", "layer3"),
    "mobilenet_v2": ("features.6", "features.13"),
}  # torchvision's name -> the modules that make the tensors to explain
EXPORTS = ((True, 20), (False, 17), (False, 13))  # whether by torch.export, and the opset


@dataclass(frozen=True, slots=True)
class Parity:
    """maps: the largest difference of a film's six maps, as a share of each map's sum. logits: the largest difference
    of all films, in units of 1 + the largest logit."""

    architecture: str
    dynamo: bool
    opset: int
    maps: tuple[float, ...]
    logits: float

    def __str__(self) -> str:
        exporter = "torch.export" if self.dynamo else "TorchScript"
        return (
            f"{self.architecture:<12} {exporter:<12} opset {self.opset}  {len(self.maps)} films: maps median "
            f"{np.median(self.maps):.1e}, worst {max(self.maps):.1e}; logits {self.logits:.1e}"
        )


class Prepared(nn.Module):
    """(N, 1, S, S) in [0, 1] -> logits of a network for three channels of ImageNet's normalisation."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, radiograph: Tensor) -> Tensor:
        normalisation = Normalisation.read("imagenet")
        mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (normalisation.mean, normalisation.std))
        logits: Tensor = self.network((radiograph - mean) / std)
        return logits


def settled(architecture: str) -> Prepared:
    """A network of random weights in evaluation mode; its batch norms have seen film-like pictures."""
    torch.manual_seed(SEED)
    prepared = Prepared(torchvision.models.get_model(architecture, num_classes=LABELS)).train()
    for module in prepared.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        prepared(torch.from_numpy(pictures(SIZE, SETTLING)))
    return prepared.eval()


def file_of(network: nn.Module, *, dynamo: bool, opset: int) -> bytes:
    """As a third party exports it: ImageNet's pixels in, logits out."""
    example = (torch.rand(1, 3, SIZE, SIZE),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            program = torch.onnx.export(network, example, dynamo=True, opset_version=opset, verbose=False)
            assert program is not None  # noqa: S101 - of the types only
            return bytes(program.model_proto.SerializeToString())
        buffer = io.BytesIO()
        torch.onnx.export(network, example, buffer, dynamo=False, opset_version=opset)
    return buffer.getvalue()


def description_of(architecture: str) -> Description:
    labels = tuple(f"label {number}" for number in range(LABELS))
    return Description(architecture, labels, Preprocessing(), Normalisation.read("imagenet"))


def parity(architecture: str, films: FloatArray, exports: Sequence[tuple[bool, int]] = EXPORTS) -> Iterator[Parity]:
    """One row for each export; films (N, 1, 224, 224) in [0, 1]."""
    prepared = settled(architecture)
    blocks = [f"network.{block}" for block in ARCHITECTURES[architecture]]
    wanted = [_by_autograd(prepared, blocks, film) for film in films]
    for dynamo, opset in exports:
        data = file_of(prepared.network, dynamo=dynamo, opset=opset)
        derived = opened(Examiner().derive(data, description_of(architecture)), providers=["CPUExecutionProvider"])
        found = [_differences(derived, film, *want) for film, want in zip(films, wanted, strict=True)]
        maps, logits = zip(*found, strict=True)
        yield Parity(architecture, dynamo, opset, maps, max(logits))


def _by_autograd(
    prepared: Prepared, blocks: Sequence[str], film: FloatArray
) -> tuple[FloatArray, dict[str, FloatArray]]:
    batch = torch.from_numpy(film[None])
    with torch.no_grad():
        largest = prepared(batch).argmax(1, keepdim=True)
    logits, maps = autograd_maps(prepared, blocks, batch, largest)
    return logits.numpy()[0], {name: values.numpy()[0] for name, values in maps.items()}


def _differences(
    derived: Classifier, film: FloatArray, logits: FloatArray, maps: dict[str, FloatArray]
) -> tuple[float, float]:
    """Of one film: the largest of its maps', and its logits'."""
    prediction, saliency = derived.explain_label(film, int(logits.argmax()))
    off = {name: np.abs(saliency.maps[name].astype(np.float64) - want).sum() for name, want in maps.items()}
    shares = [float(off[name] / (want.astype(np.float64).sum() + 1e-12)) for name, want in maps.items()]
    return max(shares), float(np.abs(prediction.logits - logits).max() / (1 + np.abs(logits).max()))
