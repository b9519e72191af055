"""Exact gradient maps inside an ONNX graph: reverse-mode differentiation of a convolutional forward graph.

ONNX has no autograd, but the gradients of the few operators between a block's output and the logits are ordinary
operators themselves: the gradient of a convolution is a convolution with its weights turned round, of a ReLU a mask,
of an average pool an upsampling, of a concatenation a split. `Backward` appends them to a canonical forward graph and
stops at the explained tensors. Nothing runs twice: the masks come from the forward pass, and the weights are stored
once (ONNX Runtime turns them round when it loads the file).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from service.audit.forward_graph import EXPLANATION_PREFIX
from service.graphs.network import Refused, attributes

# HardSigmoid with this slope is 0 for x <= 0 and 1 for every positive normal float32: a ReLU's derivative in one pass.
STEP_SLOPE = 2.0**126
MASKED = ("Relu", "Clip")  # their gradient is passed or not


def spatial(node: NodeProto, name: str, default: int) -> list[int]:
    """An integer list attribute of a two-dimensional convolution or pool (`strides`, `dilations`, `pads`)."""
    length = 4 if name == "pads" else 2
    found = attributes(node).get(name, [default] * length)
    if not isinstance(found, Sequence) or len(found) != length:
        raise Refused(f"{node.op_type} with {name} of an unexpected form")
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


def pool_before_pointwise(graph: GraphProto, shapes: dict[str, list[int]], kept: Iterable[str]) -> None:
    """Swap 1x1 convolution -> average pool into pool -> convolution: the same sums from a quarter of the products.

    shapes: of all tensors, changed in place. kept: tensors that have to go on meaning what they mean.
    """
    fixed = set(kept)
    read = uses(graph)
    maker = {name: node for node in graph.node for name in node.output}
    for pool in graph.node:
        convolution = maker.get(pool.input[0]) if pool.op_type == "AveragePool" else None
        if convolution is None or not is_pointwise(convolution) or read[pool.input[0]] > 1 or any(pads(pool)):
            continue
        if fixed & {convolution.output[0], pool.output[0]}:
            continue
        pooled, result = convolution.output[0], pool.output[0]
        pool.input[0], convolution.input[0] = convolution.input[0], pooled
        pool.output[0], convolution.output[0] = pooled, result
        shapes[pooled] = [0, shapes[pool.input[0]][1], *shapes[result][2:]]
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

    graph: changed in place. shapes: tensor name -> dimensions, 0 for the batch.
    explained_count: how many labels k each film has gradients for; gradient tensors hold N * k maps.
    taps: names of the tensors at which gradients are wanted. stem: of the names of what is added.
    """

    def __init__(
        self,
        graph: GraphProto,
        shapes: Mapping[str, list[int]],
        explained_count: int,
        taps: Sequence[str],
        stem: str = "",
    ) -> None:
        self.stem = EXPLANATION_PREFIX + stem
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
        return f"{self.stem}{stem}_{self.added}"

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

        Raises Refused on an operator that has no rule here.
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
            raise Refused(f"{node.op_type} behind the explained maps: no rule for its gradient.")
        return [pair for pair in RULES[node.op_type](self, node, gradient) if pair[0] in (*self.taps, *self.tail)]

    def claim_scale(self, name: str) -> NDArray[np.float32] | None:
        """The channel factors of the batch norms, pools and ReLUs that made a tensor, to be put into a weight instead.

        A factor per channel commutes with masks and upsampling, so it costs nothing inside the constant weight of the
        convolution that comes before them on the way back. Returns (C,) float32, or None where there is none.
        """
        factor: NDArray[np.float32] | None = None
        while self.uses[name] == 1 and name not in self.taps and name in self.tail:
            node = self.maker[name]
            if node.op_type not in (*MASKED, "AveragePool", "BatchNormalization"):
                break
            if node.op_type not in MASKED:
                own = channel_factor(self, node)
                factor = own if factor is None else factor * own
                self.scaled.add(name)
            name = node.input[0]
        return factor

    def own_factor(self, node: NodeProto) -> NDArray[np.float32] | None:
        """A node's channel factor as (C or 1, 1, 1), or (F,) of rows, unless a weight already holds it."""
        if node.output[0] in self.scaled:
            return None
        return channel_factor(self, node).reshape((-1,) + (1,) * (len(self.shapes[node.output[0]]) - 2))


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


