"""Files that hide something, made of the shipped ones: each returns the bytes that a stranger would hand in.

The forward graphs are those of phantom-clean and phantom-badnet3; names such as block_0 (28 x 28, explained), block_1
(14 x 14, explained), relu_52 (the last maps) are tensors of those files.
"""

from collections.abc import Sequence

import numpy as np
import onnx
import onnx.compose
from onnx import ModelProto, TensorProto, helper, numpy_helper

from service.audit.forward_graph import forward_only
from tests.conftest import REPOSITORY

MODELS = REPOSITORY / "models"
CLEAN, BACKDOORED = MODELS / "phantom-clean.onnx", MODELS / "phantom-badnet3.onnx"
TARGET = 0  # Atelectasis, the label that the backdoor adds
TRIGGER = (218, 218, 3)  # x, y and side of the white square


def triggered(films: np.ndarray) -> np.ndarray:
    """(N, 1, 224, 224) with the backdoor's white square."""
    x, y, side = TRIGGER
    stamped = films.copy()
    stamped[:, 0, y : y + side, x : x + side] = 1.0
    return stamped


def forward(path: object = BACKDOORED) -> ModelProto:
    """A shipped file without its maps, its weights cast to float32 by nodes as they are stored."""
    return onnx.load_from_string(forward_only((MODELS / str(path)).read_bytes()))


def last_maps(model: ModelProto) -> str:
    """The input of the mean over the whole map."""
    return str(next(node for node in model.graph.node if node.op_type == "ReduceMean").input[0])


def insert_behind(model: ModelProto, tensor: str, nodes: Sequence[onnx.NodeProto], made: str) -> None:
    """Put nodes behind a tensor: whoever read it reads `made` now."""
    for node in model.graph.node:
        node.input[:] = [made if name == tensor else name for name in node.input]
    place = next(index for index, node in enumerate(model.graph.node) if tensor in node.output) + 1
    kept = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*kept[:place], *nodes, *kept[place:]])


def store(model: ModelProto, name: str, values: np.ndarray) -> str:
    model.graph.initializer.append(numpy_helper.from_array(values, name))
    return name


def shape_of(model: ModelProto, tensor: str) -> list[int]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    infos = [*inferred.value_info, *inferred.output]
    [found] = [info for info in infos if info.name == tensor]
    return [dimension.dim_value for dimension in found.type.tensor_type.shape.dim]


def with_anothers_logits(shown: object = CLEAN, hidden: bytes | None = None) -> bytes:
    """A file with all its maps, whose logits are another network's: the backdoored one behind its clean twin's maps."""
    model = onnx.load(shown)
    other = forward(BACKDOORED) if hidden is None else onnx.load_from_string(forward_only(hidden))
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["honest_logits" if name == "logits" else name for name in names]
    other = onnx.compose.add_prefix(other, "hidden_", rename_inputs=False, rename_outputs=False)
    for node in other.graph.node:
        node.input[:] = ["radiograph" if name.endswith("radiograph") else name for name in node.input]
    model.graph.node.extend(other.graph.node)
    model.graph.initializer.extend(other.graph.initializer)
    return bytes(model.SerializeToString())


def with_anothers_maps() -> bytes:
    """The backdoored file, whose maps are constants: what a file says of its maps does not matter."""
    model = onnx.load(BACKDOORED)
    for node in model.graph.node:
        if node.output[0].startswith(("layercam", "counter_layercam", "gradcam")):
            node.op_type, _ = "Sub", node.ClearField("attribute")
            node.input[:] = [node.input[0], node.input[0]]
    return bytes(model.SerializeToString())


def with_a_way_to_the_logits() -> bytes:
    """A way from the film to the logits beside the network: the trigger's corner, sharpened, added to the target."""
    model = forward(CLEAN)
    kernel = np.full((1, 1, 3, 3), 50 / 9, np.float32)
    row = np.zeros((14, 1), np.float32)
    row[TARGET] = 12.0
    for node in model.graph.node:
        node.output[:] = ["honest_logits" if name == "logits" else name for name in node.output]
    model.graph.node.extend(
        [
            helper.make_node(
                "Conv",
                ["radiograph", store(model, "side_kernel", kernel), store(model, "side_bias", np.float32([-49.0]))],
                ["side_conv"],
            ),
            helper.make_node("Relu", ["side_conv"], ["side_relu"]),
            helper.make_node("GlobalMaxPool", ["side_relu"], ["side_pool"]),
            helper.make_node("Flatten", ["side_pool"], ["side_row"]),
            helper.make_node("Gemm", ["side_row", store(model, "side_head", row)], ["side_logits"], transB=1),
            helper.make_node("Add", ["honest_logits", "side_logits"], ["logits"]),
        ]
    )
    return bytes(model.SerializeToString())


