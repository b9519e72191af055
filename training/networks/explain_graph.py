"""Exact gradient maps inside an ONNX graph: reverse-mode differentiation of a convolutional forward graph.

ONNX has no autograd, but the gradients of the few operators between a block's output and the logits are ordinary
operators themselves: the gradient of a convolution is a convolution with its weights turned round, of a ReLU a mask,
of an average pool an upsampling, of a concatenation a split. `explain` appends them to a forward graph, stops at the
outputs of the explained blocks, and reads LayerCAM and Grad-CAM there. Nothing runs twice: the masks come from the
forward pass, and the weights are stored once (ONNX Runtime turns them round when it loads the file).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference

from service.audit.forward_graph import EXPLANATION_PREFIX

# HardSigmoid with this slope is 0 for x <= 0 and 1 for every positive normal float32: a ReLU's derivative in one pass.
STEP_SLOPE = 2.0**126

LABELS_INPUTS = ("label_centre", "label_scale")


class ExportError(Exception):
    """A network that cannot be exported as an auditable classifier, or whose export disagrees with autograd."""


def attributes(node: NodeProto) -> dict[str, Any]:
    """The attributes of a node by name; strings as bytes."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def spatial(node: NodeProto, name: str, default: int) -> list[int]:
    """An integer list attribute of a two-dimensional convolution or pool (`strides`, `dilations`, `pads`)."""
    length = 4 if name == "pads" else 2
    found = attributes(node).get(name, [default] * length)
    if not isinstance(found, Sequence) or len(found) != length:
        raise ExportError(f"{node.op_type} with {name} of an unexpected form")
    return [int(value) for value in found]


def kernel_shape(node: NodeProto) -> list[int]:
    """The (height, width) of a convolution's or pool's window."""
    return spatial(node, "kernel_shape", 0)


# --- The forward graph, put into the form that is cheapest to differentiate -----------------------------------------


def uses(graph: GraphProto) -> Counter[str]:
    """How often each tensor is read, by nodes or as a graph output."""
    read = Counter(name for node in graph.node for name in node.input)
    read.update(output.name for output in graph.output)
    return read


def nest_concatenations(graph: GraphProto) -> None:
    """Rewrite concat(a, b, c) as concat(concat(a, b), c) wherever concat(a, b) exists.

    Dense blocks then accumulate their gradient in one tensor instead of one for every layer.
    """
    known: dict[tuple[str, ...], str] = {}
    for node in graph.node:
        if node.op_type != "Concat":
            continue
        parts = tuple(node.input)
        prefix = next((n for n in range(len(parts) - 1, 1, -1) if parts[:n] in known), None)
        if prefix is not None:
            node.input[:] = [known[parts[:prefix]], *parts[prefix:]]
        known[parts] = node.output[0]


def pool_before_pointwise(graph: GraphProto) -> None:
    """Swap 1x1 convolution -> average pool into pool -> convolution: the same sums from a quarter of the products."""
    read = uses(graph)
    maker = {name: node for node in graph.node for name in node.output}
    for pool in graph.node:
        convolution = maker.get(pool.input[0]) if pool.op_type == "AveragePool" else None
        if convolution is None or not is_pointwise(convolution) or read[pool.input[0]] > 1 or any(pads(pool)):
            continue
        pooled, result = convolution.output[0], pool.output[0]
        pool.input[0], convolution.input[0] = convolution.input[0], pooled
        pool.output[0], convolution.output[0] = pooled, result
        swap_nodes(convolution, pool)


def swap_nodes(first: NodeProto, second: NodeProto) -> None:
    """Exchange two nodes in their graph, so that its order stays topological."""
    kept = NodeProto()
    kept.CopyFrom(first)
    first.CopyFrom(second)
    second.CopyFrom(kept)


def pads(node: NodeProto) -> list[int]:
    """Padding as (top, left, bottom, right)."""
    return spatial(node, "pads", 0)


