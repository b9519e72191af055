"""What is refused, and that the refusal names it."""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper

from service.audit.preprocessing import Preprocessing
from service.graphs.description import Normalisation
from service.graphs.network import INPUT, Refused
from service.graphs.reading import load_model
from tests.service.graphs.small import CHANNELS, SIZE, described, head, model, node, numbers, read, stem


def between(*nodes: NodeProto, **constants: object) -> ModelProto:
    """The small network with nodes from `coarse` (N, 4, 2, 2) to `odd` before its head."""
    before, stored = stem()
    after, more = head("odd")
    given = {name: np.asarray(values) for name, values in constants.items()}
    return model([*before, *nodes, *after], stored | more | given)


def behind(*nodes: NodeProto, **constants: object) -> ModelProto:
    """The small network with nodes from its logits `made` (N, 3) to `y`."""
    before, stored = stem()
    after, more = head(output="made")
    given = {name: np.asarray(values) for name, values in constants.items()}
    return model([*before, *after, *nodes], stored | more | given)


def plain(**changes: object) -> ModelProto:
    before, stored = stem()
    after, more = head()
    return model([*before, *after], stored | more, **changes)  # type: ignore[arg-type]


def integers(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


GATE = [node("GlobalAveragePool", "coarse", "mean"), node("Mul", "coarse mean", "odd")]
NORM = {name: np.abs(numbers(CHANNELS)) + 0.1 for name in ("scale", "shift", "mean", "variance")}
TRUE = np.array(True)

# Of operators: the file, and what the refusal says.
OPERATORS: dict[str, tuple[ModelProto, str]] = {
    "Transpose": (between(node("Transpose", "coarse", "odd", perm=[0, 1, 3, 2])), "Transpose odd: it moves"),
    "Reshape of a map": (
        between(node("Reshape", "coarse to", "odd"), to=integers(0, 1, 4, 4)),
        "Reshape odd of .*moves",
    ),
    "MatMul of a map": (between(node("MatMul", "coarse mix", "odd"), mix=numbers(2, 2)), "MatMul odd of a map"),
    "MatMul of two maps": (between(node("MatMul", "coarse coarse", "odd")), "MatMul odd of two tensors.*attention"),
    "Gather": (between(node("Gather", "coarse order", "odd", axis=2), order=integers(1, 0)), "Gather odd: it moves"),
    "Slice": (
        between(
            node("Slice", "coarse ends starts axes steps", "odd"),
            ends=integers(-1),
            starts=integers(-9),
            axes=integers(3),
            steps=integers(-1),
        ),
        "Slice odd: it moves",
    ),
    "Resize": (
        between(node("Resize", "coarse - scales", "odd"), scales=np.ones(4, np.float32)),
        "Resize odd: it moves",
    ),
    "Concat of rows of places": (between(node("Concat", "coarse coarse", "odd", axis=2)), "Concat odd: it moves"),
    "gate": (between(*GATE), "Mul odd: a gate"),
    "Sigmoid within": (between(node("Sigmoid", "coarse", "odd")), "Sigmoid odd: a sigmoid inside"),
    "Softmax within": (between(node("Softmax", "coarse", "odd", axis=1)), "Softmax odd: a softmax inside"),
    "Where": (
        between(
            node("Greater", "coarse much", "chosen"), node("Where", "chosen coarse much", "odd"), much=np.float32(9)
        ),
        "Greater chosen: it chooses by the data",
    ),
    "random numbers": (
        between(node("RandomNormalLike", "coarse", "noise"), node("Add", "coarse noise", "odd")),
        "RandomNormalLike noise: random numbers",
    ),
    "random numbers of nothing": (
        between(node("RandomNormal", "", "noise", shape=[1, 4, 1, 1]), node("Add", "coarse noise", "odd")),
        "RandomNormal noise, of constants: random numbers",
    ),
    "QuantizeLinear": (
        between(
            node("QuantizeLinear", "coarse step zero", "q"),
            node("DequantizeLinear", "q step zero", "odd"),
            step=np.float32(0.1),
            zero=np.uint8(0),
        ),
        "QuantizeLinear q: quantised",
    ),
    "BatchNormalization in training": (
        between(node("BatchNormalization", "coarse scale shift mean variance", "odd a b", training_mode=1), **NORM),
        "BatchNormalization odd is in training mode",
    ),
    "Dropout in training": (
        between(node("Dropout", "coarse ratio on", "odd"), ratio=np.float32(0.5), on=TRUE),
        "Dropout odd is in training mode: random numbers",
    ),
    "Cast to whole numbers": (
        between(node("Cast", "coarse", "q", to=TensorProto.INT64), node("Cast", "q", "odd", to=TensorProto.FLOAT)),
        "Cast q turns what the film says into another type",
    ),
    "ceil_mode": (
        between(node("MaxPool", "first", "odd", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)),
        "MaxPool odd with ceil_mode where it makes a difference",
    ),
    "Clip from below 0": (
        between(node("Clip", "coarse low", "odd"), low=np.float32(-1)),
        "Clip odd with another lower",
    ),
    "a dilated pool": (
        between(node("MaxPool", "first", "odd", kernel_shape=[2, 2], dilations=[2, 2])),
        "MaxPool odd with dilation",
    ),
    "a constant for each place": (
        between(node("Add", "coarse places", "odd"), places=numbers(1, 1, 2, 2)),
        "Add odd with a constant of the shape",
    ),
    "weights that depend on the film": (
        between(node("Conv", "coarse coarse", "odd")),
        "Conv odd: its input 2 is not a",
    ),
    "an activation": (between(node("Tanh", "coarse", "odd")), "Tanh odd: an operator that is not read"),
    "weights that are no numbers": (
        between(node("Mul", "coarse factor", "odd"), factor=np.float32(np.nan)),
        "Mul odd has weights that are no finite",
    ),
    "groups that do not fit": (
        between(node("Conv", "coarse kernel", "odd", group=3), kernel=numbers(3, 1, 1, 1)),
        "Conv odd reads another number",
    ),
    "a softmax over places": (
        behind(node("Reshape", "made cells", "map"), node("Softmax", "map", "y"), cells=integers(-1, 3, 1, 1)),
        "Reshape map of",
    ),
    "a sigmoid that is read again": (
        behind(node("Sigmoid", "made", "share"), node("Add", "made share", "y")),
        "Sigmoid share: a sigmoid inside",
    ),
    "a division by the film": (behind(node("Div", "one made", "y"), one=np.float32(1)), "Div y divides a constant by"),
    "a difference of logits": (behind(node("Sub", "made made", "y")), "Sub y of two tensors that depend on the film"),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_are_refused_by_name(name):
    file, reason = OPERATORS[name]
    with pytest.raises(Refused, match=reason):
        read(file)


def test_a_softmax_over_another_axis_than_the_labels():
    """(N, 3, 1, 1) along its last axis is 1 everywhere."""
    before, stored = stem()
    kernel = numbers(3, CHANNELS, 1, 1)
    nodes = [
        node("Conv", "coarse kernel", "cells"),
        node("GlobalAveragePool", "cells", "made"),
        node("Softmax", "made", "y"),
    ]
    with pytest.raises(Refused, match="Softmax over another axis than the labels'"):
        read(model([*before, *nodes], stored | {"kernel": kernel}))


def test_a_padded_convolution_of_one_cell_reads_its_padding():
    """What an exporter would write of a linear layer has no padding; this one sees nothing but it."""
    file = between(
        node("GlobalAveragePool", "coarse", "mean"),
        node("Conv", "mean kernel", "odd", pads=[1, 1, 1, 1], strides=[3, 3]),
        kernel=numbers(CHANNELS, CHANNELS, 1, 1),
    )
    assert "Conv" in [made.kind for made in read(file).operations if made.shape == (CHANNELS, 1, 1)]


FILES: dict[str, tuple[Callable[[], ModelProto], dict[str, object], str]] = {
    "labels": (plain, {"labels": ("A", "B")}, "3 outputs, and 2 labels"),
    "size": (plain, {"preprocessing": Preprocessing(size=64)}, "input is 32 x 32, and the preprocessing makes 64 x 64"),
    "channels": (plain, {"normalisation": Normalisation((0.1,) * 3, (1.0,) * 3)}, "1 channel.*normalisation is for 3"),
    "four channels": (lambda: plain(channels=4), {}, "not .N, 1 or 3 channels, S, S"),
    "doubles": (lambda: plain(kind=TensorProto.DOUBLE), {}, "not float32"),
    "outputs": (lambda: plain(outputs=("y", "row")), {}, "2 outputs: name the one with the logits .y, row"),
    "no such output": (plain, {"output": "z"}, "no output z; it has y"),
    "an output that is a map": (lambda: plain(outputs=("coarse",)), {}, "no row of logits"),
    "opset": (lambda: plain(opset=12), {}, "opset 12; opsets 13 to"),
    "one label of a softmax": (lambda: one_label(), {"labels": ("A",), "head": "softmax"}, "at least 2 labels"),
    "no film": (lambda: unheard(), {}, "do not depend on any input"),
}


def one_label() -> ModelProto:
    before, stored = stem()
    after, more = head()
    return model([*before, *after], stored | more | {"head": numbers(1, CHANNELS), "bias": numbers(1)})


def unheard() -> ModelProto:
    return model([node("Identity", "stored", "y")], {"stored": numbers(1, 3)})


@pytest.mark.parametrize("name", FILES)
def test_files_that_do_not_fit_their_description(name):
    make, changes, reason = FILES[name]
    with pytest.raises(Refused, match=reason):
        read(make(), described(**changes))


def test_two_inputs_are_refused():
    file = between(node("Add", "coarse other", "odd"))
    file.graph.input.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, ["N", CHANNELS, 2, 2]))
    with pytest.raises(Refused, match=r"2 inputs \((x, other|other, x)\)"):
        read(file)


