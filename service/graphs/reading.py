"""A stranger's ONNX file -> the canonical forward graph, or the reason why it cannot be audited.

Read is what the logits depend on, and nothing else of the file: maps, further outputs and metadata that it brings are
left behind. Operators are those of convolutional networks that keep every place where it is; what moves or mixes
places, chooses by the data, draws random numbers or comes from elsewhere is refused by name.
"""

from collections import Counter
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # it ships no types
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from service.graphs.description import Description, Head, Normalisation
from service.graphs.network import (
    INPUT,
    Network,
    Operation,
    Refused,
    Setting,
    Shape,
    attributes,
    in_canonical_order,
)

OLDEST_OPSET = 13
MOST_NODES = 20_000
LARGEST_TENSOR = 1 << 26  # numbers, of one film
MOST_MULTIPLY_ADDS = 200_000_000_000  # of one film; DenseNet-121 at 224 px takes 2.8e9
PREFERRED_OUTPUT = "logits"
USUAL_EPSILON = 1e-5

Array = NDArray[np.generic]

# Operators that may make constants of constants; nothing random, nothing with a graph of its own.
FOLDED = frozenset(
    {
        "Add", "Cast", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Expand", "Floor", "Gather", "Identity",
        "Mul", "Neg", "Range", "Reciprocal", "Reshape", "Shape", "Slice", "Sqrt", "Squeeze", "Sub", "Transpose",
        "Unsqueeze", "Where",
    }
)  # fmt: skip
GATE = "a gate: it multiplies maps by what the film says, so that places are weighed by other places"
MOVES = "it moves or mixes places"
REFUSED = {
    "Attention": MOVES, "Einsum": MOVES, "Transpose": f"{MOVES} (or the file keeps channels last: export them first)",
    "MatMul": MOVES, "Gather": MOVES, "GatherND": MOVES, "GatherElements": MOVES, "ScatterND": MOVES,
    "ScatterElements": MOVES, "Slice": MOVES, "Split": MOVES, "Resize": MOVES, "Upsample": MOVES,
    "DepthToSpace": MOVES, "SpaceToDepth": MOVES, "GridSample": MOVES, "RoiAlign": MOVES, "ReverseSequence": MOVES,
    "ConvTranspose": MOVES, "Unsqueeze": MOVES,
    "Where": "it chooses by the data", "Greater": "it chooses by the data", "Less": "it chooses by the data",
    "GreaterOrEqual": "it chooses by the data", "LessOrEqual": "it chooses by the data",
    "Equal": "it chooses by the data", "ArgMax": "it chooses by the data", "TopK": "it chooses by the data",
    "If": "control flow", "Loop": "control flow", "Scan": "control flow", "SequenceMap": "control flow",
    "RandomNormal": "random numbers", "RandomNormalLike": "random numbers", "RandomUniform": "random numbers",
    "RandomUniformLike": "random numbers", "Bernoulli": "random numbers", "Multinomial": "random numbers",
    "Sigmoid": "a sigmoid inside the network (a gate); only one behind the logits is taken off",
    "HardSigmoid": "a gate inside the network", "HardSwish": "an activation that is not read yet",
    "Softmax": "a softmax inside the network; only one behind the logits is taken off",
    "QuantizeLinear": "quantised: export the network in float32",
    "DequantizeLinear": "quantised: export the network in float32",
    "DynamicQuantizeLinear": "quantised: export the network in float32",
    "LayerNormalization": "a normalisation over places, which is not read yet",
    "InstanceNormalization": "a normalisation over places, which is not read yet",
    "GroupNormalization": "a normalisation over places, which is not read yet",
}  # fmt: skip


