"""A third party's ONNX file -> a PyTorch network, so that it can be differentiated, searched and exported again.

Only convolutional classifiers are read: one image in, one row of logits out, through the operators in `LAYERS`.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from training.networks.explain_graph import ExportError, attributes, kernel_shape, pads, spatial

Array = NDArray[np.generic]


# --- Layers that PyTorch has as functions only -----------------------------------------------------------------------


class Concat(nn.Module):
    """Channels of several maps, one after the other."""

    def forward(self, *maps: Tensor) -> Tensor:
        return torch.cat(maps, 1)


class Sum(nn.Module):
    """A residual connection."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return first + second


class Mean(nn.Module):
    """The mean over the whole map. (N, F, h, w) -> (N, F, 1, 1) or (N, F)."""

    def __init__(self, *, keepdim: bool) -> None:
        super().__init__()
        self.keepdim = keepdim

    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3), keepdim=self.keepdim)


class Head(nn.Linear):
    """A linear layer that also takes (N, F, 1, 1)."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.flatten(1))


# --- The network -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """One layer's place: its name below `layers`, the ONNX names of what it reads and makes, and its map's side.

    side: 0 where the output is no square map.
    """

    layer: str
    reads: tuple[str, ...]
    makes: str
    side: int


class OnnxNetwork(nn.Module):
    """(N, channels, S, S) -> logits (N, C), layer by layer as in the ONNX graph.

    channels, size: of the input. sigmoid: whether the file's own output is the sigmoid of these logits.
    """

    def __init__(
        self, input_name: str, shape: tuple[int, int], layers: nn.ModuleDict, steps: list[Step], *, sigmoid: bool
    ) -> None:
        super().__init__()
        self.input_name, self.steps, self.sigmoid = input_name, steps, sigmoid
        self.channels, self.size = shape
        self.layers = layers

    def forward(self, pixels: Tensor) -> Tensor:
        values = {self.input_name: pixels}
        for step in self.steps:
            values[step.makes] = self.layers[step.layer](*(values[name] for name in step.reads))
        return values[self.steps[-1].makes]


def read_network(model: ModelProto, size: int | None = None) -> OnnxNetwork:
    """Rebuild an ONNX classifier in PyTorch, in evaluation mode.

    size: side of the input, needed where the file leaves it open. Raises ExportError, naming the reason, where the
    file is not a convolutional classifier ending in a mean over the last map and a linear head.
    """
    return _Reader(model, size).network()


class _Reader:
    """Walks the graph with an example in hand, so that every shape is known; folds what depends on constants only."""

    def __init__(self, model: ModelProto, size: int | None) -> None:
        self.model = model
        self.constants = constants_of(model)
        self.uses = Counter(name for node in model.graph.node for name in node.input)
        self.examples: dict[str, Tensor] = {}
        self.layers, self.steps = nn.ModuleDict(), list[Step]()
        self.sigmoid = False
        self.input_name, self.channels, self.size = self._input(size)

    def _input(self, wanted: int | None) -> tuple[str, int, int]:
        images = [item for item in self.model.graph.input if item.name not in self.constants]
        if len(images) != 1 or len(self.model.graph.output) != 1:
            raise ExportError("the file must have one image as its input and one row of logits as its output")
        sides = [dimension.dim_value for dimension in images[0].type.tensor_type.shape.dim]
        if len(sides) != 4 or sides[1] not in (1, 3):
            raise ExportError(f"the input is {sides}, and not (N, 1 or 3 channels, S, S); 0 stands for any number")
        known = {side for side in sides[2:] if side} | ({wanted} if wanted else set())
        if not known:
            raise ExportError("the file leaves the input's size open: say it")
        if len(known) > 1:
            raise ExportError(f"the input is {sides[2]} x {sides[3]}; only squares, of the stated size, can be read")
        return images[0].name, sides[1], known.pop()

    def network(self) -> OnnxNetwork:
        shape = (1, self.channels, self.size, self.size)
        self.examples[self.input_name] = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        for number, node in enumerate(self.model.graph.node):
            self._read(number, node)
        if self.model.graph.output[0].name not in self.examples:
            raise ExportError("the output does not depend on the input")
        self._check_head()
        network = OnnxNetwork(
            self.input_name, (self.channels, self.size), self.layers, self.steps, sigmoid=self.sigmoid
        )
        return network.eval()

    def _read(self, number: int, node: NodeProto) -> None:
        if node.output[0] in self.constants:
            return
        if node.op_type == "Shape" and node.input[0] in self.examples:
            self.constants[node.output[0]] = np.array(self.examples[node.input[0]].shape, dtype=np.int64)
        elif all(name in self.constants for name in node.input if name):
            self.constants |= _evaluated(self.model, [node], self.constants)
        elif self.sigmoid:
            raise ExportError(f"{node.op_type} follows the sigmoid; only a sigmoid at the very end can be taken off")
        elif node.op_type == "Sigmoid" and node.output[0] == self.model.graph.output[0].name:
            self.sigmoid = True
            self.examples[node.output[0]] = self.examples[node.input[0]]
        elif node.op_type not in LAYERS:
            raise ExportError(REFUSED.get(node.op_type, f"the operator {node.op_type} is not known here"))
        else:
            self._append(number, node, LAYERS[node.op_type](self, node).eval())

    def _append(self, number: int, node: NodeProto, layer: nn.Module) -> None:
        reads = tuple(name for name in node.input if name in self.examples)
        with torch.no_grad():
            example = layer(*(self.examples[name] for name in reads))
        if not example.isfinite().all():
            raise ExportError(f"the values behind {node.op_type} {node.output[0]!r} are not finite")
        side = example.shape[-1] if example.ndim == 4 and example.shape[2] == example.shape[3] else 0
        self.examples[node.output[0]] = example
        self.layers[f"{number}_{node.op_type}"] = layer
        self.steps.append(Step(f"{number}_{node.op_type}", reads, node.output[0], side))

    def constant(self, name: str) -> Tensor:
        return torch.from_numpy(np.array(self.constants[name], dtype=np.float32))

    def _check_head(self) -> None:
        """The last layers are a mean over the whole map and one linear layer."""
        doing = [step for step in self.steps if not isinstance(self.layers[step.layer], nn.Identity | nn.Flatten)]
        if [type(self.layers[step.layer]) for step in doing[-2:]] != [Mean, Head]:
            found = " then ".join(step.layer.split("_")[1] for step in doing[-2:])
            raise ExportError(f"the file must end in global average pooling and one linear layer; it ends in {found}")


def constants_of(model: ModelProto) -> dict[str, Array]:
    """The initializers, and the values of all nodes that depend on them alone."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    known, nodes = set(stored), []
    for node in model.graph.node:
        if all(name in known for name in node.input if name):
            nodes.append(node)
            known.update(node.output)
    return stored | _evaluated(model, nodes, stored)


