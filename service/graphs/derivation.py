"""Canonical forward graph -> the file that is audited: the same graph, explaining itself.

Deterministic: the same graph, description and version of this code give the same bytes, which is why nobody's maps
need to be believed.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from service.audit.classifier import FORMAT, MAP_KINDS, METADATA_KEY, PIXEL_CONVENTION
from service.graphs.description import Description
from service.graphs.gradients import Backward, nest_concatenations, per_film, pool_before_pointwise
from service.graphs.network import Network, Refused, as_model
from service.graphs.places import Explained, dominators
from service.graphs.protocol import DERIVATION

LABELS_INPUTS = ("label_centre", "label_scale")
MASKED_OUT = -1e9  # added to a label's own logit, so that it counts for nothing among the others
GRADIENT_PREFIX = "gradient_"  # of outputs that only an examination asks for
ACTIVATION_PREFIX = "activation_"


@dataclass(frozen=True, slots=True)
class LinearHead:
    """The last maps (N, F, h, w) and the name of the weight (C, F) behind their mean."""

    features: str
    weight: str


def derive(
    network: Network, explained: Sequence[Explained], description: Description, *, gradients: bool = False
) -> bytes:
    """The bytes of the auditable classifier.

    Inputs: `radiograph` (N, 1, S, S) float32 in [0, 1], `label_centre` and `label_scale` (C,). Outputs: `logits`
    (N, C), log-odds where labels exclude each other; `class_activation_maps` (N, C, h, w), what each place of the last
    maps adds to each logit; `explained_labels` (N, k) int64, the labels with the largest (logit - centre) / scale; and
    for each explained tensor `layercam_g`, `counter_layercam_g` and `gradcam_g` (N, k, g, g).
    gradients: also put out what the maps are made of, as an examination needs it. Raises Refused.
    """
    model = as_model(network)
    graph = model.graph
    taps = [item.operation.output for item in explained]
    nest_concatenations(graph)
    shapes = {name: [0, *shape] for name, shape in network.shapes().items()}
    features = last_maps(network, explained[-1])
    pool_before_pointwise(graph, shapes, [*taps, features])
    own = Backward(graph, shapes, description.explained_count, taps)
    every = Backward(graph, shapes, network.label_count, [features], "every/")
    writer = _Writer(network, own, every, features)
    writer.write(taps)
    _declare(writer, taps, gradients=gradients)
    _describe(model, network, explained, description)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def last_maps(network: Network, explained: Explained) -> str:
    """The last tensor with places that all ways to the logits pass: what a class activation map is made of."""
    behind = [made.output for made in dominators(network) if len(made.shape) == 3 and prod(made.shape[1:]) > 1]
    return behind[-1] if behind else explained.operation.output


def linear_head(backward: Backward, features: str, logits: str) -> LinearHead | None:
    """The weight where the head is a mean over the last maps and one linear layer; None for other heads."""
    head = backward.maker[logits]
    if head.op_type != "Gemm":
        return None
    node = backward.maker.get(head.input[0])
    if node is None or node.op_type != "Flatten":
        return None
    node = backward.maker.get(node.input[0])
    if node is None or node.op_type != "GlobalAveragePool" or node.input[0] != features:
        return None
    return LinearHead(features, head.input[1])


class _Writer:
    """Appends head and maps to the forward graph."""

    def __init__(self, network: Network, own: Backward, every: Backward, features: str) -> None:
        self.network, self.own, self.every, self.features = network, own, every, features
        self.graph, self.shapes = own.graph, own.shapes
        self.raw = network.logits
        self.linear = linear_head(own, features, self.raw)
        self.jacobian = ""  # (N, C, C) of log-odds by logits, of a softmax
        self.found: dict[str, str] = {}  # tap -> its gradient

    def write(self, taps: Sequence[str]) -> None:
        for name in LABELS_INPUTS:
            self.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [self.network.label_count]))
        self._logits()
        self._class_activation_maps()
        chosen = self._explained_labels()
        self.found = self._gradients(chosen)
        for tap in taps:
            if tap not in self.found:
                raise Refused("An explained layer does not lead to the logits.")
            self._maps(tap)

    def _logits(self) -> None:
        """The logits themselves, or log-odds: what a function of the film added to all logits cannot change."""
        node = self.graph.node
        if self.network.head == "sigmoid":
            node.append(helper.make_node("Identity", [self.raw], ["logits"], name="logits"))
            return
        own, apart = self.own, np.eye(self.network.label_count, dtype=np.float32)
        masks = self._stored("head/masks", apart * np.float32(MASKED_OUT))
        axis, last = (self._stored(f"head/axis{n}", np.array([n], dtype=np.int64)) for n in (1, 2))
        node.append(helper.make_node("Unsqueeze", [self.raw, axis], ["head/row"], name="head/row"))
        node.append(helper.make_node("Add", ["head/row", masks], ["head/others"], name="head/others"))  # no own label
        rest = helper.make_node("ReduceLogSumExp", ["head/others", last], ["head/rest"], name="head/rest", keepdims=0)
        node.append(rest)
        node.append(helper.make_node("Sub", [self.raw, "head/rest"], ["logits"], name="logits"))
        shares = own.add("Softmax", ["head/others"], axis=2)
        self.jacobian = own.add("Sub", [own.constant(apart), shares])

    def _stored(self, name: str, values: NDArray[np.generic]) -> str:
        """A constant that logits need."""
        self.graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def _class_activation_maps(self) -> None:
        """What each place of the last maps adds to each logit.

        A linear head makes them as a 1x1 convolution before the mean; their mean plus the bias is the logit. Elsewhere
        they are gradient times activation summed over channels, times the number of places, which is the same there.
        """
        own, count = self.own, self.network.label_count
        if self.linear is None:
            self._gradient_times_activation()
            return
        kernel = own.add("Unsqueeze", [self.linear.weight, own.integers(2, 3)])  # (C, F, 1, 1)
        name = "class_activation_maps" if not self.jacobian else None
        raw = own.add("Conv", [self.features, kernel], name, kernel_shape=[1, 1])
        if self.jacobian:
            height, width = self.shapes[self.features][2:]
            flat = own.add("Reshape", [raw, own.integers(-1, count, height * width)])
            turned = own.add("MatMul", [self.jacobian, flat])
            own.add("Reshape", [turned, own.integers(-1, count, height, width)], "class_activation_maps")

    def _gradient_times_activation(self) -> None:
        every, count = self.every, self.network.label_count
        _, channels, height, width = self.shapes[self.features]
        if self.jacobian:
            start = every.add("Reshape", [self.jacobian, every.integers(-1, count)])
        else:
            start = self._one_row_a_label()
        gradient = every.gradients(self.raw, start).get(self.features)
        if gradient is None:
            raise Refused("The last maps do not lead to the logits.")
        weighted = per_film(every, "Mul", gradient, self.features, [0, channels, height, width])
        summed = every.add("ReduceSum", [weighted, every.integers(1)], keepdims=0)  # (N * C, h, w)
        apart = every.add("Reshape", [summed, every.integers(-1, count, height, width)])
        every.add("Mul", [apart, every.constant(np.full(1, height * width, np.float32))], "class_activation_maps")

    def _one_row_a_label(self) -> str:
        """(N * C, C): for every film, the gradient of each logit by itself."""
        every, count = self.every, self.network.label_count
        nothing = every.add("Mul", [self.raw, every.constant(np.zeros(1, np.float32))])  # (N, C)
        row = every.add("Unsqueeze", [nothing, every.integers(1)])
        apart = every.add("Add", [row, every.constant(np.eye(count, dtype=np.float32))])  # (N, C, C)
        return every.add("Reshape", [apart, every.integers(-1, count)])

    def _explained_labels(self) -> str:
        """The k labels with the largest excess over their own calibration distribution."""
        own = self.own
        excess = own.add("Sub", ["logits", LABELS_INPUTS[0]])
        ranked = own.add("Div", [excess, LABELS_INPUTS[1]])
        outputs = [own.fresh("TopK"), "explained_labels"]
        own.append("TopK", [ranked, own.integers(own.explained_count)], outputs, axis=1)
        return outputs[1]

    def _gradients(self, chosen: str) -> dict[str, str]:
        own, count = self.own, self.network.label_count
        if self.jacobian:
            places = own.add("Unsqueeze", [chosen, own.integers(2)])  # (N, k, 1)
            rows = own.add("GatherND", [self.jacobian, places], batch_dims=1)  # (N, k, C)
        elif self.linear is None:
            rows = own.add("Gather", [own.constant(np.eye(count, dtype=np.float32)), chosen], axis=0)
        else:
            return own.gradients(self.features, self._start(self.linear, chosen))
        start = own.add("Reshape", [rows, own.integers(-1, count)])
        if self.linear is None:
            return own.gradients(self.raw, start)
        return own.gradients(self.features, self._spread(own.add("MatMul", [start, self._rows(self.linear)])))

    def _start(self, head: LinearHead, chosen: str) -> str:
        """dlogit/d(last maps): the chosen rows of the head's weight, spread evenly; (N * k, F, h, w)."""
        return self._spread(self.own.add("Gather", [self._rows(head), chosen], axis=0))  # (N, k, F)

    def _rows(self, head: LinearHead) -> str:
        """The weight (C, F), with what else multiplies every gradient of the last maps."""
        own = self.own
        _, _, height, width = self.shapes[self.features]
        factor = np.full(1, 1.0 / (height * width), dtype=np.float32)
        claimed = own.claim_scale(self.features)
        return own.multiplied(head.weight, factor if claimed is None else factor * claimed)

    def _spread(self, picked: str) -> str:
        own = self.own
        _, channels, height, width = self.shapes[self.features]
        column = own.add("Reshape", [picked, own.integers(-1, channels, 1, 1)])
        return own.add("Expand", [column, own.integers(1, channels, height, width)])

    def _maps(self, tap: str) -> None:
        """LayerCAM (Jiang et al. 2021, eq. 5-6), the same of the negated gradient, and Grad-CAM (Selvaraju 2017,
        eq. 1-2), as pytorch-grad-cam computes them before its scaling: relu(sum_c weight_c * A_c) with the weight
        relu(gradient), relu(-gradient) or the gradient's mean over the map."""
        own, shape, gradient = self.own, self.shapes[tap], self.found[tap]
        layercam, counter, gradcam = map_names(shape[-1])
        positive = own.add("Relu", [gradient])
        negative = own.add("Relu", [own.add("Neg", [gradient])])
        mean = own.add("ReduceMean", [gradient, own.integers(2, 3)])  # (N * k, C, 1, 1)
        self._map(layercam, per_film(own, "Mul", positive, tap, shape), shape)
        self._map(counter, per_film(own, "Mul", negative, tap, shape), shape)
        self._weighted_map(gradcam, mean, tap, shape)

    def _map(self, name: str, weighted: str, shape: Sequence[int]) -> None:
        """relu of the sum over channels; (N * k, C, g, g) -> (N, k, g, g)."""
        own = self.own
        summed = own.add("ReduceSum", [weighted, own.integers(1)], keepdims=0)  # (N * k, g, g)
        apart = own.add("Reshape", [summed, own.integers(-1, own.explained_count, *shape[2:])])
        own.add("Relu", [apart], name)

    def _weighted_map(self, name: str, weights: str, tap: str, shape: Sequence[int]) -> None:
        """relu of the channels' weighted sum, one weight a channel, as one matrix product."""
        own, (_, channels, height, width) = self.own, shape
        rows = own.add("Reshape", [weights, own.integers(-1, own.explained_count, channels)])
        flat = own.add("Reshape", [tap, own.integers(-1, channels, height * width)])
        product = own.add("MatMul", [rows, flat])  # (N, k, h * w)
        apart = own.add("Reshape", [product, own.integers(-1, own.explained_count, height, width)])
        own.add("Relu", [apart], name)