def is_pointwise(node: NodeProto) -> bool:
    """Whether a node is a 1x1 convolution of stride 1 without padding."""
    return (
        node.op_type == "Conv"
        and kernel_shape(node) == [1, 1]
        and spatial(node, "strides", 1) == [1, 1]
        and not any(pads(node))
    )


# --- The backward graph ----------------------------------------------------------------------------------------------


class Backward:
    """Appends the gradient of chosen logits to a forward graph.

    graph: changed in place; its last nodes are pooling over the whole map and a linear head.
    shapes: tensor name -> dimensions, 0 where dynamic (the batch).
    explained_count: how many labels k each film has gradients for; gradient tensors hold N * k maps.
    taps: names of the tensors at which gradients are wanted.
    """

    def __init__(
        self, graph: GraphProto, shapes: Mapping[str, list[int]], explained_count: int, taps: Sequence[str]
    ) -> None:
        self.graph = graph
        self.shapes = shapes
        self.explained_count = explained_count
        self.taps = taps
        self.maker = {name: node for node in graph.node for name in node.output}
        self.uses = uses(graph)
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.tail = downstream(graph, taps)
        self.scaled: set[str] = set()  # outputs of nodes whose channel factor is already inside an earlier weight
        self.added = 0

    def add(self, operator: str, inputs: Iterable[str], output: str | None = None, **attributes: Any) -> str:
        """Append a node with one output; returns the output's name."""
        name = output or self.fresh(operator)
        self.append(operator, inputs, [name], **attributes)
        return name

    def append(self, operator: str, inputs: Iterable[str], outputs: Sequence[str], **attributes: Any) -> None:
        """Append a node, named so that it can be told from the forward graph's."""
        name = EXPLANATION_PREFIX + outputs[0].removeprefix(EXPLANATION_PREFIX)
        self.graph.node.append(helper.make_node(operator, list(inputs), list(outputs), name=name, **attributes))

    def fresh(self, stem: str) -> str:
        self.added += 1
        return f"{EXPLANATION_PREFIX}{stem}_{self.added}"

    def constant(self, values: NDArray[np.generic]) -> str:
        """Store an array in the graph; returns its name."""
        name = self.fresh("constant")
        self.graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, dtype=np.int64))

    def array(self, name: str) -> NDArray[np.float32]:
        """The stored values of an initializer."""
        return np.asarray(numpy_helper.to_array(self.constants[name]), dtype=np.float32)

    def multiplied(self, name: str, factor: NDArray[np.float32] | None) -> str:
        return name if factor is None else self.add("Mul", [name, self.constant(factor)])

    def gradients(self, start: str, gradient: str) -> dict[str, str]:
        """Carry the gradient of tensor `start` back to the taps; returns tap -> name of its gradient (N * k, C, h, w).

        Raises ExportError on an operator that has no rule here.
        """
        pending: dict[str, list[str]] = {start: [gradient]}
        found: dict[str, str] = {}
        for node in reversed(list(self.graph.node)):
            output = node.output[0]
            if output not in pending:
                continue
            total = self.total(pending.pop(output))
            if output in self.taps:
                found[output] = total
            for name, part in self.pulled_back(node, total):
                pending.setdefault(name, []).append(part)
        return found

    def total(self, parts: Sequence[str]) -> str:
        total = parts[0]
        for part in parts[1:]:
            total = self.add("Add", [total, part])
        return total

    def pulled_back(self, node: NodeProto, gradient: str) -> list[tuple[str, str]]:
        """The gradients of a node's inputs, for those inputs that lie between the taps and the logits."""
        if node.output[0] not in self.tail or not any(name in self.tail or name in self.taps for name in node.input):
            return []
        if node.op_type not in RULES:
            raise ExportError(f"no gradient rule for the operator {node.op_type}")
        return [pair for pair in RULES[node.op_type](self, node, gradient) if pair[0] in (*self.taps, *self.tail)]

    def claim_scale(self, name: str) -> NDArray[np.float32] | None:
        """The channel factors of the batch norms, pools and ReLUs that made a tensor, to be put into a weight instead.

        A factor per channel commutes with masks and upsampling, so it costs nothing inside the constant weight of the
        convolution that comes before them on the way back. Returns (C,) float32, or None where there is none.
        """
        factor: NDArray[np.float32] | None = None
        while self.uses[name] == 1 and name not in self.taps and name in self.tail:
            node = self.maker[name]
            if node.op_type not in ("Relu", "AveragePool", "BatchNormalization"):
                break
            if node.op_type != "Relu":
                own = channel_factor(self, node)
                factor = own if factor is None else factor * own
                self.scaled.add(name)
            name = node.input[0]
        return factor

    def own_factor(self, node: NodeProto) -> NDArray[np.float32] | None:
        """A node's channel factor as (C or 1, 1, 1), unless a weight already holds it."""
        return None if node.output[0] in self.scaled else channel_factor(self, node).reshape(-1, 1, 1)