def load_model(data: bytes) -> ModelProto:
    """Parse and check a file. Raises Refused."""
    try:
        model = onnx.load_model_from_string(data)
        onnx.checker.check_model(model)
    except DecodeError:
        raise Refused("The file is no ONNX model, or it is cut short.") from None
    except Exception as error:  # noqa: BLE001 - the checker, in C++, raises what it likes
        raise Refused(f"The file is no valid ONNX model: {first_line(error)}") from None
    opsets = {item.domain or "ai.onnx": item.version for item in model.opset_import}
    opset = opsets.get("ai.onnx", 0)
    if not OLDEST_OPSET <= opset <= onnx.defs.onnx_opset_version():
        newest = onnx.defs.onnx_opset_version()
        raise Refused(f"The file is of opset {opset}; opsets {OLDEST_OPSET} to {newest} are read.")
    if len(model.graph.node) > MOST_NODES:
        raise Refused(f"The file has {len(model.graph.node)} nodes; at most {MOST_NODES} are read.")
    return model


def first_line(error: BaseException) -> str:
    """The beginning of a library's message, in printable characters."""
    text = str(error).strip().splitlines()
    return "".join(letter for letter in (text[0] if text else type(error).__name__)[:200] if letter.isprintable())


def read_network(model: ModelProto, description: Description) -> Network:
    """The canonical graph of the logits, behind the described normalisation. Raises Refused."""
    return _Reader(model, description).network()


def output_of(graph: GraphProto, description: Description) -> str:
    """The name of the output with the logits. Raises Refused where that has to be said."""
    names = [str(item.name) for item in graph.output]
    if description.output:
        if description.output not in names:
            raise Refused(f"The file has no output {description.output}; it has {', '.join(names[:10])}.")
        return description.output
    if len(names) == 1:
        return names[0]
    if PREFERRED_OUTPUT in names:
        return PREFERRED_OUTPUT
    raise Refused(f"The file has {len(names)} outputs: name the one with the logits ({', '.join(names[:10])}).")


