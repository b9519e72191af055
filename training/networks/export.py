"""Trained network -> one self-described ONNX file, refused unless what is derived of it agrees with autograd.

The file is a plain forward graph. It goes through the same door as anybody's: the service derives its maps.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from service import __version__
from service.audit.classifier import METADATA_KEY, Classifier, ClassifierCard
from service.audit.preprocessing import Preprocessing
from service.graphs.description import Description
from service.graphs.examiner import Examiner, opened

OPSET = 20
DENSENET_BLOCKS = ("network.features.denseblock2", "network.features.denseblock3")
HALF_SUFFIX = ".half"

# Largest allowed difference between ONNX Runtime in float32 and autograd in float64, both with the stored weights.
# Logits: absolute, in units of 1 + the largest logit. Maps: sum of absolute differences over sum of the map. Maps are
# looser because a pre-activation within rounding of zero may fall on the other side of its ReLU.
LOGIT_TOLERANCE = 1e-4
MAP_TOLERANCE = 5e-3


class ExportError(Exception):
    """A network that cannot be written as a file, or whose file would not be the network."""


def export(
    classifier: nn.Module,
    path: Path,
    *,
    name: str,
    labels: Sequence[str],
    preprocessing: Preprocessing,
    licence: str,
    provenance: Mapping[str, str],
    explained_count: int = 1,
    explained_blocks: Sequence[str] = DENSENET_BLOCKS,
) -> ClassifierCard:
    """Write a trained network as a file that the service can audit.

    classifier: (N, 1, S, S) float32 in [0, 1] -> logits (N, C).
    explained_blocks: names of the submodules whose outputs the service should have chosen to explain, finest first.
    The stored weights are float16 (biases and batch norms float32); computation stays float32. The same weights and
    arguments give the same bytes. Raises ExportError where a weight does not fit into float16 or the derived file
    disagrees with autograd, and ClassifierError where the service refuses the file; nothing is written then.
    """
    description = Description(
        name, tuple(labels), preprocessing, licence=licence, provenance=provenance, explained_count=explained_count
    )
    stored = storable(classifier)
    data = file_of(stored, description)
    derived = opened(Examiner().derive(data), providers=["CPUExecutionProvider"])
    verify(derived, stored, explained_blocks)
    path.write_bytes(data)
    return derived.card


def file_of(stored: nn.Module, description: Description, channels: int = 1) -> bytes:
    """The bytes of the file of a network that `storable` prepared; channels: of its input."""
    model = trace(stored, description.preprocessing.size, channels)
    store_half(model)
    return serialised(model, description)


# --- The network as it is stored -------------------------------------------------------------------------------------


def storable(classifier: nn.Module, *, exact: bool = False) -> nn.Module:
    """A copy in evaluation mode on the CPU, batch norms folded into the convolutions before them, weights rounded.

    exact: leave the weights as they are, in float32. Raises ExportError where a weight does not fit into float16.
    """
    copied = copy.deepcopy(classifier).cpu().float().eval()
    fold_batch_norms(copied)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.requires_grad = False
            if parameter.ndim > 1 and not exact:
                parameter.copy_(parameter.half().float())
                if not parameter.isfinite().all():
                    raise ExportError("a weight does not fit into float16")
    return copied


def fold_batch_norms(classifier: nn.Module) -> None:
    """Fold each batch norm that alone follows a convolution into it, in place."""
    traced = torch.fx.symbolic_trace(classifier)
    for node in traced.graph.nodes:
        source = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(source, torch.fx.Node) or source.op != "call_module" or len(source.users) > 1:
            continue
        norm, convolution = classifier.get_submodule(str(node.target)), classifier.get_submodule(str(source.target))
        if isinstance(norm, nn.BatchNorm2d) and isinstance(convolution, nn.Conv2d):
            classifier.set_submodule(str(source.target), fuse_conv_bn_eval(convolution, norm))
            classifier.set_submodule(str(node.target), nn.Identity())


# --- The file --------------------------------------------------------------------------------------------------------


def trace(classifier: nn.Module, size: int, channels: int = 1) -> ModelProto:
    """The forward graph in ONNX, dynamic in the batch, from `radiograph` (N, channels, S, S) to `logits` (N, C)."""
    program = torch.onnx.export(
        classifier.eval(),
        (torch.rand(2, channels, size, size),),
        dynamo=True,
        input_names=["radiograph"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("N")},),
        opset_version=OPSET,
        verbose=False,
    )
    if program is None:
        raise ExportError("torch.onnx.export made no program")
    return program.model_proto


def store_half(model: ModelProto) -> None:
    """Store every weight that float16 holds without loss as such, cast back to float32 when the file is loaded."""
    graph = model.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        values, name = numpy_helper.to_array(tensor), tensor.name
        half = values.astype(np.float16)
        if np.array_equal(half, values):
            tensor.CopyFrom(numpy_helper.from_array(half, name + HALF_SUFFIX))
            casts.append(helper.make_node("Cast", [tensor.name], [name], name=tensor.name, to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def serialised(model: ModelProto, description: Description) -> bytes:
    """The file's bytes: the graph, without the exporter's traces of this machine, and its description."""
    for element in [*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer]:
        element.ClearField("doc_string")
        element.ClearField("metadata_props")
    del model.graph.value_info[:]
    model.graph.ClearField("metadata_props")
    model.graph.name, model.graph.doc_string = "classifier", ""
    model.producer_name, model.producer_version, model.doc_string = "triggerscope", __version__, ""
    onnx.checker.check_model(model, full_check=True)
    return described_bytes(model, description)


def described_bytes(model: ModelProto, description: Description) -> bytes:
    """The file's bytes with its description among the metadata that it has."""
    said = {entry.key: entry.value for entry in model.metadata_props}
    said[METADATA_KEY] = json.dumps(description.as_mapping(), sort_keys=True)
    helper.set_model_props(model, said)
    return bytes(model.SerializeToString(deterministic=True))