Rule = Callable[[Backward, NodeProto, str], list[tuple[str, str]]]


def downstream(graph: GraphProto, taps: Iterable[str]) -> set[str]:
    """The tensors that depend on a tap (a tap itself only where it depends on another)."""
    reached: set[str] = set()
    sources = set(taps)
    for node in graph.node:
        if any(name in reached or name in sources for name in node.input):
            reached.update(node.output)
    return reached


def channel_factor(backward: Backward, node: NodeProto) -> NDArray[np.float32]:
    """What a batch norm (C,) or an average pool (1,) multiplies gradients by, float32."""
    if node.op_type == "AveragePool":
        return np.array([1.0 / np.prod(kernel_shape(node))], dtype=np.float32)
    weight, variance = backward.array(node.input[1]), backward.array(node.input[4])
    epsilon = attributes(node).get("epsilon", 1e-5)
    return np.asarray(weight / np.sqrt(variance + epsilon), dtype=np.float32)


def relu_gradient(backward: Backward, node: NodeProto, gradient: str) -> list[tuple[str, str]]:
    """gradient * (output > 0), the mask shared by a film's k gradients."""
    mask = backward.add("HardSigmoid", [node.output[0]], alpha=STEP_SLOPE, beta=0.0)
    return [(node.input[0], per_film(backward, "Mul", gradient, mask, backward.shapes[node.output[0]]))]


def per_film(backward: Backward, operator: str, gradient: str, film: str, shape: Sequence[int]) -> str:
    """Combine (N * k, C, h, w) gradients with a film's (N, C, h, w) tensor of the given shape."""
    if backward.explained_count == 1:
        return backward.add(operator, [gradient, film])
    apart = backward.add("Reshape", [gradient, backward.integers(-1, backward.explained_count, *shape[1:])])
    shared = backward.add("Unsqueeze", [film, backward.integers(1)])  # (N, 1, C, h, w)
    combined = backward.add(operator, [apart, shared])
    return backward.add("Reshape", [combined, backward.integers(-1, *shape[1:])])


def batch_norm_gradient(backward: Backward, node: NodeProto, gradient: str) -> list[tuple[str, str]]:
    """gradient * weight / sqrt(variance + epsilon): batch norm is affine in evaluation mode."""
    return [(node.input[0], backward.multiplied(gradient, backward.own_factor(node)))]


def convolution_gradient(backward: Backward, node: NodeProto, gradient: str) -> list[tuple[str, str]]:
    """The transposed convolution; of stride 1, an ordinary convolution with the weights turned round."""
    group = attributes(node).get("group", 1)
    plain = group == 1 and spatial(node, "strides", 1) == [1, 1] and spatial(node, "dilations", 1) == [1, 1]
    make = plain_convolution_gradient if plain else strided_convolution_gradient
    return [(node.input[0], make(backward, node, gradient))]