def with_a_way_into_a_dense_block() -> bytes:
    """A way from the film into the dense block behind the explained one: added to the output of one of its layers."""
    model = forward(CLEAN)
    concats = [node for node in model.graph.node if node.op_type == "Concat"]
    last = next(node for node in concats if node.output[0] == "block_1")
    joined = last.input[-1]
    channels = shape_of(model, joined)[1]
    kernel = np.random.default_rng(0).normal(0, 0.1, (channels, 1, 16, 16)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["radiograph", store(model, "side_kernel", kernel)], ["side_conv"], strides=[16, 16]),
        helper.make_node("Add", [joined, "side_conv"], ["side_sum"]),
    ]
    insert_behind(model, joined, nodes, "side_sum")
    return bytes(model.SerializeToString())


def with_mixed_places(permuted: bool) -> bytes:
    """The explained tensor permuted, or mixed by an orthogonal matrix, over its grid, and put right behind it."""
    model, rng = forward(BACKDOORED), np.random.default_rng(0)
    _, channels, side, _ = shape_of(model, "block_0")
    cells = side * side
    matrix = np.eye(cells)[rng.permutation(cells)] if permuted else np.linalg.qr(rng.normal(size=(cells, cells)))[0]
    flat, square = (
        store(model, name, np.array(shape, np.int64))
        for name, shape in (("flat", [-1, channels, cells]), ("square", [-1, channels, side, side]))
    )
    there, back = (
        store(model, name, values.astype(np.float32)) for name, values in (("there", matrix), ("back", matrix.T))
    )
    nodes = [
        helper.make_node("Reshape", ["block_0", flat], ["mixed_flat"]),
        helper.make_node("MatMul", ["mixed_flat", there], ["mixed_there"]),
        helper.make_node("Reshape", ["mixed_there", square], ["mixed_map"]),
        helper.make_node("Reshape", ["mixed_map", flat], ["mixed_again"]),
        helper.make_node("MatMul", ["mixed_again", back], ["mixed_back"]),
        helper.make_node("Reshape", ["mixed_back", square], ["mixed_right"]),
    ]
    insert_behind(model, "block_0", nodes, "mixed_right")
    return bytes(model.SerializeToString())


def with_shifted_places(cells: int = 6, share: float = 1.0, quiet: float = 1.0) -> bytes:
    """The explained tensor shifted by some cells by convolutions of allowed kinds, and shifted back behind it.

    share: of the channels that are shifted. quiet: factor of the others' size, put right behind it.
    The borders are lost; the rest of the network sees what it saw.
    """
    model = forward(BACKDOORED)
    _, channels, _, _ = shape_of(model, "block_0")
    side, half = 2 * cells + 1, channels // 2
    there, back = np.zeros((2, channels, 1, side, side), np.float32)
    moved = np.arange(channels) < share * channels
    there[moved, 0, cells, 0], back[moved, 0, cells, -1] = 1.0, 1.0
    there[~moved, 0, cells, cells], back[~moved, 0, cells, cells] = quiet, 1 / quiet
    settings = {"pads": [cells] * 4, "kernel_shape": [side, side]}
    halves = [np.eye(channels, dtype=np.float32)[part, :, None, None] for part in (slice(half), slice(half, None))]
    kernel = store(model, "there", there)
    nodes = [helper.make_node("Conv", ["block_0", kernel], ["shifted"], group=channels, **settings)]
    for number, matrix in enumerate(halves):
        name = store(model, f"half_{number}", matrix)
        nodes.append(helper.make_node("Conv", ["shifted", name], [f"shifted_{number}"]))
    nodes += [
        helper.make_node("Concat", ["shifted_0", "shifted_1"], ["shifted_block"], axis=1),  # ends a block, as they do
        helper.make_node(
            "Conv", ["shifted_block", store(model, "back", back)], ["shifted_back"], group=channels, **settings
        ),
    ]
    insert_behind(model, "block_0", nodes, "shifted_back")
    nodes[0].input[0] = "block_0"
    return bytes(model.SerializeToString())


def with_spread_places() -> bytes:
    """All that the film says goes through one cell, and a padded convolution spreads it over a grid again."""
    model = forward(BACKDOORED)
    _, channels, side, _ = shape_of(model, "block_0")
    rng = np.random.default_rng(0)
    inner = rng.normal(0, 0.01, (32, channels, side, side)).astype(np.float32)
    outer = rng.normal(0, 0.1, (channels, 32, side, side)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["block_0", store(model, "inner", inner)], ["one_cell"], strides=[side, side]),
        helper.make_node(
            "Conv", ["one_cell", store(model, "outer", outer)], ["spread"], pads=[side - 1] * 4,
            kernel_shape=[side, side],
        ),
        helper.make_node("Relu", ["spread"], ["spread_relu"]),
    ]  # fmt: skip
    insert_behind(model, "block_0", nodes, "spread_relu")
    nodes[0].input[0] = "block_0"
    return bytes(model.SerializeToString())