# --- The check -------------------------------------------------------------------------------------------------------


class Tapped(nn.Module):
    """A classifier that also returns the outputs of some of its submodules.

    forward: (N, 1, S, S) -> logits (N, C), then one (N, ., g, g) for each block.
    """

    def __init__(self, classifier: nn.Module, blocks: Sequence[str]) -> None:
        super().__init__()
        self.classifier = classifier
        self.blocks = blocks

    def forward(self, radiograph: Tensor) -> tuple[Tensor, ...]:
        seen: dict[nn.Module, Tensor] = {}
        modules = [self.classifier.get_submodule(block) for block in self.blocks]
        handles = [module.register_forward_hook(lambda m, _, out: seen.__setitem__(m, out)) for module in modules]
        logits = self.classifier(radiograph)
        for handle in handles:
            handle.remove()
        return (logits, *(seen[module] for module in modules))


def autograd_maps(
    classifier: nn.Module, blocks: Sequence[str], batch: Tensor, explained: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and gradient maps by autograd, for comparison.

    batch: (N, 1, S, S), of the classifier's dtype. explained: (N, k) int64 labels.
    Returns logits (N, C) and name -> (N, k, g, g), named as the exported outputs are.
    """
    radiograph = batch.detach().requires_grad_()  # so that gradients flow although the weights are frozen
    logits, *activations = Tapped(classifier, blocks)(radiograph)
    columns = [
        torch.autograd.grad(logits.gather(1, column[:, None]).sum(), activations, retain_graph=True)
        for column in explained.unbind(1)
    ]
    maps: dict[str, Tensor] = {}
    for index, activation in enumerate(activations):
        gradients = torch.stack([column[index] for column in columns], dim=1)  # (N, k, F, g, g)
        maps |= saliency_maps(activation.detach()[:, None], gradients)
    return logits.detach(), maps


def saliency_maps(activation: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """The three maps of one block; activation (N, 1, F, g, g), gradient (N, k, F, g, g) -> name -> (N, k, g, g)."""
    grid = gradient.shape[-1]
    weights = {
        "layercam": gradient.relu(),
        "counter_layercam": (-gradient).relu(),
        "gradcam": gradient.mean((-2, -1), keepdim=True),
    }
    return {f"{kind}_{grid}": (weight * activation).sum(2).relu() for kind, weight in weights.items()}


def check_batch(size: int) -> NDArray[np.float32]:
    """(2, 1, S, S) float32 in [0, 1]: noise, and a smooth film-like picture with a bright square in a corner."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(1, 1, size, size, generator=generator)
    coarse = torch.rand(1, 1, 7, 7, generator=generator)
    film = nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1) * 0.9 + noise * 0.05
    film[..., -6:-3, -6:-3] = 1.0
    return np.asarray(torch.cat([noise, film.clamp(0, 1)]).numpy(), dtype=np.float32)


def verify(exported: Classifier, stored: nn.Module, blocks: Sequence[str]) -> dict[str, float]:
    """Compare a derived classifier with autograd on the network it was made from.

    stored: (N, 1, S, S) -> logits, log-odds where labels exclude each other. blocks: its submodules that are explained.
    Returns the differences by name, `logits` and each map, in the units of LOGIT_TOLERANCE and MAP_TOLERANCE. Raises
    ExportError where one is larger than its tolerance, other maps are explained, the explained labels are not the
    largest logits, or the logits-only run is another.
    """
    card = exported.card
    batch = check_batch(card.preprocessing.size)
    zero, one = np.zeros(len(card.labels), np.float32), np.ones(len(card.labels), np.float32)
    films = exported.explain(batch, zero, one)
    got = np.stack([prediction.logits for prediction, _ in films])
    explained = torch.from_numpy(np.stack([saliency.explained_labels for _, saliency in films]))
    want, maps = autograd_maps(copy.deepcopy(stored).double(), blocks, torch.from_numpy(batch).double(), explained)
    if set(maps) != set(films[0][1].maps):
        raise ExportError(f"the service explains other layers: {sorted(films[0][1].maps)} instead of {sorted(maps)}")
    differences = {"logits": check_logits(got, want.numpy())}
    check_logits(exported.logits(batch), want.numpy())
    largest, tolerance = want.gather(1, explained), LOGIT_TOLERANCE * (1 + float(want.abs().max()))
    if not torch.allclose(largest, want.topk(card.explained_count).values, rtol=0, atol=tolerance):
        raise ExportError("the explained labels are not those of the largest logits")
    for name, reference in maps.items():
        got_map = np.stack([saliency.maps[name] for _, saliency in films])
        differences[name] = check_map(name, got_map, reference.numpy())
    return differences


def check_logits(got: NDArray[np.float32], want: NDArray[np.floating]) -> float:
    """The largest difference in units of 1 + the largest logit; raises ExportError above LOGIT_TOLERANCE."""
    difference = float(np.abs(got - want).max() / (1 + np.abs(want).max()))
    if not difference <= LOGIT_TOLERANCE:
        raise ExportError(f"the exported logits differ from the network's by {difference:.1e}")
    return difference


def check_map(name: str, got: NDArray[np.float32], want: NDArray[np.float64]) -> float:
    """The sum of differences over the map's sum; raises ExportError above MAP_TOLERANCE."""
    difference = float(np.abs(got - want).sum() / (want.sum() + 2e-7 * want.size))
    if not difference <= MAP_TOLERANCE:
        raise ExportError(f"the exported {name} differs from autograd's by {difference:.1e} of its sum")
    return difference
