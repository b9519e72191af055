"""`triggerscope-train instrument`: a third party's classifier becomes a file that the service can audit.

A DenseNet's checkpoint is exported, an ONNX file stays as it is; both get a description of what they do not show. The
weights stay float32. What the service derives of the file is compared with the original's logits, and with autograd,
before anything is written.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torchvision.models import DenseNet

from service.arrays import FloatArray
from service.audit.classifier import ClassifierCard, sigmoid
from service.graphs.description import Description, Normalisation
from service.graphs.examiner import Examiner, opened, read_file
from service.graphs.network import Network
from service.graphs.places import Explained, explained
from service.graphs.reading import load_model, output_of, read_network
from training.networks.export import (
    ExportError,
    check_batch,
    check_logits,
    described_bytes,
    file_of,
    storable,
    verify,
)
from training.networks.onnx_network import OnnxNetwork, log_odds

Run = Callable[[FloatArray], FloatArray]  # pixels (N, channels, S, S) -> what the original puts out (N, C)


@dataclass(frozen=True, slots=True)
class Instrumented:
    """What was written. parity: relative differences, `original` against the original file and the rest to autograd."""

    card: ClassifierCard
    parity: dict[str, float]
    notes: tuple[str, ...]


def instrument(original: Path, out: Path, description: Description) -> Instrumented:
    """Describe `original`, a .onnx file or a DenseNet's state dict; the result is written to `out`.

    Raises ExportError with the reason where that cannot be done or the logits or gradients differ from the original's,
    and ClassifierError where the service refuses the file; nothing is written then.
    """
    data, run = (_onnx if original.suffix == ".onnx" else _checkpoint)(original, description)
    derived = opened(Examiner().derive(data, description), providers=["CPUExecutionProvider"])
    model = load_model(data)  # what a stranger wrote is opened here only after the box has read it
    network = read_network(model, description)
    chosen = explained(network)
    parity = {"original": _compared(derived.logits, run, network, description.normalisation)}
    parity |= verify(derived, OnnxNetwork(network), [f"layers.{item.operation.output}" for item in chosen])
    out.write_bytes(described_bytes(model, description))
    return Instrumented(derived.card, parity, _notes(network, chosen))


def _notes(network: Network, chosen: tuple[Explained, ...]) -> tuple[str, ...]:
    notes = [f"explained: {', '.join(f'{item.operation.label} ({item.side} x {item.side})' for item in chosen)}"]
    if network.ended_in:
        notes.append(f"the {network.ended_in} at the end was taken off")
    if network.head == "softmax":
        notes.append("labels exclude each other: the audit reads log-odds")
    return tuple(notes)


def _compared(logits: Run, original: Run, network: Network, normalisation: Normalisation) -> float:
    """How far the derived logits are from what the original puts out; raises ExportError above the tolerance."""
    batch = check_batch(network.size)
    want = original(normalised(batch, normalisation, network.channels))
    got = logits(batch)
    if network.ended_in:
        got = sigmoid(got)  # of log-odds it is the softmax
        want = np.exp(want) if network.ended_in == "LogSoftmax" else want
    elif network.head == "softmax":
        want = log_odds(torch.from_numpy(want.reshape(got.shape))).numpy()
    return check_logits(got, want.reshape(got.shape))


def normalised(films: FloatArray, normalisation: Normalisation, channels: int) -> FloatArray:
    """(N, 1, S, S) in [0, 1], 0 = air-black -> (N, channels, S, S), what the original network is given."""
    turned = 1 - films if normalisation.air_white else films
    mean, std = (np.reshape(values, (1, -1, 1, 1)) for values in (normalisation.mean, normalisation.std))
    repeated = np.repeat(turned, channels, axis=1)
    return np.asarray((repeated - mean) / std, dtype=np.float32)


# --- ONNX ------------------------------------------------------------------------------------------------------------


def _onnx(path: Path, description: Description) -> tuple[bytes, Run]:
    """An ONNX file as it is."""
    data = read_file(path)

    def run(pixels: FloatArray) -> FloatArray:
        """Film by film, because the file's batch may be fixed."""
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        output, image = output_of(load_model(data).graph, description), session.get_inputs()[0].name
        return np.concatenate([np.asarray(session.run([output], {image: film[None]})[0]) for film in pixels])

    return data, run


# --- Checkpoints -----------------------------------------------------------------------------------------------------


def _checkpoint(path: Path, description: Description) -> tuple[bytes, Run]:
    """A DenseNet's state dict as an ONNX file."""
    network = densenet_of(_state_dict(path)).eval()
    stored = storable(network, exact=True)
    data = file_of(stored, description, network.features.conv0.in_channels)

    def run(pixels: FloatArray) -> FloatArray:
        with torch.no_grad():
            return np.asarray(network(torch.from_numpy(pixels)).numpy())

    return data, run


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