@pytest.mark.parametrize(
    "data", [b"not a model", b"", plain().SerializeToString()[:-200]], ids=["text", "empty", "cut"]
)
def test_what_is_no_onnx_file(data):
    with pytest.raises(Refused, match=r"no ONNX model|no valid ONNX model|opset 0"):
        load_model(data)


# --- One canonical graph ---------------------------------------------------------------------------------------------


def renamed(file: ModelProto) -> ModelProto:
    """The same network by other names."""
    changed = ModelProto()
    changed.CopyFrom(file)
    kept = {"x", "y", ""}
    for made in changed.graph.node:
        made.name = "other " + made.name
        made.input[:] = [name if name in kept else f"other {name}" for name in made.input]
        made.output[:] = [name if name in kept else f"other {name}" for name in made.output]
    for tensor in changed.graph.initializer:
        tensor.name = f"other {tensor.name}"
    return changed


def test_the_identity_is_that_of_what_is_computed():
    """Names, further outputs and forms of writing change nothing; a weight, a label, the size of a film do."""
    file, said = plain(), described()
    own = read(file).identity(said)
    assert read(renamed(file)).identity(said) == own
    assert read(plain(outputs=("y", "coarse")), replace(said, output="y")).identity(said) == own
    before, stored = stem()
    pooled = [node("ReduceMean", "coarse", "row", axes=[2, 3], keepdims=0), node("Gemm", "row turned bias", "y")]
    turned = {"turned": numbers(3, CHANNELS, seed=9).T.copy(), "bias": numbers(3, seed=10)}
    assert read(model([*before, *pooled], stored | turned)).identity(said) == own
    assert read(file).identity(replace(said, labels=("A", "B", "C"))) != own
    assert read(file).identity(replace(said, preprocessing=Preprocessing(size=SIZE, crop=0.9))) != own
    assert read(file, replace(said, normalisation=Normalisation((0.5,), (0.25,)))).identity(said) != own
    other = plain()
    other.graph.initializer[0].raw_data = (numbers(CHANNELS, 1, 5, 5) * 0.31).tobytes()
    assert read(other).identity(said) != own


def test_the_canonical_graph_holds_what_the_logits_depend_on_only():
    network = read(plain(outputs=("y", "coarse")), described(output="y"))
    assert [made.kind for made in network.operations] == [
        "Conv", "Relu", "Conv", "Relu", "Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm",
    ]  # fmt: skip
    assert network.operations[0].inputs == (INPUT,)
    json.dumps([made.settings for made in network.operations])  # as the identity writes them