def clip_gradient(backward: Backward, node: NodeProto, gradient: str) -> list[tuple[str, str]]:
    """gradient * (0 < output < bound)."""
    bound = float(backward.array(node.input[2]))
    above = backward.add("HardSigmoid", [node.output[0]], alpha=STEP_SLOPE, beta=0.0)
    left = backward.add("Sub", [node.input[2], node.output[0]])
    below = backward.add("HardSigmoid", [left], alpha=STEP_SLOPE / max(bound, 1.0), beta=0.0)
    mask = backward.add("Mul", [above, below])
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
    one_a_channel = group == backward.shapes[node.input[0]][1] == backward.shapes[node.output[0]][1]
    height, width = kernel_shape(node)
    fits = all(pad < side for pad, side in zip(pads(node), (height, width) * 2, strict=True))
    plain = spatial(node, "strides", 1) == [1, 1] and spatial(node, "dilations", 1) == [1, 1] and fits
    make = plain_convolution_gradient if plain and (group == 1 or one_a_channel) else strided_convolution_gradient
    return [(node.input[0], make(backward, node, gradient))]


def plain_convolution_gradient(backward: Backward, node: NodeProto, gradient: str) -> str:
    """dL/dx = dL/dy convolved with the weights, channels exchanged and both axes reversed."""
    height, width = kernel_shape(node)
    group = attributes(node).get("group", 1)
    # (C_in, C_out, height, width); (C, 1, height, width) where each channel has a kernel of its own
    turned = node.input[1] if group > 1 else backward.add("Transpose", [node.input[1]], perm=[1, 0, 2, 3])
    if (height, width) != (1, 1):
        ends = [backward.integers(*values) for values in ((-1, -1), (-(2**31), -(2**31)), (2, 3), (-1, -1))]
        turned = backward.add("Slice", [turned, *ends])
    factor = backward.claim_scale(node.input[0])
    turned = backward.multiplied(turned, None if factor is None else factor.reshape(-1, 1, 1, 1))
    top, left, bottom, right = pads(node)
    around = [height - 1 - top, width - 1 - left, height - 1 - bottom, width - 1 - right]
    kept: dict[str, Any] = {"group": group} if group > 1 else {}
    return backward.add("Conv", [gradient, turned], kernel_shape=[height, width], pads=around, **kept)


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
    spread = spread_over_windows(backward, node, gradient)
    return [(node.input[0], backward.multiplied(spread, backward.own_factor(node)))]


def maximum_pool_gradient(backward: Backward, node: NodeProto, gradient: str) -> list[tuple[str, str]]:
    """Nearest upsampling, kept where the window's largest value stands; shared where several are equal, as the zeros
    behind a ReLU are, so that the gradient's sum is the window's."""
    largest = spread_over_windows(backward, node, node.output[0])
    mask = backward.add("Cast", [backward.add("Equal", [node.input[0], largest])], to=TensorProto.FLOAT)
    window: dict[str, Any] = {"kernel_shape": kernel_shape(node), "strides": spatial(node, "strides", 1)}
    equal = backward.add("AveragePool", [mask], **window)  # share of the window that is largest
    each = backward.add("Reciprocal", [backward.multiplied(equal, np.full(1, np.prod(kernel_shape(node)), np.float32))])
    shares = backward.add("Mul", [mask, spread_over_windows(backward, node, each)])
    spread = spread_over_windows(backward, node, gradient)
    return [(node.input[0], per_film(backward, "Mul", spread, shares, backward.shapes[node.input[0]]))]


