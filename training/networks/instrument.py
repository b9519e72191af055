"""`triggerscope-train instrument`: a third party's classifier becomes an auditable one.

Read are torchvision- and torchxrayvision-style DenseNet checkpoints, and ONNX files that end in global average pooling
and one linear layer. The weights stay float32 and the logits are compared with the original's before anything is
written.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # it ships no types
from torch import Tensor, nn
from torchvision.models import DenseNet

from service.arrays import FloatArray
from service.audit.classifier import Classifier, ClassifierCard, sigmoid
from service.graphs.examiner import load_classifier
from training.networks.explain_graph import ExportError
from training.networks.export import DENSENET_BLOCKS, Description, auditable, check_batch, check_logits, storable
from training.networks.onnx_network import OnnxNetwork, explained_layer, read_network

NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "torchxrayvision": ((0.5,), (1 / 2048,)),  # [0, 1] -> [-1024, 1024]
    "none": ((0.0,), (1.0,)),
}
EXPLAINED_SHARES = (8, 16)  # an input of 224 px is explained at 28 x 28 and 14 x 14 cells


@dataclass(frozen=True, slots=True)
class Normalisation:
    """How the classifier wants its pixels: (value - mean) / std, one number or one a channel.

    air_white: it was trained on films whose air is white; ours is black, so that the graph turns them round.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    air_white: bool = False

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3) or not all(self.std):
            raise ExportError("mean and std must be 1 or 3 numbers each, and std not 0")

    @classmethod
    def read(cls, text: str, *, air_white: bool) -> "Normalisation":
        """A name of NORMALISATIONS, or `MEAN/STD` with one number or one a channel (0.5/0.25). Raises ExportError."""
        if text in NORMALISATIONS:
            return cls(*NORMALISATIONS[text], air_white)
        try:
            mean, std = (tuple(float(number) for number in part.split(",")) for part in text.split("/"))
        except ValueError:
            raise ExportError(f"normalisation {text!r} is none of {sorted(NORMALISATIONS)} and not MEAN/STD") from None
        return cls(mean, std, air_white)


class Normalised(nn.Module):
    """A third party's network behind its own normalisation.

    forward: (N, 1, S, S) in [0, 1], 0 = air-black -> logits (N, C); the grey channel is given to every channel.
    """

    offset: Tensor
    spread: Tensor

    def __init__(self, network: nn.Module, normalisation: Normalisation, channels: int) -> None:
        super().__init__()
        if len(normalisation.mean) not in (1, channels):
            raise ExportError(f"the network takes {channels} channel(s), the normalisation is for 3")
        self.network = network
        sign = -1.0 if normalisation.air_white else 1.0
        mean, std = torch.tensor(normalisation.mean), torch.tensor(normalisation.std)
        offset = 1 - mean if normalisation.air_white else mean
        self.register_buffer("offset", offset.expand(channels).reshape(1, -1, 1, 1).clone())
        self.register_buffer("spread", (sign * std).expand(channels).reshape(1, -1, 1, 1).clone())

    def forward(self, radiograph: Tensor) -> Tensor:
        logits: Tensor = self.network(self.normalised(radiograph))
        return logits

    def normalised(self, radiograph: Tensor) -> Tensor:
        """(N, 1, S, S) -> (N, channels, S, S), what the original network is given."""
        return (radiograph - self.offset) / self.spread


@dataclass(frozen=True, slots=True)
class Read:
    """A classifier that was read. reference: logits of the original file itself for pixels (N, channels, S, S)."""

    network: Normalised
    blocks: tuple[str, ...]
    sigmoid: bool
    original: Path


@dataclass(frozen=True, slots=True)
class Instrumented:
    """What was written. parity: relative differences, `original` against the original file and the rest to autograd."""

    card: ClassifierCard
    parity: dict[str, float]
    notes: tuple[str, ...]


def instrument(
    original: Path,
    out: Path,
    description: Description,
    normalisation: Normalisation,
    explained: Sequence[str] = (),
) -> Instrumented:
    """Make `original`, a .onnx file or a DenseNet's state dict, auditable; the result is written to `out`.

    explained: names of the layers to explain, finest grid first; by default the ends of the blocks with an eighth and
    a sixteenth of the input's side. Raises ExportError with the reason where that cannot be done or the logits or
    gradients differ from the original's, and ClassifierError where labels or size do not fit; nothing is written then.
    """
    size = description.preprocessing.size
    read = (read_onnx if original.suffix == ".onnx" else read_checkpoint)(original, normalisation, size, explained)
    stored = storable(read.network, exact=True)
    with torch.no_grad():
        count = stored(torch.from_numpy(check_batch(size)[:1])).shape[1]
    if count != len(description.labels):
        raise ExportError(f"the network has {count} outputs, and {len(description.labels)} labels were named")
    data, parity = auditable(stored, description, read.blocks)
    parity = {"original": _compared(read, Classifier.from_bytes(data, providers=["CPUExecutionProvider"]))} | parity
    out.write_bytes(data)
    notes = [f"explained layers: {', '.join(block.removeprefix('network.') for block in read.blocks)}"]
    notes += ["the sigmoid at the end was taken off: the audit reads logits"] if read.sigmoid else []
    return Instrumented(load_classifier(out, providers=["CPUExecutionProvider"]).card, parity, tuple(notes))


