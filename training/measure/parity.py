"""Derived maps beside PyTorch's own autograd in float32: three architectures by both of torch's exporters.

Weights are random, and the batch norms have the statistics of films, so that activations are sane. Where a
pre-activation lies within rounding of 0, two float32 runs may put it on different sides of its ReLU; one such unit of
the last maps changes earlier maps by some 1e-3 of their sum. How often that happens in PyTorch itself is the floor:
its autograd in float32 beside its own in float64.
"""

import copy
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import Bottleneck

from service.arrays import FloatArray
from service.audit.preprocessing import Preprocessing
from service.graphs.description import Description, Normalisation
from service.graphs.examiner import Examiner, opened
from training.networks.export import autograd_maps

SIZE, LABELS, SEED = 224, 14, 0
RESIDUAL_GAIN = 0.2  # of a residual branch's last batch norm, as training leaves it; at 1 rounding grows by the block
ARCHITECTURES = {
    "densenet121": ("features.denseblock2", "features.denseblock3"),
    "resnet50": ("layer2", "layer3"),
    "mobilenet_v2": ("features.6", "features.13"),
}  # torchvision's name -> the modules that make the tensors to explain
EXPORTS = ((True, 20), (False, 17), (False, 13))  # whether by torch.export, and the opset


@dataclass(frozen=True, slots=True)
class Parity:
    """maps: of each film by map, the sum of differences as a share of the map's sum. floor: the same of autograd in
    float32 beside float64. logits: the largest difference, in units of 1 + the largest logit."""

    architecture: str
    dynamo: bool
    opset: int
    maps: tuple[dict[str, float], ...]
    floor: tuple[dict[str, float], ...]
    logits: float

    def __str__(self) -> str:
        exporter = "torch.export" if self.dynamo else "TorchScript"
        head = f"{self.architecture}, {exporter}, opset {self.opset}, {len(self.maps)} films: logits {self.logits:.0e}"
        lines = [
            f"  {name:<20} median {np.median(of_map(self.maps, name)):.0e}, worst {max(of_map(self.maps, name)):.0e}; "
            f"floor: median {np.median(of_map(self.floor, name)):.0e}, worst {max(of_map(self.floor, name)):.0e}"
            for name in sorted(self.floor[0])
        ]
        return "\n".join([head, *lines])


def of_map(films: Sequence[dict[str, float]], name: str) -> list[float]:
    """One map's differences on all films."""
    return [film[name] for film in films]


class Prepared(nn.Module):
    """(N, 1, S, S) in [0, 1] -> logits of a network for three channels of ImageNet's normalisation."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, radiograph: Tensor) -> Tensor:
        normalisation = Normalisation.read("imagenet")
        mean, std = (radiograph.new_tensor(v).reshape(1, 3, 1, 1) for v in (normalisation.mean, normalisation.std))
        logits: Tensor = self.network((radiograph - mean) / std)
        return logits


def settled(architecture: str, films: FloatArray) -> Prepared:
    """A network of random weights in evaluation mode, whose batch norms have the statistics of films (N, 1, S, S)."""
    torch.manual_seed(SEED)
    prepared = Prepared(torchvision.models.get_model(architecture, num_classes=LABELS)).train()
    for module in prepared.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
        if isinstance(module, Bottleneck):
            nn.init.constant_(module.bn3.weight, RESIDUAL_GAIN)
        if isinstance(module, InvertedResidual) and module.use_res_connect:
            nn.init.constant_(module.conv[-1].weight, RESIDUAL_GAIN)
    with torch.no_grad():
        prepared(torch.from_numpy(films))
    return prepared.eval()


def file_of(network: nn.Module, *, dynamo: bool, opset: int) -> bytes:
    """As a third party exports it: ImageNet's pixels in, logits out."""
    example = (torch.rand(1, 3, SIZE, SIZE),)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        path = Path(folder) / "network.onnx"
        torch.onnx.export(
            network, example, path, dynamo=dynamo, opset_version=opset, external_data=False, verbose=False
        )
        return path.read_bytes()


def description_of(architecture: str) -> Description:
    labels = tuple(f"label {number}" for number in range(LABELS))
    return Description(architecture, labels, Preprocessing(), Normalisation.read("imagenet"))


def parity(
    architecture: str, films: FloatArray, settling: FloatArray, exports: Sequence[tuple[bool, int]] = EXPORTS
) -> Iterator[Parity]:
    """One row for each export. films: to measure on, settling: whose statistics the batch norms have; both
    (N, 1, 224, 224) in [0, 1]."""
    prepared = settled(architecture, settling)
    blocks = [f"network.{block}" for block in ARCHITECTURES[architecture]]
    exact = copy.deepcopy(prepared).double()
    wanted = [_by_autograd(prepared, exact, blocks, film) for film in films]
    floor = tuple(map_differences(single.maps, double.maps) for single, double in wanted)
    for dynamo, opset in exports:
        data = file_of(prepared.network, dynamo=dynamo, opset=opset)
        derived = opened(Examiner().derive(data, description_of(architecture)), providers=["CPUExecutionProvider"])
        maps, logits = [], []
        for film, (single, _) in zip(films, wanted, strict=True):
            prediction, saliency = derived.explain_label(film, int(single.logits.argmax()))
            maps.append(map_differences(saliency.maps, single.maps))
            logits.append(float(np.abs(prediction.logits - single.logits).max() / (1 + np.abs(single.logits).max())))
        yield Parity(architecture, dynamo, opset, tuple(maps), floor, max(logits))


@dataclass(frozen=True, slots=True)
class Explanation:
    """Of one film by autograd: logits (C,) and the maps of the largest, by name (1, g, g)."""

    logits: NDArray[np.floating]
    maps: dict[str, NDArray[np.floating]]


def _by_autograd(
    prepared: Prepared, exact: Prepared, blocks: Sequence[str], film: FloatArray
) -> tuple[Explanation, Explanation]:
    """In float32 and in float64, of the same label."""
    batch = torch.from_numpy(film[None])
    with torch.no_grad():
        largest = prepared(batch).argmax(1, keepdim=True)
    found = []
    for network, pixels in ((prepared, batch), (exact, batch.double())):
        logits, maps = autograd_maps(network, blocks, pixels, largest)
        found.append(Explanation(logits.numpy()[0], {name: values.numpy()[0] for name, values in maps.items()}))
    return found[0], found[1]


def map_differences(
    got: Mapping[str, NDArray[np.floating]], want: Mapping[str, NDArray[np.floating]]
) -> dict[str, float]:
    """Of one film by map: the sum of differences over the map's sum."""
    return {
        name: float(np.abs(got[name].astype(np.float64) - values).sum() / (values.sum(dtype=np.float64) + 1e-12))
        for name, values in want.items()
    }