def spread_over_windows(backward: Backward, node: NodeProto, pooled: str) -> str:
    """A pool's output, or its gradient, given to each cell of the windows that it was made of."""
    if any(pads(node)) or kernel_shape(node) != spatial(node, "strides", 1):
        raise Refused(f"{node.op_type} with padding or overlap behind the explained maps: no rule for its gradient.")
    scales = backward.constant(np.array([1, 1, *kernel_shape(node)], dtype=np.float32))
    settings = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    spread = backward.add("Resize", [pooled, "", scales], **settings)
    sizes = (backward.shapes[name][2:] for name in (node.input[0], node.output[0]))
    rest = [size - out * window for size, out, window in zip(*sizes, kernel_shape(node), strict=True)]
    return backward.add("Pad", [spread, backward.integers(0, 0, 0, 0, 0, 0, *rest)]) if any(rest) else spread


def global_average_gradient(backward: Backward, node: NodeProto, gradient: str) -> list[tuple[str, str]]:
    """The same share for every cell."""
    shape = backward.shapes[node.input[0]][1:]
    share = backward.multiplied(gradient, np.full(1, 1.0 / np.prod(shape[1:]), dtype=np.float32))
    return [(node.input[0], backward.add("Expand", [share, backward.integers(1, *shape)]))]


def global_maximum_gradient(backward: Backward, node: NodeProto, gradient: str) -> list[tuple[str, str]]:
    """All of it for the largest cell, shared where several are equal."""
    mask = backward.add("Cast", [backward.add("Equal", [node.input[0], node.output[0]])], to=TensorProto.FLOAT)
    equal = backward.add("ReduceSum", [mask, backward.integers(2, 3)])  # (N, C, 1, 1), at least 1
    shares, shape = backward.add("Div", [mask, equal]), backward.shapes[node.input[0]]
    spread = backward.add("Expand", [gradient, backward.integers(1, *shape[1:])])
    return [(node.input[0], per_film(backward, "Mul", spread, shares, shape))]


def flatten_gradient(backward: Backward, node: NodeProto, gradient: str) -> list[tuple[str, str]]:
    """A row becomes a map again."""
    shape = backward.shapes[node.input[0]][1:]
    return [(node.input[0], backward.add("Reshape", [gradient, backward.integers(-1, *shape)]))]


def linear_gradient(backward: Backward, node: NodeProto, gradient: str) -> list[tuple[str, str]]:
    """(N * k, C) x weights (C, F)."""
    return [(node.input[0], backward.add("MatMul", [gradient, node.input[1]]))]


def concatenation_gradient(backward: Backward, node: NodeProto, gradient: str) -> list[tuple[str, str]]:
    """Each part of the channels goes back to where it came from."""
    sizes = backward.integers(*(backward.shapes[name][1] for name in node.input))
    parts = [backward.fresh("Split") for _ in node.input]
    backward.append("Split", [gradient, sizes], parts, axis=1)
    return list(zip(node.input, parts, strict=True))


def passed_on(backward: Backward, node: NodeProto, gradient: str) -> list[tuple[str, str]]:
    """A sum hands the gradient to each summand; constants have no use for it."""
    return [(name, of_one_channel(backward, node, name, gradient)) for name in node.input if name in backward.shapes]


def factor_gradient(backward: Backward, node: NodeProto, gradient: str) -> list[tuple[str, str]]:
    """Of a product with, or a quotient by, one constant a channel."""
    scaled = backward.add(node.op_type, [gradient, node.input[1]])
    return [(node.input[0], of_one_channel(backward, node, node.input[0], scaled))]


def of_one_channel(backward: Backward, node: NodeProto, name: str, gradient: str) -> str:
    """The gradient of an input whose one channel was given to each of several constants' channels: their sum."""
    if backward.shapes[name][1] == backward.shapes[node.output[0]][1]:
        return gradient
    return backward.add("ReduceSum", [gradient, backward.integers(1)])


RULES: dict[str, Rule] = {
    "Add": passed_on,
    "AveragePool": average_pool_gradient,
    "BatchNormalization": batch_norm_gradient,
    "Clip": clip_gradient,
    "Concat": concatenation_gradient,
    "Conv": convolution_gradient,
    "Div": factor_gradient,
    "Flatten": flatten_gradient,
    "Gemm": linear_gradient,
    "GlobalAveragePool": global_average_gradient,
    "GlobalMaxPool": global_maximum_gradient,
    "MaxPool": maximum_pool_gradient,
    "Mul": factor_gradient,
    "Relu": relu_gradient,
    "Sub": passed_on,
}