class _Reader:
    """Walks the graph with every shape in hand, folds what depends on constants only, writes canonical operations."""

    def __init__(self, model: ModelProto, description: Description) -> None:
        self.model, self.description = model, description
        self.graph: GraphProto = model.graph
        self.constants: dict[str, Array] = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in self.graph.initializer
        }
        self.names: dict[str, str] = {}  # tensor of the file that depends on the film -> the operation that makes it
        self.shapes: dict[str, Shape] = {}
        self.operations: dict[str, Operation] = {}
        self.head: Head = description.head
        self.ended_in = ""
        self.ended_over = 1  # axis
        self.fresh = 0

    def network(self) -> Network:
        output = output_of(self.graph, self.description)
        needed = _cone(self.graph, output)
        channels, size = self._input(needed)
        self._normalise(channels, size, self.description.normalisation)
        nodes = [node for node in self.graph.node if any(name in needed for name in node.output)]
        self._end(nodes, output)
        for node in nodes:
            self._read(node)
        return self._finished(output, channels, size)

    def _finished(self, output: str, channels: int, size: int) -> Network:
        made = self.names.get(output)
        if made is None:
            raise Refused("The logits do not depend on the film.")
        if self.ended_over % (1 + len(self.shapes[made])) != 1:
            raise Refused(f"{self.ended_in} over another axis than the labels'.")
        if len(self.shapes[made]) > 1 and prod(self.shapes[made][1:]) == 1:
            made = self._flattened(made, output)
        shape = self.shapes[made]
        if len(shape) != 1 or made not in self.operations:
            raise Refused("The output is no row of logits for each film.")
        if shape[0] != len(self.description.labels):
            raise Refused(f"The network has {shape[0]} outputs, and {len(self.description.labels)} labels were named.")
        if self.head == "softmax" and shape[0] < 2:
            raise Refused("A softmax needs at least 2 labels that exclude each other.")
        ordered = in_canonical_order(list(self.operations.values()), made)
        network = Network(channels, size, ordered, self.head, self.ended_in)
        if not any(INPUT in operation.inputs for operation in ordered):
            raise Refused("The logits do not depend on the film.")
        if network.multiply_adds() > MOST_MULTIPLY_ADDS:
            raise Refused(f"The network takes {network.multiply_adds():.1e} multiply-adds a film: too many to audit.")
        return network

    # --- What comes in and what goes out ---

    def _input(self, needed: set[str]) -> tuple[int, int]:
        images = [item for item in self.graph.input if item.name not in self.constants and item.name in needed]
        if not images:
            raise Refused("The logits do not depend on any input.")
        if len(images) > 1:
            raise Refused(f"The logits depend on {len(images)} inputs ({', '.join(item.name for item in images)}).")
        [image] = images
        if image.type.tensor_type.elem_type != TensorProto.FLOAT:
            raise Refused("The input is not float32: export the network in float32.")
        sides = [dimension.dim_value for dimension in image.type.tensor_type.shape.dim]
        if len(sides) != 4 or sides[1] not in (1, 3):
            raise Refused(f"The input is {sides}, and not (N, 1 or 3 channels, S, S); 0 stands for any number.")
        size = self.description.preprocessing.size
        if {side for side in sides[2:] if side} - {size}:
            raise Refused(f"The file's input is {sides[2]} x {sides[3]}, and the preprocessing makes {size} x {size}.")
        self.names[image.name] = INPUT
        return sides[1], size

    def _normalise(self, channels: int, size: int, normalisation: Normalisation) -> None:
        """The described normalisation, and one grey channel for each of the network's."""
        self.shapes[INPUT] = (1, size, size)
        [image] = self.names
        if normalisation.is_none and channels == 1:
            return
        if len(normalisation.mean) not in (1, channels):
            raise Refused(f"The network takes {channels} channel(s), and the normalisation is for 3.")
        mean = np.array(normalisation.mean, dtype=np.float32)
        offset = 1 - mean if normalisation.air_white else mean
        spread = np.array(normalisation.std, dtype=np.float32) * (-1 if normalisation.air_white else 1)
        made = INPUT
        for kind, values in (("Sub", offset), ("Div", spread)):
            column = np.broadcast_to(values.reshape(-1, 1, 1), (channels, 1, 1))
            made = self.add(kind, [made], (channels, size, size), [column], origin="normalisation")
        self.names[image] = made

    def _end(self, nodes: list[NodeProto], output: str) -> None:
        """Take off a sigmoid or softmax behind the logits, whatever they are called behind it."""
        kinds: dict[str, Head] = {"Sigmoid": "sigmoid", "Softmax": "softmax", "LogSoftmax": "softmax"}
        maker = {name: place for place, node in enumerate(nodes) for name in node.output}
        read = Counter(name for node in nodes for name in node.input)
        name, readers = output, 0
        while name in maker and nodes[maker[name]].op_type == "Identity" and read[name] == readers:
            name, readers = nodes[maker[name]].input[0], 1
        if name not in maker or read[name] != readers or nodes[maker[name]].op_type not in kinds:
            return  # a sigmoid that is read elsewhere is not the end
        last = nodes[maker[name]]
        if last.op_type != "Sigmoid":
            self.ended_over = attributes(last).get("axis", -1)
        self.head, self.ended_in = kinds[last.op_type], last.op_type
        nodes[maker[name]] = helper.make_node("Identity", [last.input[0]], [name])

    # --- One node after the other ---

    def _read(self, node: NodeProto) -> None:
        present = [name for name in node.input if name]
        if node.op_type == "Shape" and node.input[0] in self.names:
            whole = np.array([1, *self.shapes[self.names[node.input[0]]]], dtype=np.int64)
            known = attributes(node)
            self.constants[node.output[0]] = whole[known.get("start", 0) : known.get("end", len(whole))]
        elif all(name in self.constants for name in present):
            self._fold(node)
        elif node.op_type in READERS:
            READERS[node.op_type](self, node)
        else:
            reason = REFUSED.get(node.op_type, "an operator that is not read")
            raise Refused(f"{_where(node)}: {reason}.")

    def _fold(self, node: NodeProto) -> None:
        if node.op_type not in FOLDED:
            reason = REFUSED.get(node.op_type, "an operator that is not read")
            raise Refused(f"{_where(node)}, of constants: {reason}.")
        self.constants |= evaluated(self.model, node, self.constants)

    def add(
        self,
        kind: str,
        inputs: list[str],
        shape: Shape,
        constants: list[Array] | None = None,
        settings: dict[str, Setting] | None = None,
        origin: str = "",
    ) -> str:
        """Write an operation; returns its name here. Raises Refused for sizes that nothing honest has."""
        if min(shape) < 1 or prod(shape) > LARGEST_TENSOR:
            raise Refused(f"{kind} {origin} would make a tensor of {' x '.join(map(str, shape))} numbers a film.")
        kept = tuple(np.asarray(values, dtype=np.float32) for values in constants or [])
        if not all(np.isfinite(values).all() for values in kept):
            raise Refused(f"{kind} {origin} has weights that are no finite numbers.")
        self.fresh += 1
        name = f"read{self.fresh}"
        ordered = tuple(sorted((settings or {}).items()))
        self.operations[name] = Operation(kind, tuple(inputs), name, shape, kept, ordered, origin)
        self.shapes[name] = shape
        return name

    def write(
        self,
        node: NodeProto,
        shape: Shape,
        kind: str = "",
        constants: list[Array] | None = None,
        settings: dict[str, Setting] | None = None,
    ) -> None:
        """The operation of a node whose variable inputs are all of its own."""
        inputs = [self.names[name] for name in node.input if name in self.names]
        made = self.add(kind or node.op_type, inputs, shape, constants, settings, origin=node.output[0])
        self.names[node.output[0]] = made

    def alias(self, node: NodeProto) -> None:
        self.names[node.output[0]] = self.names[node.input[0]]

    def shape(self, name: str) -> Shape:
        return self.shapes[self.names[name]]

    def constant(self, node: NodeProto, place: int) -> Array:
        """A constant input of a node. Raises Refused where it depends on the film or is missing."""
        name = node.input[place] if place < len(node.input) else ""
        if name not in self.constants:
            raise Refused(f"{_where(node)}: its input {place + 1} is not a constant.")
        return self.constants[name]

    def optional(self, node: NodeProto, place: int) -> Array | None:
        return self.constant(node, place) if place < len(node.input) and node.input[place] else None

    def _flattened(self, made: str, origin: str) -> str:
        return self.add("Flatten", [made], (prod(self.shapes[made]),), settings={"axis": 1}, origin=origin)