def _compared(read: Read, made: Classifier) -> float:
    """How far the made classifier's logits are from the original's; raises ExportError above the tolerance."""
    batch = check_batch(made.card.preprocessing.size)
    with torch.no_grad():
        pixels = read.network.normalised(torch.from_numpy(batch))
        if read.original.suffix == ".onnx":
            want = _run_original(read.original, pixels.numpy())
        else:
            want = read.network.network(pixels).numpy()
    got = made.logits(batch)
    shown = sigmoid(got) if read.sigmoid else got
    return check_logits(shown, want.reshape(got.shape))


def _run_original(path: Path, pixels: FloatArray) -> FloatArray:
    """The original ONNX file's own output, film by film because its batch may be fixed."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    [image] = [item.name for item in session.get_inputs()]
    return np.concatenate([np.asarray(session.run(None, {image: film[None]})[0]) for film in pixels])


# --- ONNX ------------------------------------------------------------------------------------------------------------


def read_onnx(path: Path, normalisation: Normalisation, size: int, explained: Sequence[str]) -> Read:
    """An ONNX file; `explained` are names of its tensors."""
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError) as error:
        raise ExportError(f"{path.name} is no valid ONNX file") from error
    network = read_network(model, size)
    layers = [_layer_of(network, name) for name in explained]
    layers = layers or [explained_layer(network, network.size // share) for share in EXPLAINED_SHARES]
    blocks = tuple(f"network.layers.{layer}" for layer in layers)
    return Read(Normalised(network, normalisation, network.channels), blocks, network.sigmoid, path)


def _layer_of(network: OnnxNetwork, tensor: str) -> str:
    found = [step.layer for step in network.steps if tensor in (step.makes, step.layer)]
    if not found:
        raise ExportError(f"the file has no tensor {tensor!r} between its input and its logits")
    return found[0]


# --- Checkpoints -----------------------------------------------------------------------------------------------------


def read_checkpoint(path: Path, normalisation: Normalisation, _size: int, explained: Sequence[str]) -> Read:
    """A DenseNet's state dict; `explained` are names of its modules, e.g. features.denseblock2."""
    network = densenet_of(_state_dict(path))
    channels = network.features.conv0.in_channels
    wrapped = Normalised(network.eval(), normalisation, channels)
    blocks = tuple(f"network.{name}" for name in explained) or DENSENET_BLOCKS
    for block in blocks:
        try:
            wrapped.get_submodule(block)
        except AttributeError as error:
            raise ExportError(f"the network has no module {block.removeprefix('network.')!r}") from error
    return Read(wrapped, blocks, sigmoid=False, original=path)


def _state_dict(path: Path) -> dict[str, Tensor]:
    """The weights by torchvision's names, whatever wrapping they were saved in."""
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError) as error:
        raise ExportError(
            f"{path.name} holds more than tensors, or is no checkpoint: save the network's state_dict()"
        ) from error
    while isinstance(loaded, Mapping) and not any(isinstance(value, Tensor) for value in loaded.values()):
        inner = [loaded[key] for key in ("state_dict", "model_state_dict", "model", "net") if key in loaded]
        if not inner:
            raise ExportError(f"{path.name} holds no state dict")
        loaded = inner[0]
    if not isinstance(loaded, Mapping):
        raise ExportError(f"{path.name} holds no state dict")
    return {_torchvision_name(name): value for name, value in loaded.items() if isinstance(value, Tensor)}


def _torchvision_name(name: str) -> str:
    """`module.densenet121.features...norm.1.weight` -> `features...norm1.weight`; the head is called `classifier`."""
    name = re.sub(r"^.*?(?=features\.|classifier\.)", "", name)
    name = re.sub(r"\.(norm|relu|conv)\.(\d)\.", r".\1\2.", name)
    return re.sub(r"^classifier\.0\.", "classifier.", name)


def densenet_of(weights: Mapping[str, Tensor]) -> DenseNet:
    """The DenseNet whose dimensions these weights have. Raises ExportError where they are not a DenseNet's."""
    try:
        first = weights["features.conv0.weight"]
        growth = weights["features.denseblock1.denselayer1.conv2.weight"].shape[0]
        bottleneck = weights["features.denseblock1.denselayer1.conv1.weight"].shape[0] // growth
        labels = weights["classifier.weight"].shape[0]
    except KeyError as error:
        raise ExportError(f"no DenseNet's checkpoint: {error} is missing; export the network to ONNX instead") from None
    layers = [re.match(r"features\.denseblock(\d+)\.denselayer(\d+)\.norm1\.weight", name) for name in weights]
    blocks = [int(found[1]) for found in layers if found]
    network = DenseNet(
        growth_rate=growth,
        block_config=tuple(blocks.count(block) for block in sorted(set(blocks))),
        num_init_features=first.shape[0],
        bn_size=bottleneck,
        num_classes=labels,
    )
    network.features.conv0 = nn.Conv2d(first.shape[1], first.shape[0], 7, stride=2, padding=3, bias=False)
    own = network.state_dict()
    wrong = [name for name, value in own.items() if "num_batches" not in name and _shape(weights, name) != value.shape]
    if wrong:
        raise ExportError(f"the checkpoint is not a plain DenseNet's: {wrong[0]} is missing or has another shape")
    network.load_state_dict({name: weights.get(name, value) for name, value in own.items()})
    return network


def _shape(weights: Mapping[str, Tensor], name: str) -> torch.Size | None:
    return weights[name].shape if name in weights else None


def file_sha256(path: Path) -> str:
    """The original's hash, for the provenance."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