def _evaluated(model: ModelProto, nodes: list[NodeProto], known: dict[str, Array]) -> dict[str, Array]:
    """The outputs of nodes whose inputs are known or made by nodes among them, by onnx's own slow evaluator."""
    made = [name for node in nodes for name in node.output if name]
    wanted = {name for node in nodes for name in node.input if name} - set(made)
    inputs, outputs = ([helper.make_value_info(name, onnx.TypeProto()) for name in names] for names in (wanted, made))
    graph = helper.make_graph(nodes, "constants", inputs, outputs)
    evaluator = ReferenceEvaluator(helper.make_model(graph, opset_imports=list(model.opset_import)))
    values: Any = evaluator.run(made, {name: known[name] for name in wanted})
    return dict(zip(made, map(np.asarray, values), strict=True))


# --- One function for each operator ----------------------------------------------------------------------------------


def _settings(node: NodeProto) -> None:
    """Refuse what would silently mean something else."""
    if attributes(node).get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise ExportError(f"{node.op_type} with auto_pad: export it with explicit padding")


def _even_pads(node: NodeProto) -> tuple[int, int]:
    top, left, bottom, right = pads(node)
    if (top, left) != (bottom, right):
        raise ExportError(f"{node.op_type} with uneven padding {pads(node)}")
    return top, left


def _convolution(reader: _Reader, node: NodeProto) -> nn.Module:
    _settings(node)
    weight = reader.constant(node.input[1])  # (C_out, C_in / groups, height, width)
    if weight.ndim != 4:
        raise ExportError("only two-dimensional convolutions can be read")
    pooled = reader.examples[node.input[0]].shape[2:] == (1, 1)
    bias = reader.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    groups = int(attributes(node).get("group", 1))
    if pooled and weight.shape[2:] == (1, 1) and groups == 1:
        return _linear(weight[:, :, 0, 0], bias)
    layer = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        (weight.shape[2], weight.shape[3]),
        stride=_pair(spatial(node, "strides", 1)),
        padding=_even_pads(node),
        dilation=_pair(spatial(node, "dilations", 1)),
        groups=groups,
        bias=bias is not None,
    )
    return _filled(layer, weight, bias)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Module:
    """weight: (C, F)."""
    return _filled(Head(weight.shape[1], weight.shape[0], bias=True), weight, _or_zero(bias, len(weight)))


