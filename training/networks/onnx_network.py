"""The service's canonical graph -> the same network in PyTorch, so that it can be differentiated and searched.

Reading ONNX and refusing what cannot be audited is `service.graphs`' work; here each of its operators is one function.
"""

import json
from collections.abc import Callable

import onnx
import torch
from torch import Tensor, nn

from service.audit.classifier import METADATA_KEY
from service.errors import ClassifierError
from service.graphs.description import Description, read_description
from service.graphs.network import INPUT, Network, Operation
from service.graphs.reading import load_model, read_network


def own_description(model: onnx.ModelProto) -> Description:
    """What a file says of itself. Raises ClassifierError where it says nothing."""
    said = {entry.key: entry.value for entry in model.metadata_props}
    if METADATA_KEY not in said:
        raise ClassifierError("The file does not describe itself; see `triggerscope-train instrument`.")
    return read_description(json.loads(said[METADATA_KEY]))


def network_of(data: bytes) -> "OnnxNetwork":
    """The network of a self-described file. Raises Refused and ClassifierError."""
    model = load_model(data)
    return OnnxNetwork(read_network(model, own_description(model)))


class OnnxNetwork(nn.Module):
    """(N, 1, S, S) in [0, 1] -> logits (N, C), log-odds where labels exclude each other, as the derived file has them.

    layers: one for each operation, by the name of the tensor that it makes.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.layers = nn.ModuleDict({operation.output: Layer(operation) for operation in network.operations})
        self.eval()

    def forward(self, radiograph: Tensor) -> Tensor:
        values = {INPUT: radiograph}
        for operation in self.network.operations:
            values[operation.output] = self.layers[operation.output](*(values[name] for name in operation.inputs))
        logits = values[self.network.logits]
        return log_odds(logits) if self.network.head == "softmax" else logits

    def head(self) -> nn.Module:
        """The last linear layer, else whatever makes the logits."""
        kinds = {operation.kind: operation.output for operation in self.network.operations}
        return self.layers[kinds.get("Gemm", self.network.logits)]


def log_odds(logits: Tensor) -> Tensor:
    """(N, C) of a softmax -> (N, C), each minus the logarithm of the others' sum of exponentials."""
    own = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
    return logits - logits[:, None].masked_fill(own, -torch.inf).logsumexp(2)


class Layer(nn.Module):
    """One operation; its constants are buffers, so that `.double()` and `.to()` reach them."""

    def __init__(self, operation: Operation) -> None:
        super().__init__()
        self.operation = operation
        for number, values in enumerate(operation.constants):
            self.register_buffer(f"constant{number}", torch.from_numpy(values.copy()))

    def forward(self, *inputs: Tensor) -> Tensor:
        return OPERATORS[self.operation.kind](self.operation, *inputs, *self.buffers())


# --- One function for each operator ----------------------------------------------------------------------------------


def _padded(operation: Operation, maps: Tensor, value: float = 0.0) -> Tensor:
    top, left, bottom, right = operation.pads
    return nn.functional.pad(maps, (left, right, top, bottom), value=value)


def _convolution(operation: Operation, maps: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    settings = dict(operation.settings)
    return nn.functional.conv2d(
        _padded(operation, maps), weight, bias, operation.pair("strides"), 0, operation.pair("dilations"),
        int(str(settings["group"])),
    )  # fmt: skip


def _maximum_pool(operation: Operation, maps: Tensor) -> Tensor:
    padded = _padded(operation, maps, -torch.inf)
    return nn.functional.max_pool2d(padded, operation.pair("kernel_shape"), operation.pair("strides"))


def _average_pool(operation: Operation, maps: Tensor) -> Tensor:
    """Cells of padding count where the file says so."""
    window = operation.pair("kernel_shape"), operation.pair("strides")
    pooled = nn.functional.avg_pool2d(_padded(operation, maps), *window)
    if operation.setting("count_include_pad"):
        return pooled
    return pooled / nn.functional.avg_pool2d(_padded(operation, torch.ones_like(maps[:1, :1])), *window)


def _batch_norm(operation: Operation, maps: Tensor, *statistics: Tensor) -> Tensor:
    weight, bias, mean, variance = statistics
    epsilon = float(str(operation.setting("epsilon")))
    return nn.functional.batch_norm(maps, mean, variance, weight, bias, eps=epsilon)


OPERATORS: dict[str, Callable[..., Tensor]] = {
    "Add": lambda _, one, other: one + other,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Clip": lambda _, maps, low, high: nn.functional.hardtanh(maps, float(low), float(high)),
    "Concat": lambda _, *maps: torch.cat(maps, 1),
    "Conv": _convolution,
    "Div": lambda _, maps, values: maps / values,
    "Flatten": lambda _, maps: maps.flatten(1),
    "Gemm": lambda _, rows, weight, bias: nn.functional.linear(rows, weight, bias),
    "GlobalAveragePool": lambda _, maps: maps.mean((2, 3), keepdim=True),
    "GlobalMaxPool": lambda _, maps: maps.amax((2, 3), keepdim=True),
    "MaxPool": _maximum_pool,
    "Mul": lambda _, maps, values: maps * values,
    "Relu": lambda _, maps: maps.relu(),
    "Sub": lambda _, maps, values: maps - values,
}