def plain_convolution_gradient(backward: Backward, node: NodeProto, gradient: str) -> str:
    """dL/dx = dL/dy convolved with the weights, channels exchanged and both axes reversed."""
    height, width = kernel_shape(node)
    turned = backward.add("Transpose", [node.input[1]], perm=[1, 0, 2, 3])  # (C_in, C_out, height, width)
    if (height, width) != (1, 1):
        ends = [backward.integers(*values) for values in ((-1, -1), (-(2**31), -(2**31)), (2, 3), (-1, -1))]
        turned = backward.add("Slice", [turned, *ends])
    factor = backward.claim_scale(node.input[0])
    turned = backward.multiplied(turned, None if factor is None else factor.reshape(-1, 1, 1, 1))
    top, left, bottom, right = pads(node)
    around = [height - 1 - top, width - 1 - left, height - 1 - bottom, width - 1 - right]
    return backward.add("Conv", [gradient, turned], kernel_shape=[height, width], pads=around)


def strided_convolution_gradient(backward: Backward, node: NodeProto, gradient: str) -> str:
    """A transposed convolution whose output has exactly the forward input's size."""
    sizes = zip(backward.shapes[node.input[0]][2:], backward.shapes[node.output[0]][2:], strict=True)
    strides, dilations, kernel = spatial(node, "strides", 1), spatial(node, "dilations", 1), kernel_shape(node)
    around = pads(node)
    missing = [
        size - ((out - 1) * strides[axis] + dilations[axis] * (kernel[axis] - 1) + 1 - around[axis] - around[axis + 2])
        for axis, (size, out) in enumerate(sizes)
    ]
    kept: dict[str, Any] = {"strides": strides, "dilations": dilations, "kernel_shape": kernel, "pads": around}
    group = attributes(node).get("group", 1)
    return backward.add("ConvTranspose", [gradient, node.input[1]], group=group, output_padding=missing, **kept)


def average_pool_gradient(backward: Backward, node: NodeProto, gradient: str) -> list[tuple[str, str]]:
    """Nearest upsampling divided by the window's size; rows and columns that no window read get zero."""
    if any(pads(node)) or kernel_shape(node) != spatial(node, "strides", 1):
        raise ExportError("only average pools without padding or overlap have a gradient rule")
    scales = backward.constant(np.array([1, 1, *kernel_shape(node)], dtype=np.float32))
    settings = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    spread = backward.add("Resize", [gradient, "", scales], **settings)
    rest = [
        size - out * window
        for size, out, window in zip(
            backward.shapes[node.input[0]][2:],
            backward.shapes[node.output[0]][2:],
            kernel_shape(node),
            strict=True,
        )
    ]
    if any(rest):
        spread = backward.add("Pad", [spread, backward.integers(0, 0, 0, 0, 0, 0, *rest)])
    return [(node.input[0], backward.multiplied(spread, backward.own_factor(node)))]


def concatenation_gradient(backward: Backward, node: NodeProto, gradient: str) -> list[tuple[str, str]]:
    """Each part of the channels goes back to where it came from."""
    if attributes(node)["axis"] != 1:
        raise ExportError("only concatenation of channels has a gradient rule")
    sizes = backward.integers(*(backward.shapes[name][1] for name in node.input))
    parts = [backward.fresh("Split") for _ in node.input]
    backward.append("Split", [gradient, sizes], parts, axis=1)
    return list(zip(node.input, parts, strict=True))


def sum_gradient(backward: Backward, node: NodeProto, gradient: str) -> list[tuple[str, str]]:
    """A residual connection hands the gradient to both summands."""
    if any(backward.shapes.get(name) != backward.shapes[node.output[0]] for name in node.input):
        raise ExportError("only sums of equal shapes have a gradient rule")
    return [(name, gradient) for name in node.input]