def _cone(graph: GraphProto, output: str) -> set[str]:
    """The names of all tensors that an output depends on, and its own."""
    maker = {name: node for node in graph.node for name in node.output if name}
    needed, waiting = set[str](), [output]
    while waiting:
        name = waiting.pop()
        if name and name not in needed:
            needed.add(name)
            waiting += maker[name].input if name in maker else []
    return needed


def evaluated(model: ModelProto, node: NodeProto, known: dict[str, Array]) -> dict[str, Array]:
    """The outputs of a node of constants, by onnx's own evaluator."""
    wanted = [name for name in dict.fromkeys(node.input) if name]
    made = [name for name in node.output if name]
    inputs, outputs = ([helper.make_value_info(name, onnx.TypeProto()) for name in names] for names in (wanted, made))
    graph = helper.make_graph([node], "constants", inputs, outputs)
    try:
        evaluator = ReferenceEvaluator(helper.make_model(graph, opset_imports=list(model.opset_import)))
        values: Any = evaluator.run(made, {name: known[name] for name in wanted})
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - the evaluator raises what numpy does
        raise Refused(f"{_where(node)}, of constants, cannot be computed: {first_line(error)}.") from None
    return dict(zip(made, map(np.asarray, values), strict=True))


def _where(node: NodeProto) -> str:
    return f"{node.op_type} {node.output[0]}" if node.output else node.op_type


# --- One function for each operator ----------------------------------------------------------------------------------


def _alias(reader: _Reader, node: NodeProto) -> None:
    reader.alias(node)


def _cast(reader: _Reader, node: NodeProto) -> None:
    if attributes(node)["to"] != TensorProto.FLOAT:
        raise Refused(f"{_where(node)} turns what the film says into another type: a step that no gradient sees.")
    reader.alias(node)


def _dropout(reader: _Reader, node: NodeProto) -> None:
    training = reader.optional(node, 2)
    if training is not None and bool(training):
        raise Refused(f"{_where(node)} is in training mode: random numbers.")
    reader.alias(node)


def _elementwise(reader: _Reader, node: NodeProto) -> None:
    reader.write(node, reader.shape(node.input[0]), "Relu")


