"""Every operator that is read, in each form in which exporters write it: the derived logits are the file's own."""

from collections.abc import Sequence

import numpy as np
import pytest
from onnx import NodeProto, TensorProto

from service.graphs.description import Normalisation
from service.graphs.reading import OPERATORS
from tests.service.graphs.small import (
    CHANNELS,
    LABELS,
    Constants,
    derived_outputs,
    described,
    films,
    head,
    model,
    node,
    numbers,
    original_output,
    stem,
)

Part = tuple[list[NodeProto], Constants]


def part(*nodes: NodeProto, **constants: object) -> Part:
    return list(nodes), {name: np.asarray(values) for name, values in constants.items()}


def integers(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


WEIGHT, BIAS = numbers(CHANNELS, LABELS, seed=9), numbers(LABELS, seed=10)
DENSE = node("Gemm", "row weight bias", "y")
POOL = node("GlobalAveragePool", "coarse", "pooled")
SHAPED = [
    POOL,
    node("Shape", "pooled", "shape"),
    node("Gather", "shape zero", "batch", axis=0),
    node("Unsqueeze", "batch axis", "column"),
    node("Concat", "column rest", "target", axis=0),
    node("Reshape", "pooled target", "row"),
    DENSE,
]

# Endings, from `coarse` (N, 4, 2, 2) to `y` (N, 3).
HEADS: dict[str, tuple[Part, int]] = {
    "ReduceMean, axes an attribute": (
        part(node("ReduceMean", "coarse", "row", axes=[2, 3], keepdims=0), DENSE, weight=WEIGHT, bias=BIAS),
        13,
    ),
    "ReduceMean, axes an input and negative": (
        part(
            node("ReduceMean", "coarse axes", "pooled"),
            node("Flatten", "pooled", "row", axis=-3),
            DENSE,
            axes=integers(-1, -2),
            weight=WEIGHT,
            bias=BIAS,
        ),
        18,
    ),
    "MatMul and Add": (
        part(
            POOL,
            node("Flatten", "pooled", "row"),
            node("MatMul", "row weight", "product"),
            node("Add", "bias product", "y"),
            weight=WEIGHT,
            bias=BIAS,
        ),
        17,
    ),
    "MatMul, read twice, and Add": (
        part(
            POOL,
            node("Flatten", "pooled", "row"),
            node("MatMul", "row weight", "product"),
            node("Add", "product bias", "sum"),
            node("Add", "sum product", "y"),
            weight=WEIGHT,
            bias=BIAS,
        ),
        17,
    ),
    "Gemm with factors": (
        part(
            POOL,
            node("Flatten", "pooled", "row"),
            node("Gemm", "row weight bias", "y", alpha=0.5, beta=2.0, transB=1),
            weight=WEIGHT.T.copy(),
            bias=BIAS,
        ),
        17,
    ),
    "Gemm without bias": (
        part(POOL, node("Flatten", "pooled", "row"), node("Gemm", "row weight", "y"), weight=WEIGHT),
        17,
    ),
    "two linear layers": (
        part(
            POOL,
            node("Flatten", "pooled", "row"),
            node("Gemm", "row wide", "hidden"),
            node("Relu", "hidden", "bent"),
            node("Gemm", "bent narrow bias", "y"),
            wide=numbers(CHANNELS, 7),
            narrow=numbers(7, LABELS),
            bias=BIAS,
        ),
        17,
    ),
    "a head on all cells": (
        part(node("Flatten", "coarse", "row"), DENSE, weight=numbers(4 * CHANNELS, LABELS), bias=BIAS),
        17,
    ),
    "Squeeze": (
        part(POOL, node("Squeeze", "pooled axes", "row"), DENSE, axes=integers(2, -1), weight=WEIGHT, bias=BIAS),
        17,
    ),
    "Reshape [0, -1]": (
        part(POOL, node("Reshape", "pooled target", "row"), DENSE, target=integers(0, -1), weight=WEIGHT, bias=BIAS),
        17,
    ),
    "Reshape [-1, 4]": (
        part(POOL, node("Reshape", "pooled target", "row"), DENSE, target=integers(-1, 4), weight=WEIGHT, bias=BIAS),
        17,
    ),
    "Reshape [1, -1]": (
        part(POOL, node("Reshape", "pooled target", "row"), DENSE, target=integers(1, -1), weight=WEIGHT, bias=BIAS),
        17,
    ),
    "Reshape to what Shape says": (
        part(*SHAPED, zero=integers(0).reshape(()), axis=integers(0), rest=integers(-1), weight=WEIGHT, bias=BIAS),
        17,
    ),
    "constants in nodes": (
        part(
            node("Constant", "", "number", value_float=0.25),
            node("Mul", "coarse number", "scaled"),
            node("GlobalAveragePool", "scaled", "pooled"),
            node("Flatten", "pooled", "row"),
            DENSE,
            weight=WEIGHT,
            bias=BIAS,
        ),
        17,
    ),
    "a weight turned round in the file": (
        part(
            POOL,
            node("Flatten", "pooled", "row"),
            node("Transpose", "stored", "weight", perm=[1, 0]),
            DENSE,
            stored=WEIGHT.T.copy(),
            bias=BIAS,
        ),
        17,
    ),
    "weights in 16 bits": (
        part(
            POOL,
            node("Flatten", "pooled", "row"),
            node("Cast", "half", "weight", to=TensorProto.FLOAT),
            DENSE,
            half=WEIGHT.astype(np.float16),
            bias=BIAS,
        ),
        17,
    ),
    "a pool over the whole map": (
        part(
            node("AveragePool", "coarse", "pooled", kernel_shape=[2, 2]),
            node("Flatten", "pooled", "row"),
            DENSE,
            weight=WEIGHT,
            bias=BIAS,
        ),
        17,
    ),
    "a pool and a convolution": (
        part(
            POOL,
            node("Conv", "pooled kernel bias", "cell"),
            node("Flatten", "cell", "y"),
            kernel=WEIGHT.T.reshape(LABELS, CHANNELS, 1, 1),
            bias=BIAS,
        ),
        17,
    ),
    "a convolution and a pool, left as cells": (
        part(
            node("Conv", "coarse kernel bias", "cells"),
            node("GlobalAveragePool", "cells", "y"),
            kernel=WEIGHT.T.reshape(LABELS, CHANNELS, 1, 1),
            bias=BIAS,
        ),
        17,
    ),
    "a maximum over the map": (
        part(
            node("GlobalMaxPool", "coarse", "pooled"), node("Flatten", "pooled", "row"), DENSE, weight=WEIGHT, bias=BIAS
        ),
        17,
    ),
    "Dropout and Identity": (
        part(
            POOL,
            node("Flatten", "pooled", "flat"),
            node("Dropout", "flat ratio", "dropped"),
            node("Identity", "dropped", "row"),
            DENSE,
            ratio=np.float32(0.5),
            weight=WEIGHT,
            bias=BIAS,
        ),
        17,
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_heads(name):
    (nodes, constants), opset = HEADS[name]
    before, stored = stem()
    file = model([*before, *nodes], stored | constants, opset=opset)
    got = derived_outputs(file, described(), films())["logits"]
    np.testing.assert_allclose(got, original_output(file, films()).reshape(got.shape), rtol=1e-4, atol=1e-5)


NORM = {
    "scale": numbers(CHANNELS, seed=20),
    "shift": numbers(CHANNELS, seed=21),
    "mean": numbers(CHANNELS, seed=22),
    "variance": np.abs(numbers(CHANNELS, seed=23)) + 0.5,
}
KERNEL = numbers(CHANNELS, CHANNELS, 3, 3, seed=24)

# What stands between `first` (N, 4, 8, 8) and `between` of the same size, or of 4 x 4 cells.
MIDDLES: dict[str, Part] = {
    "BatchNormalization": part(
        node("BatchNormalization", "first scale shift mean variance", "between", epsilon=1e-3), **NORM
    ),
    "uneven padding": part(node("Conv", "first kernel", "between", pads=[2, 0, 0, 2]), kernel=KERNEL),
    "SAME_UPPER": part(node("Conv", "first kernel", "between", auto_pad="SAME_UPPER", strides=[2, 2]), kernel=KERNEL),
    "SAME_LOWER": part(node("Conv", "first kernel", "between", auto_pad="SAME_LOWER", strides=[2, 2]), kernel=KERNEL),
    "VALID": part(
        node("Conv", "first kernel", "between", auto_pad="VALID"), kernel=numbers(CHANNELS, CHANNELS, 1, 1, seed=24)
    ),
    "dilated": part(node("Conv", "first kernel", "between", dilations=[2, 2], pads=[2, 2, 2, 2]), kernel=KERNEL),
    "grouped": part(node("Conv", "first kernel", "between", group=2, pads=[1, 1, 1, 1]), kernel=KERNEL[:, :2]),
    "Clip to 6": part(node("Clip", "first low high", "between"), low=np.float32(0), high=np.float32(0.7)),
    "Clip without an upper bound": part(node("Clip", "first low", "between"), low=np.float32(0)),
    "MaxPool": part(node("MaxPool", "first", "between", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])),
    "MaxPool SAME_UPPER": part(
        node("MaxPool", "first", "between", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")
    ),
    "MaxPool with a ceil_mode that changes nothing": part(
        node("MaxPool", "first", "between", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    ),
    "AveragePool": part(node("AveragePool", "first", "between", kernel_shape=[2, 2], strides=[2, 2])),
    "AveragePool that leaves padding out": part(
        node("AveragePool", "first", "between", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    ),
    "AveragePool that counts padding": part(
        node("AveragePool", "first", "between", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)
    ),
    "factors and summands": part(
        node("Mul", "factor first", "a"),
        node("Add", "a summand", "b"),
        node("Sub", "b number", "c"),
        node("Div", "c factor", "d"),
        node("Sub", "number d", "between"),
        factor=numbers(CHANNELS, 1, 1, seed=25),
        summand=numbers(1, CHANNELS, 1, 1, seed=26),
        number=np.float32(0.3),
    ),
    "a sum of branches": part(
        node("Conv", "first kernel", "branch", pads=[1, 1, 1, 1]), node("Add", "first branch", "between"), kernel=KERNEL
    ),
    "joined branches": part(
        node("Conv", "first narrow", "branch"),
        node("Concat", "first branch", "joined", axis=-3),
        node("Conv", "joined wide", "between"),
        narrow=numbers(2, CHANNELS, 1, 1),
        wide=numbers(CHANNELS, 6, 1, 1),
    ),
    "Reshape and Cast that change nothing": part(
        node("Reshape", "first same", "a"),
        node("Cast", "a", "between", to=TensorProto.FLOAT),
        same=integers(-1, CHANNELS, 8, 8),
    ),
}


@pytest.mark.parametrize("name", MIDDLES)
def test_what_stands_between(name):
    nodes, constants = MIDDLES[name]
    before, stored = stem()
    if name in HALVING:  # the stem's own second convolution then keeps the size
        before[2] = node("Conv", "between w2 b2", "c2", pads=[1, 1, 1, 1])
    else:
        before[2] = node("Conv", "between w2 b2", "c2", strides=[2, 2], pads=[1, 1, 1, 1])
    after, more = head()
    file = model([*before[:2], *nodes, *before[2:], *after], stored | constants | more)
    got = derived_outputs(file, described(), films())["logits"]
    np.testing.assert_allclose(got, original_output(file, films()), rtol=1e-4, atol=1e-5)


HALVING = {
    "SAME_UPPER",
    "SAME_LOWER",
    "MaxPool",
    "MaxPool SAME_UPPER",
    "MaxPool with a ceil_mode that changes nothing",
    "AveragePool",
}

THREE = np.array([0.485, 0.456, 0.406], np.float32).reshape(1, 3, 1, 1)
# From the one grey channel `x` to the three of `wide`.
REPETITIONS: dict[str, Part] = {
    "Concat": part(node("Concat", "x x x", "wide", axis=1)),
    "Expand": part(node("Expand", "x target", "wide"), target=integers(1, 3, 1, 1)),
    "Tile": part(node("Tile", "x times", "wide"), times=integers(1, 3, 1, 1)),
    "Sub and Div of three": part(node("Sub", "x mean", "a"), node("Div", "a mean", "wide"), mean=THREE),
    "three less the film": part(node("Sub", "mean x", "wide"), mean=THREE),
}


@pytest.mark.parametrize("name", REPETITIONS)
def test_one_channel_given_to_three(name):
    nodes, constants = REPETITIONS[name]
    before, stored = stem("wide", channels=3)
    after, more = head()
    file = model([*nodes, *before, *after], stored | constants | more)
    got = derived_outputs(file, described(), films())["logits"]
    np.testing.assert_allclose(got, original_output(file, films()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("air_white", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_described_normalisation(channels, air_white):
    """What the file is given by its own people: (value - mean) / std in each channel, of films turned round."""
    mean, std = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) if channels == 3 else ((0.5,), (0.25,))
    before, stored = stem(channels=channels)
    after, more = head()
    file = model([*before, *after], stored | more, channels=channels, size="S")
    shown = 1 - films() if air_white else films()
    pixels = (shown - np.reshape(mean, (1, -1, 1, 1))) / np.reshape(std, (1, -1, 1, 1))
    normalisation = Normalisation(mean, std, air_white=air_white)
    got = derived_outputs(file, described(normalisation=normalisation), films())["logits"]
    np.testing.assert_allclose(got, original_output(file, pixels.astype(np.float32)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("called", [False, True])
@pytest.mark.parametrize(
    ("kind", "attributes"), [("Sigmoid", {}), ("Softmax", {"axis": 1}), ("LogSoftmax", {}), ("Softmax", {"axis": -1})]
)
def test_what_the_file_ends_in_is_taken_off(kind, attributes, called):
    """The sigmoid of the derived logits is the file's probability either way. called: by another name behind it."""
    before, stored = stem()
    after, more = head(output="logits")
    ended = node(kind, "logits", "shares" if called else "y", **attributes)
    file = model([*before, *after, ended, *([node("Identity", "shares", "y")] if called else [])], stored | more)
    logits = derived_outputs(file, described(), films())["logits"].astype(np.float64)
    want = original_output(file, films())
    want = np.exp(want) if kind == "LogSoftmax" else want
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), want, rtol=1e-4, atol=1e-6)


def test_the_named_one_of_several_outputs_is_read():
    before, stored = stem()
    after, more = head()
    features = node("Tanh", "row", "features")  # what the named output does not depend on may be anything
    file = model([*before, *after, features], stored | more, outputs=("features", "y"))
    got = derived_outputs(file, described(output="y"), films())["logits"]
    np.testing.assert_allclose(got, original_output(file, films()), rtol=1e-4, atol=1e-5)


def test_every_operator_that_is_read_has_a_form_here():
    parts: list[Sequence[NodeProto]] = [nodes for (nodes, _), _ in HEADS.values()]
    parts += [nodes for nodes, _ in [*MIDDLES.values(), *REPETITIONS.values(), stem()]]
    assert {item.op_type for nodes in parts for item in nodes} >= set(OPERATORS)