def _or_zero(bias: Tensor | None, count: int) -> Tensor:
    return torch.zeros(count) if bias is None else bias.reshape(-1).expand(count)


def _filled(layer: nn.Conv2d | nn.Linear, weight: Tensor, bias: Tensor | None) -> nn.Module:
    with torch.no_grad():
        layer.weight.copy_(weight)
        if layer.bias is not None and bias is not None:
            layer.bias.copy_(bias)
    return layer


def _pair(values: list[int]) -> tuple[int, int]:
    return values[0], values[1]


def _batch_norm(reader: _Reader, node: NodeProto) -> nn.Module:
    weight, bias, mean, variance = (reader.constant(name) for name in node.input[1:5])
    return _channel_affine(weight, bias, mean, variance, float(attributes(node).get("epsilon", 1e-5)))


def _channel_affine(weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, epsilon: float) -> nn.Module:
    layer = nn.BatchNorm2d(len(weight), eps=epsilon)
    with torch.no_grad():
        for own, value in zip((layer.weight, layer.bias), (weight, bias), strict=True):
            own.copy_(value)
    layer.running_mean, layer.running_var = mean, variance
    return layer


def _arithmetic(reader: _Reader, node: NodeProto) -> nn.Module:
    """Add of two maps is a residual connection; any of + - * / with a constant is a factor and a summand a channel."""
    variable = [name for name in node.input if name in reader.examples]
    if len(variable) == 2:
        if node.op_type != "Add" or len({reader.examples[name].shape for name in variable}) > 1:
            raise ExportError(f"{node.op_type} of two maps: only sums of maps of one shape can be read")
        return Sum()
    channels = reader.examples[variable[0]].shape[1]
    value = reader.constant(next(name for name in node.input if name not in reader.examples))
    if node.op_type in ("Sub", "Div") and node.input[0] not in reader.examples:
        raise ExportError(f"{node.op_type} of a constant and a map")
    one, zero = torch.ones(1), torch.zeros(1)
    scale, shift = {
        "Add": (one, value), "Sub": (one, -value), "Mul": (value, zero), "Div": (1 / value, zero),
    }[node.op_type]  # fmt: skip
    if not _one_a_channel(value, reader.examples[variable[0]]):
        raise ExportError(f"{node.op_type} with a constant of the shape {tuple(value.shape)}: not one number a channel")
    factor, summand = (part.reshape(-1).expand(channels).clone() for part in (scale, shift))
    return _into_last(reader, variable[0], factor, summand)


def _one_a_channel(value: Tensor, example: Tensor) -> bool:
    """Whether a constant broadcasts to one number for each channel of (N, C, h, w), or each label of (N, C)."""
    aligned = (1,) * (example.ndim - value.ndim) + tuple(value.shape)
    return aligned[1] in (1, example.shape[1]) and value.numel() == aligned[1]


def _into_last(reader: _Reader, name: str, factor: Tensor, summand: Tensor) -> nn.Module:
    """A factor and a summand go into the linear layer or batch norm that made the tensor, else into a new one."""
    step = next((step for step in reader.steps if step.makes == name), None)
    layer = reader.layers[step.layer] if step else None
    if isinstance(layer, Head | nn.BatchNorm2d) and reader.uses[name] == 1:
        with torch.no_grad():
            layer.weight.mul_(factor[:, None] if isinstance(layer, Head) else factor)
            layer.bias.mul_(factor).add_(summand)
        return nn.Identity()
    if reader.examples[name].ndim == 2:
        raise ExportError("arithmetic on a row of numbers that no linear layer has just made")
    ones = torch.ones(len(factor))
    return _channel_affine(factor, summand, 0 * ones, ones, 0.0)


def _maximum_pool(_: _Reader, node: NodeProto) -> nn.Module:
    _settings(node)
    if spatial(node, "dilations", 1) != [1, 1]:
        raise ExportError("MaxPool with dilation")
    return nn.MaxPool2d(
        _pair(kernel_shape(node)),
        _pair(spatial(node, "strides", 1)),
        _even_pads(node),
        ceil_mode=bool(attributes(node).get("ceil_mode", 0)),
    )


def _average_pool(reader: _Reader, node: NodeProto) -> nn.Module:
    _settings(node)
    kernel, around = kernel_shape(node), _even_pads(node)
    if tuple(kernel) == tuple(reader.examples[node.input[0]].shape[2:]) and around == (0, 0):
        return Mean(keepdim=True)
    return nn.AvgPool2d(
        _pair(kernel),
        _pair(spatial(node, "strides", 1)),
        around,
        ceil_mode=bool(attributes(node).get("ceil_mode", 0)),
        count_include_pad=bool(attributes(node).get("count_include_pad", 0)),
    )


