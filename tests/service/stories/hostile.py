"""Files that are handed in to wear the service out."""

import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE, CHANNELS, LAYERS = 512, 64, 17  # 1.6e11 multiply-adds a film, just below what is refused unread


def _described(graph: onnx.GraphProto, size: int) -> bytes:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    said = {"name": "hostile", "labels": ["One", "Two"], "preprocessing": {"size": size}}
    helper.set_model_props(model, {"triggerscope": json.dumps(said)})
    return bytes(model.SerializeToString())


def slow() -> bytes:
    """A file of 200 kB that runs for minutes: one weight, used again and again at full resolution."""
    rng = np.random.default_rng(0)
    nodes, tensors = [], []

    def conv(source: str, target: str, weight: str, **settings: object) -> str:
        nodes.append(helper.make_node("Conv", [source, weight], [f"{target}_conv"], **settings))
        nodes.append(helper.make_node("Relu", [f"{target}_conv"], [target]))
        return target

    shapes = {"first": (CHANNELS, 1, 3, 3), "again": (CHANNELS, CHANNELS, 3, 3), "eighth": (8, CHANNELS, 8, 8)}
    for name, shape in (shapes | {"sixteenth": (8, 8, 2, 2)}).items():
        values = rng.normal(0, np.prod(shape[1:]) ** -0.5, shape).astype(np.float32)
        tensors.append(numpy_helper.from_array(values, name))
    tensors.append(numpy_helper.from_array(rng.normal(size=(2, 8)).astype(np.float32), "head"))
    found = conv("radiograph", "c0", "first", pads=[1, 1, 1, 1])
    for layer in range(LAYERS):
        found = conv(found, f"c{layer + 1}", "again", pads=[1, 1, 1, 1])
    found = conv(found, "fine", "eighth", strides=[8, 8])
    found = conv(found, "coarse", "sixteenth", strides=[2, 2])
    nodes += [
        helper.make_node("GlobalAveragePool", [found], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head"], ["logits"], transB=1),
    ]
    film = helper.make_tensor_value_info("radiograph", TensorProto.FLOAT, ["n", 1, SIZE, SIZE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2])
    return _described(helper.make_graph(nodes, "slow", [film], [logits], tensors), SIZE)


def large() -> bytes:
    """A file of 1 kB that asks for 40 GB: a constant that is made when it is read."""
    count = numpy_helper.from_array(np.array([10_000_000_000], np.int64), "count")
    nodes = [
        helper.make_node("ConstantOfShape", ["count"], ["zeros"]),
        helper.make_node("Flatten", ["radiograph"], ["flat"]),
        helper.make_node("Gemm", ["flat", "zeros"], ["logits"]),
    ]
    film = helper.make_tensor_value_info("radiograph", TensorProto.FLOAT, ["n", 1, 64, 64])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2])
    return _described(helper.make_graph(nodes, "large", [film], [logits], [count]), 64)