def _clip(reader: _Reader, node: NodeProto) -> None:
    low, high = reader.optional(node, 1), reader.optional(node, 2)
    if low is None or float(low.reshape(())) != 0.0:
        raise Refused(f"{_where(node)} with another lower bound than 0.")
    if high is None or float(high.reshape(())) >= float(np.finfo(np.float32).max):
        reader.write(node, reader.shape(node.input[0]), "Relu")
        return
    bounds: list[Array] = [np.zeros((), np.float32), np.asarray(high, dtype=np.float32).reshape(())]
    if not float(high.reshape(())) > 0:
        raise Refused(f"{_where(node)} with an upper bound that is not above 0.")
    reader.write(node, reader.shape(node.input[0]), "Clip", bounds)


def _windowed(node: NodeProto, shape: Shape, kernel: list[int]) -> tuple[dict[str, Setting], tuple[int, int]]:
    """The settings of a convolution or pool in full, and the height and width that it makes."""
    known = attributes(node)
    strides, dilations = (_two(node, known, name) for name in ("strides", "dilations"))
    pads = _pads(node, known, shape, kernel, strides, dilations)
    sides = []
    for axis in (0, 1):
        reach = shape[1 + axis] + pads[axis] + pads[axis + 2] - dilations[axis] * (kernel[axis] - 1) - 1
        if known.get("ceil_mode", 0) and reach % strides[axis]:
            raise Refused(f"{_where(node)} with ceil_mode where it makes a difference.")
        sides.append(reach // strides[axis] + 1)
    settings: dict[str, Setting] = {"kernel_shape": tuple(kernel), "strides": tuple(strides), "pads": tuple(pads)}
    if node.op_type == "Conv":
        settings |= {"dilations": tuple(dilations), "group": int(known.get("group", 1))}
    elif dilations != [1, 1]:
        raise Refused(f"{_where(node)} with dilation.")
    return settings, (sides[0], sides[1])


def _two(node: NodeProto, known: dict[str, Any], name: str) -> list[int]:
    found = [int(value) for value in known.get(name, [1, 1])]
    if len(found) != 2 or min(found) < 1:
        raise Refused(f"{_where(node)} with {name} of an unexpected form.")
    return found


def _pads(
    node: NodeProto, known: dict[str, Any], shape: Shape, kernel: list[int], strides: list[int], dilations: list[int]
) -> list[int]:
    """(top, left, bottom, right), also for the exporters that only say SAME."""
    automatic = known.get("auto_pad", b"NOTSET")
    if automatic in (b"SAME_UPPER", b"SAME_LOWER"):
        around = []
        for axis in (0, 1):
            out = -(-shape[1 + axis] // strides[axis])
            total = max(0, (out - 1) * strides[axis] + dilations[axis] * (kernel[axis] - 1) + 1 - shape[1 + axis])
            before = total // 2 if automatic == b"SAME_UPPER" else total - total // 2
            around.append((before, total - before))
        return [around[0][0], around[1][0], around[0][1], around[1][1]]
    found = [int(value) for value in known.get("pads", [0, 0, 0, 0])]
    if len(found) != 4 or min(found) < 0:
        raise Refused(f"{_where(node)} with pads of an unexpected form.")
    return [0, 0, 0, 0] if automatic == b"VALID" else found


def _map_shape(reader: _Reader, node: NodeProto) -> Shape:
    shape = reader.shape(node.input[0])
    if len(shape) != 3:
        raise Refused(f"{_where(node)} of something that is no map.")
    return shape


def _convolution(reader: _Reader, node: NodeProto) -> None:
    shape, weight, bias = _map_shape(reader, node), reader.constant(node, 1), reader.optional(node, 2)
    if weight.ndim != 4:
        raise Refused(f"{_where(node)} is not a two-dimensional convolution.")
    settings, sides = _windowed(node, shape, [int(side) for side in weight.shape[2:]])
    at_a_cell = shape[1:] == sides == (1, 1) and weight.shape[2:] == (1, 1) and not any(settings["pads"])  # type: ignore[arg-type]
    if at_a_cell and settings["group"] == 1:
        row = reader._flattened(reader.names[node.input[0]], node.output[0])  # noqa: SLF001 - the same module
        _linear(reader, node, row, weight[:, :, 0, 0], bias)
        return
    group = int(attributes(node).get("group", 1))
    if group < 1 or weight.shape[1] * group != shape[0] or weight.shape[0] % group:
        raise Refused(f"{_where(node)} reads another number of channels than there are.")
    reader.write(node, (int(weight.shape[0]), *sides), "Conv", [weight] + ([] if bias is None else [bias]), settings)


def _batch_norm(reader: _Reader, node: NodeProto) -> None:
    known, shape = attributes(node), reader.shape(node.input[0])
    if known.get("training_mode", 0) or len([name for name in node.output if name]) > 1:
        raise Refused(f"{_where(node)} is in training mode: what it says of a film depends on the films beside it.")
    constants = [reader.constant(node, place).reshape(-1) for place in range(1, 5)]
    if any(len(values) != shape[0] for values in constants) or float(constants[3].min()) < 0:
        raise Refused(f"{_where(node)} has statistics of an unexpected form.")
    settings: dict[str, Setting] = {"epsilon": float(np.float32(known.get("epsilon", USUAL_EPSILON)))}
    reader.write(node, shape, "BatchNormalization", list(constants), settings)


def _arithmetic(reader: _Reader, node: NodeProto) -> None:
    """Add of two maps is a residual connection; + - * / with a constant is a factor or a summand a channel."""
    variable = [name for name in node.input if name in reader.names]
    if len(variable) == 2:
        if node.op_type == "Mul":
            raise Refused(f"{_where(node)}: {GATE}.")
        shapes = {reader.shape(name) for name in variable}
        if node.op_type != "Add" or len(shapes) > 1:
            raise Refused(f"{_where(node)} of two tensors that depend on the film: only sums of one shape are read.")
        reader.write(node, shapes.pop(), "Add")
        return
    shape, kind = reader.shape(variable[0]), node.op_type
    value = np.asarray(next(reader.constants[name] for name in node.input if name in reader.constants), np.float32)
    column = _one_a_channel(node, value, shape)
    made = (max(shape[0], len(column)), *shape[1:])
    if kind in ("Sub", "Div") and node.input[0] not in reader.names:
        if kind == "Div":
            raise Refused(f"{_where(node)} divides a constant by what the film says.")
        negative = reader.add("Mul", [reader.names[variable[0]]], made, [-np.ones_like(column)], origin=node.output[0])
        reader.names[node.output[0]] = reader.add("Add", [negative], made, [column], origin=node.output[0])
        return
    if kind == "Div" and not np.all(column):
        raise Refused(f"{_where(node)} divides by 0.")
    if kind == "Add" and _into_bias(reader, node, variable[0], column):
        return
    name = reader.add(kind, [reader.names[variable[0]]], made, [column], origin=node.output[0])
    reader.names[node.output[0]] = name


def _one_a_channel(node: NodeProto, value: NDArray[np.float32], shape: Shape) -> NDArray[np.float32]:
    """A constant as (C or 1, 1, 1) beside a map, (C or 1,) beside a row."""
    aligned = (1,) * max(0, len(shape) + 1 - value.ndim) + value.shape
    fits = value.ndim <= len(shape) + 1 and aligned[0] == 1 and value.size == aligned[1]
    if not fits or (value.size not in (1, shape[0]) and shape[0] != 1):
        raise Refused(f"{_where(node)} with a constant of the shape {list(value.shape)}: not one number a channel.")
    return value.reshape((-1,) + (1,) * (len(shape) - 1))


def _into_bias(reader: _Reader, node: NodeProto, name: str, row: NDArray[np.float32]) -> bool:
    """MatMul and Add, as some exporters write a linear layer, are one Gemm."""
    made = reader.operations.get(reader.names[name])
    reads = sum(name in other.input for other in reader.graph.node)
    if made is None or made.kind != "Gemm" or reads > 1 or made.shape[0] % len(row) or made.constants[1].any():
        return False
    bias = np.broadcast_to(row, made.shape)
    reader.names[node.output[0]] = reader.add(
        "Gemm", list(made.inputs), made.shape, [made.constants[0], bias], dict(made.settings), node.output[0]
    )
    return True


def _pool(reader: _Reader, node: NodeProto) -> None:
    shape, known = _map_shape(reader, node), attributes(node)
    kernel = [int(side) for side in known["kernel_shape"]]
    if len([name for name in node.output if name]) > 1 or len(kernel) != 2:
        raise Refused(f"{_where(node)} of an unexpected form.")
    settings, sides = _windowed(node, shape, kernel)
    padded = any(settings["pads"])  # type: ignore[arg-type]  # it is a tuple
    if node.op_type == "AveragePool":
        if tuple(kernel) == shape[1:] and not padded:
            reader.write(node, (shape[0], 1, 1), "GlobalAveragePool")
            return
        settings["count_include_pad"] = int(bool(known.get("count_include_pad", 0))) if padded else 0
    reader.write(node, (shape[0], *sides), node.op_type, settings=settings)


def _mean(reader: _Reader, node: NodeProto) -> None:
    known, shape = attributes(node), _map_shape(reader, node)
    axes = known.get("axes")
    if axes is None and len(node.input) > 1 and node.input[1]:
        axes = reader.constant(node, 1).reshape(-1).tolist()
    if sorted(int(axis) % 4 for axis in axes or []) != [2, 3]:
        raise Refused(f"{_where(node)} over other axes than the map's.")
    pooled = reader.add("GlobalAveragePool", [reader.names[node.input[0]]], (shape[0], 1, 1), origin=node.output[0])
    if not known.get("keepdims", 1):
        pooled = reader._flattened(pooled, node.output[0])  # noqa: SLF001
    reader.names[node.output[0]] = pooled


def _global_pool(reader: _Reader, node: NodeProto) -> None:
    reader.write(node, (_map_shape(reader, node)[0], 1, 1), node.op_type)


def _concatenation(reader: _Reader, node: NodeProto) -> None:
    if not all(name in reader.names for name in node.input):
        raise Refused(f"{_where(node)} of maps with constants.")
    shapes = [reader.shape(name) for name in node.input]
    axis = attributes(node)["axis"] % (len(shapes[0]) + 1)
    if axis != 1 or len({shape[1:] for shape in shapes}) > 1:
        raise Refused(f"{_where(node)}: {MOVES} (only channels of maps of one size are joined).")
    reader.write(node, (sum(shape[0] for shape in shapes), *shapes[0][1:]), settings={"axis": 1})


def _flatten(reader: _Reader, node: NodeProto) -> None:
    """Flatten, Reshape and Squeeze are read where they make a row of a map, or change nothing."""
    shape = reader.shape(node.input[0])
    wanted = _target(reader, node, shape)
    if wanted == shape:
        reader.alias(node)
    elif wanted == (prod(shape),):
        reader.names[node.output[0]] = reader._flattened(reader.names[node.input[0]], node.output[0])  # noqa: SLF001
    else:
        raise Refused(f"{_where(node)} of {list(shape)} to {list(wanted)}: {MOVES}.")


def _target(reader: _Reader, node: NodeProto, shape: Shape) -> Shape:
    """The shape, for one film, that Flatten, Reshape or Squeeze makes."""
    known, whole = attributes(node), [1, *shape]
    if node.op_type == "Flatten":
        return (prod(shape),) if known.get("axis", 1) in (1, 1 - len(whole)) else (0,)
    if node.op_type == "Squeeze":
        axes = reader.optional(node, 1)
        dropped = {int(axis) % len(whole) for axis in (axes.reshape(-1) if axes is not None else [])}
        if not dropped or 0 in dropped or any(whole[axis] != 1 for axis in dropped):
            raise Refused(f"{_where(node)} over axes that are not 1.")
        return tuple(side for axis, side in enumerate(whole) if axis > 0 and axis not in dropped)
    target = [int(side) for side in reader.constant(node, 1).reshape(-1)]
    if not known.get("allowzero", 0):
        target = [whole[place] if side == 0 and place < len(whole) else side for place, side in enumerate(target)]
    if target and target[0] == -1 and prod(target[1:]) == prod(shape):
        target[0] = 1
    if -1 in target[1:]:
        place = target.index(-1, 1)
        target[place] = prod(shape) // max(1, prod(side for at, side in enumerate(target) if at not in (0, place)))
    return tuple(target[1:]) if target and target[0] == 1 else (0,)


def _repetition(reader: _Reader, node: NodeProto) -> None:
    """Expand and Tile are read where they give one channel to several."""
    shape = _map_shape(reader, node)
    target = [int(side) for side in reader.constant(node, 1).reshape(-1)]
    times = target[1] if len(target) == 4 else 0
    rest = [side in (1, whole) for side, whole in zip(target[2:], shape[1:], strict=False)]
    if times < 1 or shape[0] != 1 or target[0] not in (1, -1) or not all(rest):
        raise Refused(f"{_where(node)}: {MOVES} (one grey channel may be given to several, nothing else).")
    if node.op_type == "Tile" and target[2:] != [1, 1]:
        raise Refused(f"{_where(node)}: {MOVES}.")
    own = reader.names[node.input[0]]
    made = reader.add("Concat", [own] * times, (times, *shape[1:]), settings={"axis": 1}, origin=node.output[0])
    reader.names[node.output[0]] = own if times == 1 else made


def _linear(reader: _Reader, node: NodeProto, row: str, weight: Array, bias: Array | None) -> None:
    """weight: (C, F)."""
    if reader.shapes[row] != (weight.shape[1],):
        raise Refused(f"{_where(node)} reads another number of features than there are.")
    summand = np.zeros(len(weight), np.float32) if bias is None else np.asarray(bias, np.float32).reshape(-1)
    if len(summand) not in (1, len(weight)):
        raise Refused(f"{_where(node)} has a bias of an unexpected form.")
    constants: list[Array] = [np.ascontiguousarray(weight), np.broadcast_to(summand, (len(weight),))]
    reader.names[node.output[0]] = reader.add(
        "Gemm", [row], (len(weight),), constants, {"transB": 1}, origin=node.output[0]
    )


def _row(reader: _Reader, node: NodeProto) -> str:
    if node.input[0] not in reader.names or (len(node.input) > 1 and node.input[1] not in reader.constants):
        raise Refused(f"{_where(node)} of two tensors that depend on the film (an attention?): {MOVES}.")
    if len(reader.shape(node.input[0])) != 1:
        raise Refused(f"{_where(node)} of a map: {MOVES}.")
    return reader.names[node.input[0]]


def _matrix_product(reader: _Reader, node: NodeProto) -> None:
    row, weight = _row(reader, node), reader.constant(node, 1)
    if weight.ndim != 2:
        raise Refused(f"{_where(node)} with weights that are no matrix.")
    _linear(reader, node, row, weight.T, None)


def _gemm(reader: _Reader, node: NodeProto) -> None:
    row, known, weight = _row(reader, node), attributes(node), reader.constant(node, 1)
    if known.get("transA", 0) or weight.ndim != 2:
        raise Refused(f"{_where(node)} of another form than features x weights + bias.")
    bias = reader.optional(node, 2)
    factor, summand = np.float32(known.get("alpha", 1.0)), np.float32(known.get("beta", 1.0))
    weight = np.asarray(weight, np.float32) if factor == 1 else np.asarray(weight, np.float32) * factor
    _linear(
        reader, node, row, weight if known.get("transB", 0) else weight.T,
        None if bias is None else np.asarray(bias, np.float32) * summand,
    )  # fmt: skip


READERS: dict[str, Callable[[_Reader, NodeProto], None]] = {
    "Add": _arithmetic,
    "AveragePool": _pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concatenation,
    "Conv": _convolution,
    "Div": _arithmetic,
    "Dropout": _dropout,
    "Expand": _repetition,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "Identity": _alias,
    "MatMul": _matrix_product,
    "MaxPool": _pool,
    "Mul": _arithmetic,
    "ReduceMean": _mean,
    "Relu": _elementwise,
    "Reshape": _flatten,
    "Squeeze": _flatten,
    "Sub": _arithmetic,
    "Tile": _repetition,
}
OPERATORS = tuple(sorted(READERS))