def map_names(grid: int) -> tuple[str, ...]:
    return tuple(f"{kind}_{grid}" for kind in MAP_KINDS)


def _declare(writer: _Writer, taps: Iterable[str], *, gradients: bool) -> None:
    """What the file puts out."""
    network, count = writer.network, writer.own.explained_count
    sizes: dict[str, list[int]] = {"logits": [network.label_count]}
    sizes["class_activation_maps"] = [network.label_count, *writer.shapes[writer.features][2:]]
    for tap in taps:
        sizes |= {name: [count, *writer.shapes[tap][2:]] for name in map_names(writer.shapes[tap][-1])}
    del writer.graph.output[:]
    for name, size in sizes.items():
        writer.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *size]))
    writer.graph.output.append(helper.make_tensor_value_info("explained_labels", TensorProto.INT64, ["N", count]))
    for tap in taps if gradients else ():
        grid = writer.shapes[tap][-1]
        for prefix, source in ((GRADIENT_PREFIX, writer.found[tap]), (ACTIVATION_PREFIX, tap)):
            name = f"{prefix}{grid}"
            writer.own.add("Identity", [source], name)
            shape: list[str | int] = ["M", *writer.shapes[tap][1:]]
            writer.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))


def _describe(model: ModelProto, network: Network, explained: Sequence[Explained], description: Description) -> None:
    said = {
        "format": FORMAT,
        "name": description.name,
        "identity": network.identity(description),
        "labels": list(description.labels),
        "preprocessing": description.preprocessing.described,
        "head": network.head,
        "explained_count": description.explained_count,
        "grids": [item.side for item in explained],
        "pixel_convention": PIXEL_CONVENTION,
        "licence": description.licence,
        "provenance": dict(description.provenance),
        "derivation": DERIVATION,
    }
    model.producer_name, model.producer_version = "triggerscope", str(DERIVATION)
    helper.set_model_props(model, {METADATA_KEY: json.dumps(said, sort_keys=True)})