RULES: dict[str, Rule] = {
    "Add": sum_gradient,
    "AveragePool": average_pool_gradient,
    "BatchNormalization": batch_norm_gradient,
    "Concat": concatenation_gradient,
    "Conv": convolution_gradient,
    "Relu": relu_gradient,
}


# --- The maps --------------------------------------------------------------------------------------------------------


def explain(model: ModelProto, taps: Sequence[str], explained_count: int) -> ModelProto:
    """Make a forward graph explain itself.

    model: one input `radiograph` (N, 1, S, S), one output `logits` (N, C) that a linear head (Gemm with transB) makes
    from the mean over the last feature maps (N, F, h, w). taps: names of the tensors (N, ., g, g) to explain.
    Returns a new model with the further inputs `label_centre` and `label_scale` (C,) float32 and the outputs
    `class_activation_maps` (N, C, h, w), `explained_labels` (N, k) int64: the k labels with the largest
    (logit - centre) / scale, and per tap `layercam_g`, `counter_layercam_g` and `gradcam_g` (N, k, g, g).
    Raises ExportError where the graph has another form or an operator without a rule.
    """
    explained = ModelProto()
    explained.CopyFrom(model)
    graph = explained.graph
    nest_concatenations(graph)
    pool_before_pointwise(graph)
    shapes = tensor_shapes(explained)
    backward = Backward(graph, shapes, explained_count, taps)
    features, weight = find_head(backward)
    append_inputs(graph, shapes["logits"][1])
    append_class_activation_maps(backward, features, weight)
    chosen = append_explained_labels(backward)
    gradients = backward.gradients(features, start_gradient(backward, features, weight, chosen))
    for tap in taps:
        if tap not in gradients:
            raise ExportError("an explained block does not lead to the logits")
        append_maps(backward, tap, gradients[tap])
    declare_outputs(backward, features)
    onnx.checker.check_model(explained, full_check=True)
    return explained


def tensor_shapes(model: ModelProto) -> dict[str, list[int]]:
    """The dimensions of every tensor, 0 where dynamic."""
    del model.graph.value_info[:]
    inferred = shape_inference.infer_shapes(model, strict_mode=True).graph
    infos = [*inferred.value_info, *inferred.input, *inferred.output]
    return {info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim] for info in infos}


def find_head(backward: Backward) -> tuple[str, str]:
    """The last feature maps (N, F, h, w) and the name of the linear weight (C, F) behind their mean."""
    head = backward.maker.get("logits")
    if head is None or head.op_type != "Gemm" or attributes(head).get("transB", 0) != 1:
        raise ExportError("the logits are not made by a linear head")
    node = backward.maker[head.input[0]]
    while node.op_type in ("Flatten", "Reshape", "Squeeze"):
        node = backward.maker[node.input[0]]
    if node.op_type not in ("GlobalAveragePool", "ReduceMean"):
        raise ExportError("the linear head does not follow a mean over the whole map")
    return node.input[0], head.input[1]


def append_inputs(graph: GraphProto, label_count: int) -> None:
    """Declare the policy's centre and scale of each label."""
    for name in LABELS_INPUTS:
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [label_count]))


def append_class_activation_maps(backward: Backward, features: str, weight: str) -> None:
    """The linear head as a 1x1 convolution before the pool: mean of map c plus bias c is logit c."""
    kernel = backward.add("Unsqueeze", [weight, backward.integers(2, 3)])  # (C, F, 1, 1)
    backward.add("Conv", [features, kernel], "class_activation_maps", kernel_shape=[1, 1])


def append_explained_labels(backward: Backward) -> str:
    """The k labels with the largest excess over their own calibration distribution."""
    excess = backward.add("Sub", ["logits", LABELS_INPUTS[0]])
    ranked = backward.add("Div", [excess, LABELS_INPUTS[1]])
    count = backward.integers(backward.explained_count)
    outputs = [backward.fresh("TopK"), "explained_labels"]
    backward.append("TopK", [ranked, count], outputs, axis=1)
    return outputs[1]


