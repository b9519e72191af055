"""The forward graph is put into the form that is cheapest to differentiate, and means what it meant."""

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto, helper

from service.graphs.gradients import nest_concatenations, pool_before_pointwise
from tests.service.graphs.small import node, numbers

X = numbers(1, 2, 4, 4)
POOLED = [node("Conv", "x weight", "wide", kernel_shape=[1, 1]), node("AveragePool", "wide", "y", kernel_shape=[2, 2],
          strides=[2, 2])]  # fmt: skip
SHAPES = {"x": [0, 2, 4, 4], "wide": [0, 3, 4, 4], "y": [0, 3, 2, 2]}


def graph_of(nodes: list[NodeProto], channels: int, side: int) -> ModelProto:
    """From x (1, 2, 4, 4) to y; `weight` is a 1 x 1 convolution's of three channels."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, channels, side, side])],
        [onnx.numpy_helper.from_array(numbers(3, 2, 1, 1), "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def evaluated(model: ModelProto) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": X})[0])


def test_pooling_before_a_pointwise_convolution_gives_the_same_result():
    model, shapes = graph_of(POOLED, 3, 2), dict(SHAPES)
    before = evaluated(model)
    pool_before_pointwise(model.graph, shapes, [])
    assert [made.op_type for made in model.graph.node] == ["AveragePool", "Conv"]
    assert shapes["wide"] == [0, 2, 2, 2]
    np.testing.assert_allclose(evaluated(model), before, atol=1e-6)


def test_a_tensor_that_maps_are_made_of_stays_before_its_pool():
    model = graph_of(POOLED, 3, 2)
    pool_before_pointwise(model.graph, dict(SHAPES), ["wide"])
    assert [made.op_type for made in model.graph.node] == ["Conv", "AveragePool"]


def test_a_convolution_that_is_read_elsewhere_stays_before_its_pool():
    nodes = [
        node("Conv", "x weight", "wide", kernel_shape=[1, 1]),
        node("AveragePool", "wide", "pooled", kernel_shape=[4, 4], strides=[4, 4]),
        node("Add", "wide pooled", "y"),
    ]
    model = graph_of(nodes, 3, 4)
    pool_before_pointwise(model.graph, SHAPES | {"pooled": [0, 3, 1, 1]}, [])
    assert [made.op_type for made in model.graph.node] == ["Conv", "AveragePool", "Add"]


def test_concatenations_are_nested_where_one_begins_with_another():
    nodes = [
        node("Relu", "x", "a"),
        node("Concat", "x a", "two", axis=1),
        node("Relu", "two", "b"),
        node("Concat", "x a b", "y", axis=1),
    ]
    model = graph_of(nodes, 8, 4)
    before = evaluated(model)
    nest_concatenations(model.graph)
    assert list(model.graph.node[3].input) == ["two", "b"]
    np.testing.assert_array_equal(evaluated(model), before)
