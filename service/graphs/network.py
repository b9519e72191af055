"""The canonical forward graph: the few operators that an audit understands, in one order and by one set of names.

Two files that compute the same in the same way have the same canonical graph, whatever their exporter called things
and in which order it wrote them; its hash, with labels and preprocessing, is the classifier's identity.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from service.graphs.description import Description, Head

OPSET = 20
IR_VERSION = 10
CANONICAL_FORM = 1  # of the identity's hash
INPUT = "radiograph"

Setting = int | float | tuple[int, ...]
Shape = tuple[int, ...]


class Refused(Exception):
    """A file that cannot be audited; the text says what it holds, and where."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operator. inputs: tensors that depend on the film; constants follow them, in the operator's order.

    shape: of the output for one film, (C, h, w) or (F,). origin: the output's name in the incoming file.
    """

    kind: str
    inputs: tuple[str, ...]
    output: str
    shape: Shape
    constants: tuple[NDArray[np.float32], ...] = ()
    settings: tuple[tuple[str, Setting], ...] = ()
    origin: str = ""

    def setting(self, name: str) -> Setting:
        return dict(self.settings)[name]

    def pair(self, name: str) -> tuple[int, int]:
        """A setting for rows and columns."""
        value = self.setting(name)
        assert isinstance(value, tuple)  # noqa: S101 - the reader writes them so
        return value[0], value[1]

    @property
    def pads(self) -> tuple[int, int, int, int]:
        """(top, left, bottom, right)."""
        value = self.setting("pads")
        assert isinstance(value, tuple)  # noqa: S101
        return value[0], value[1], value[2], value[3]

    @property
    def label(self) -> str:
        """For people: operator and the name of what it makes in the file."""
        return f"{self.kind} {self.origin}" if self.origin else self.kind


@dataclass(frozen=True, slots=True)
class Network:
    """operations: in canonical order; the last one makes the logits (C,). ended_in: what was taken off behind them."""

    channels: int
    size: int
    operations: tuple[Operation, ...]
    head: Head
    ended_in: str = ""

    @property
    def logits(self) -> str:
        return self.operations[-1].output

    @property
    def label_count(self) -> int:
        return self.operations[-1].shape[0]

    def shapes(self) -> dict[str, Shape]:
        return {INPUT: (1, self.size, self.size)} | {made.output: made.shape for made in self.operations}

    def makers(self) -> dict[str, Operation]:
        return {made.output: made for made in self.operations}

    def identity(self, description: Description) -> str:
        """Hash of the canonical graph with labels, preprocessing and head."""
        digest = hashlib.sha256(f"triggerscope canonical form {CANONICAL_FORM}\n".encode())
        said = {
            "labels": list(description.labels),
            "preprocessing": description.preprocessing.sha256,
            "head": self.head,
            "size": self.size,
        }
        digest.update(json.dumps(said, sort_keys=True).encode())
        for operation in self.operations:
            shown = [operation.kind, operation.inputs, operation.output, operation.shape, operation.settings]
            digest.update(json.dumps(shown).encode())
            for values in operation.constants:
                digest.update(json.dumps(["constant", list(values.shape)]).encode())
                digest.update(np.ascontiguousarray(values, dtype="<f4").data)
        return digest.hexdigest()

    def multiply_adds(self) -> int:
        """Of one film, in convolutions and linear layers."""
        return sum(_multiply_adds(operation) for operation in self.operations)


def in_canonical_order(operations: Sequence[Operation], output: str) -> tuple[Operation, ...]:
    """What the output depends on, each operation after what it reads, with names by place.

    The order is that of a walk back from the output along each operator's inputs, so it does not depend on the order
    in which the file lists its nodes.
    """
    maker = {made.output: made for made in operations}
    names: dict[str, str] = {INPUT: INPUT}
    ordered: list[Operation] = []
    for made in _after_inputs(maker, output):
        names[made.output] = f"t{len(ordered)}"
        ordered.append(
            Operation(
                made.kind,
                tuple(names[name] for name in made.inputs),
                names[made.output],
                made.shape,
                made.constants,
                made.settings,
                made.origin,
            )
        )
    return tuple(ordered)


def _after_inputs(maker: dict[str, Operation], output: str) -> Iterator[Operation]:
    waiting, done = [(output, False)], set[str]()
    while waiting:
        name, opened = waiting.pop()
        if name in done or name not in maker:
            continue
        if opened:
            done.add(name)
            yield maker[name]
            continue
        waiting.append((name, True))
        waiting += [(read, False) for read in reversed(maker[name].inputs)]


def _multiply_adds(operation: Operation) -> int:
    if operation.kind not in ("Conv", "Gemm"):
        return 0
    weight = operation.constants[0]  # (C_out, C_in / group, kh, kw) or (C, F)
    positions = prod(operation.shape[1:])
    return int(weight.size) * positions


# --- As ONNX ---------------------------------------------------------------------------------------------------------


def as_model(network: Network, start: str = INPUT, also: Sequence[str] = ()) -> ModelProto:
    """An ONNX model with one input, `start`, and the logits as its output; dynamic in the batch.

    start: a tensor that all ways pass: what lies before it is left out. also: further tensors to put out.
    """
    shapes = network.shapes()
    graph = GraphProto(name="classifier")
    graph.input.append(_declared(start, shapes[start]))
    graph.output.extend(_declared(name, shapes[name]) for name in (network.logits, *also))
    known = {start}
    for operation in network.operations:
        if known.issuperset(operation.inputs) and operation.output != start:
            known.add(operation.output)
            append_operation(graph, operation)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def attributes(node: NodeProto) -> dict[str, Any]:
    """The attributes of a node by name; strings as bytes."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _declared(name: str, shape: Shape) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape])


def append_operation(graph: GraphProto, operation: Operation) -> None:
    names = [f"{operation.output}/{number}" for number in range(len(operation.constants))]
    for name, values in zip(names, operation.constants, strict=True):
        graph.initializer.append(numpy_helper.from_array(np.asarray(values, dtype=np.float32, order="C"), name))
    settings: dict[str, Any] = dict(operation.settings)
    node = helper.make_node(
        operation.kind, [*operation.inputs, *names], [operation.output], name=operation.output, **settings
    )
    graph.node.append(node)