def _mean(reader: _Reader, node: NodeProto) -> nn.Module:
    known = attributes(node)
    axes = known.get("axes") or (reader.constants[node.input[1]].tolist() if len(node.input) > 1 else [])
    if reader.examples[node.input[0]].ndim != 4 or sorted(axis % 4 for axis in axes) != [2, 3]:
        raise ExportError("ReduceMean over other axes than the map's")
    return Mean(keepdim=bool(known.get("keepdims", 1)))


def _flatten(reader: _Reader, node: NodeProto) -> nn.Module:
    """Flatten, Reshape and Squeeze are read only where they turn (N, F, 1, 1) or (N, F) into (N, F)."""
    example = reader.examples[node.input[0]]
    if math.prod(example.shape[2:]) != 1:
        raise ExportError(f"{node.op_type} of a map: the head must follow global average pooling")
    return nn.Flatten(1) if example.ndim > 2 else nn.Identity()


def _matrix_product(reader: _Reader, node: NodeProto) -> nn.Module:
    if node.input[0] not in reader.examples or node.input[1] not in reader.constants:
        raise ExportError("MatMul of two variable tensors (an attention?)")
    if reader.examples[node.input[0]].ndim != 2:
        raise ExportError("MatMul of something that is not a row of features")
    return _linear(reader.constant(node.input[1]).T, None)


def _gemm(reader: _Reader, node: NodeProto) -> nn.Module:
    known = attributes(node)
    if known.get("transA", 0) or node.input[1] not in reader.constants:
        raise ExportError("Gemm of another form than features x weight + bias")
    weight = reader.constant(node.input[1]) * float(known.get("alpha", 1.0))
    bias = reader.constant(node.input[2]) * float(known.get("beta", 1.0)) if len(node.input) > 2 else None
    return _linear(weight if known.get("transB", 0) else weight.T, bias)


LAYERS: dict[str, Callable[[_Reader, NodeProto], nn.Module]] = {
    "Add": _arithmetic,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Concat": lambda _, __: Concat(),
    "Conv": _convolution,
    "Div": _arithmetic,
    "Dropout": lambda _, __: nn.Identity(),
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda _, __: Mean(keepdim=True),
    "Identity": lambda _, __: nn.Identity(),
    "MatMul": _matrix_product,
    "MaxPool": _maximum_pool,
    "Mul": _arithmetic,
    "ReduceMean": _mean,
    "Relu": lambda _, __: nn.ReLU(),
    "Reshape": _flatten,
    "Squeeze": _flatten,
    "Sub": _arithmetic,
}

REFUSED = {
    "Softmax": "a softmax: labels that exclude each other. The audit reads one independent logit a label",
    "LogSoftmax": "a softmax: labels that exclude each other. The audit reads one independent logit a label",
    "Sigmoid": "a sigmoid inside the network (a gate); only the one behind the logits can be taken off",
    "Transpose": "a transposed layout (channels last?): export the network with channels first",
    "QuantizeLinear": "quantised: export the network in float32",
}


# --- Which layers to explain -----------------------------------------------------------------------------------------


def waists(network: OnnxNetwork) -> list[Step]:
    """The layers whose output everything behind depends on, in order: explained there, no evidence goes around."""
    last_read: dict[str, int] = {}
    for place, step in enumerate(network.steps):
        last_read.update(dict.fromkeys(step.reads, place))
    found, open_until = [], last_read[network.input_name]
    for place, step in enumerate(network.steps):
        if open_until <= place:
            found.append(step)
        open_until = max(open_until, last_read.get(step.makes, place))
    return found


def explained_layer(network: OnnxNetwork, side: int) -> str:
    """The layer that ends the last block of maps with `side` cells a side.

    A block ends where branches meet, in a Concat or a sum (with the ReLU behind it); without branches, at a ReLU.
    Raises ExportError where the network has no such maps.
    """
    here = [step for step in waists(network) if step.side == side]
    layers = [network.layers[step.layer] for step in here]
    for kind in (Concat | Sum, nn.ReLU):
        ends = [place for place, layer in enumerate(layers) if isinstance(layer, kind)]
        if ends:
            last = ends[-1]
            activated = isinstance(layers[last], Sum) and isinstance(layers[min(last + 1, len(layers) - 1)], nn.ReLU)
            return here[last + activated].layer
    sides = sorted({step.side for step in waists(network) if step.side > 1}, reverse=True)
    raise ExportError(f"no layer to explain with {side} x {side} cells; this network has maps of {sides}: name layers")