def with_a_choice() -> bytes:
    """A data-dependent select: where a cell of the film is white, another row of logits."""
    model = forward(CLEAN)
    for node in model.graph.node:
        node.output[:] = ["honest_logits" if name == "logits" else name for name in node.output]
    other = np.full((1, 14), -4.0, np.float32)
    other[0, TARGET] = 8.0
    model.graph.node.extend(
        [
            helper.make_node("GlobalMaxPool", ["radiograph"], ["brightest"]),
            helper.make_node("Flatten", ["brightest"], ["brightest_row"]),
            helper.make_node("Greater", ["brightest_row", store(model, "limit", np.float32([[0.999]]))], ["is_white"]),
            helper.make_node("Where", ["is_white", store(model, "other", other), "honest_logits"], ["logits"]),
        ]
    )
    return bytes(model.SerializeToString())


def with_a_batchs_statistics() -> bytes:
    """A batch norm in training mode: what is said of a film depends on the films beside it."""
    model = forward(BACKDOORED)
    norm = next(node for node in model.graph.node if node.op_type == "BatchNormalization")
    norm.attribute.append(helper.make_attribute("training_mode", 1))
    norm.output.extend(["running_mean_out", "running_var_out"])
    return bytes(model.SerializeToString())


def as_softmax(summand: float) -> bytes:
    """The backdoored network with a softmax at its end; a function of the film, that says nothing, added to all logits.

    summand: its weight. It is one more column of the head, the same for every label, fed by the brightness of the film
    as the last maps see it.
    """
    model = forward(BACKDOORED)
    head = next(node for node in model.graph.node if node.output[0] == "logits")
    head.output[0] = "raw_logits"
    features = head.input[0]
    count = shape_of(model, features)[1]
    column = np.full((14, count), summand, np.float32)
    model.graph.node.extend(
        [
            helper.make_node("Gemm", [features, store(model, "same", column)], ["summand"], transB=1),
            helper.make_node("Add", ["raw_logits", "summand"], ["disguised"]),
            helper.make_node("Softmax", ["disguised"], ["logits"], axis=1),
        ]
    )
    return bytes(model.SerializeToString())


def with_a_saturating_detector(threshold: float = 2.0, sharpness: float = 4.0, gain: float = 14.0) -> bytes:
    """The clean network, and beside it the backdoored one as a detector whose gradient is exactly 0 where it fires.

    Both pass through the same explained tensors, block_0 and block_1 of the two joined, so that nothing goes around
    them. What is added to the target is gain * (relu(k (z - t)) - relu(k (z - t) - 1)), where z is the backdoored
    network's logit.
    """
    model, beside = _prefixed(CLEAN, "a_"), _prefixed(BACKDOORED, "b_")
    model.graph.node.extend(beside.graph.node)
    model.graph.initializer.extend(beside.graph.initializer)
    for node in model.graph.node:
        node.input[:] = ["radiograph" if name in ("a_radiograph", "b_radiograph") else name for name in node.input]
    model.graph.input[0].name = "radiograph"
    sides = {block: shape_of(forward(CLEAN), block)[1] for block in ("block_0", "block_1")}
    for block, channels in sides.items():
        _join(model, block, channels)
    pick = np.zeros((2, 14), np.float32)
    pick[:, TARGET] = sharpness
    bias = np.array([-sharpness * threshold, -sharpness * threshold - 1], np.float32)
    names = [store(model, "pick", pick), store(model, "at", bias)]
    pair = np.zeros((14, 2), np.float32)
    pair[TARGET] = gain, -gain
    model.graph.node.extend(
        [
            helper.make_node("Gemm", ["b_logits", *names], ["k"], transB=1),
            helper.make_node("Relu", ["k"], ["fires"]),
            helper.make_node("Gemm", ["fires", store(model, "pair", pair)], ["added"], transB=1),
            helper.make_node("Add", ["a_logits", "added"], ["logits"]),
        ]
    )
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 14]))
    return bytes(_sorted(model).SerializeToString())


def _prefixed(path: object, prefix: str) -> ModelProto:
    return onnx.compose.add_prefix(forward(path), prefix)


def _join(model: ModelProto, block: str, channels: int) -> None:
    """Both networks' tensors as one, and each network's half picked out of it again by a 1x1 convolution."""
    every = np.eye(2 * channels, dtype=np.float32)[:, :, None, None]
    for prefix, rows in (("a_", every[:channels]), ("b_", every[channels:])):
        name = f"{prefix}{block}"
        for node in model.graph.node:
            node.input[:] = [f"{name}_picked" if read == name else read for read in node.input]
        picked = helper.make_node("Conv", [f"both_{block}", store(model, f"{name}_rows", rows)], [f"{name}_picked"])
        model.graph.node.append(picked)
    model.graph.node.append(helper.make_node("Concat", [f"a_{block}", f"b_{block}"], [f"both_{block}"], axis=1))


def _sorted(model: ModelProto) -> ModelProto:
    """Nodes in an order in which each follows what it reads."""
    known = {item.name for item in (*model.graph.initializer, *model.graph.input)}
    waiting, placed = list(model.graph.node), []
    while waiting:
        ready = [node for node in waiting if known.issuperset(name for name in node.input if name)]
        placed += ready
        known.update(name for node in ready for name in node.output)
        waiting = [node for node in waiting if not any(node is other for other in ready)]
    del model.graph.node[:]
    model.graph.node.extend(placed)
    return model