def start_gradient(backward: Backward, features: str, weight: str, chosen: str) -> str:
    """dlogit/d(last features): the chosen rows of the head's weight, spread evenly; (N * k, F, h, w)."""
    _, channels, height, width = backward.shapes[features]
    factor = np.full(1, 1.0 / (height * width), dtype=np.float32)
    claimed = backward.claim_scale(features)
    rows = backward.multiplied(weight, factor if claimed is None else factor * claimed)  # (C, F)
    picked = backward.add("Gather", [rows, chosen], axis=0)  # (N, k, F)
    column = backward.add("Reshape", [picked, backward.integers(-1, channels, 1, 1)])
    return backward.add("Expand", [column, backward.integers(1, channels, height, width)])


def map_names(grid: int) -> tuple[str, str, str]:
    return f"layercam_{grid}", f"counter_layercam_{grid}", f"gradcam_{grid}"


def append_maps(backward: Backward, tap: str, gradient: str) -> None:
    """LayerCAM (Jiang et al. 2021, eq. 5-6), the same of the negated gradient, and Grad-CAM (Selvaraju 2017, eq. 1-2).

    As pytorch-grad-cam computes them, before its scaling: relu(sum_c weight_c * A_c) with the weight relu(gradient),
    relu(-gradient) or the gradient's mean over the map.
    """
    shape = backward.shapes[tap]
    layercam, counter, gradcam = map_names(shape[-1])
    positive = backward.add("Relu", [gradient])
    negative = backward.add("Relu", [backward.add("Neg", [gradient])])
    mean = backward.add("ReduceMean", [gradient, backward.integers(2, 3)])  # (N * k, C, 1, 1)
    append_map(backward, layercam, per_film(backward, "Mul", positive, tap, shape), shape)
    append_map(backward, counter, per_film(backward, "Mul", negative, tap, shape), shape)
    append_weighted_map(backward, gradcam, mean, tap, shape)


def append_map(backward: Backward, name: str, weighted: str, shape: Sequence[int]) -> None:
    """relu of the sum over channels; (N * k, C, g, g) -> (N, k, g, g)."""
    summed = backward.add("ReduceSum", [weighted, backward.integers(1)], keepdims=0)  # (N * k, g, g)
    apart = backward.add("Reshape", [summed, backward.integers(-1, backward.explained_count, *shape[2:])])
    backward.add("Relu", [apart], name)


def append_weighted_map(backward: Backward, name: str, weights: str, tap: str, shape: Sequence[int]) -> None:
    """relu of the channels' weighted sum, one weight a channel, as one matrix product."""
    _, channels, height, width = shape
    rows = backward.add("Reshape", [weights, backward.integers(-1, backward.explained_count, channels)])
    flat = backward.add("Reshape", [tap, backward.integers(-1, channels, height * width)])
    product = backward.add("MatMul", [rows, flat])  # (N, k, h * w)
    apart = backward.add("Reshape", [product, backward.integers(-1, backward.explained_count, height, width)])
    backward.add("Relu", [apart], name)


def declare_outputs(backward: Backward, features: str) -> None:
    """Logits, maps and explained labels are the outputs; the taps are none any longer."""
    graph = backward.graph
    label_count = backward.shapes["logits"][1]
    sizes = {"class_activation_maps": [label_count, *backward.shapes[features][2:]]}
    for tap in backward.taps:
        grid = backward.shapes[tap][2:]
        sizes |= {name: [backward.explained_count, *grid] for name in map_names(grid[-1])}
    del graph.output[1:]
    for name, size in sizes.items():
        shape: list[str | int] = ["N", *size]
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    chosen: list[str | int] = ["N", backward.explained_count]
    graph.output.append(helper.make_tensor_value_info("explained_labels", TensorProto.INT64, chosen))
