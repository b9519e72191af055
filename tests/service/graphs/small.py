"""Small ONNX files set by hand: a stem that ends in 4 x 4 and 2 x 2 cells, and whatever a test puts around it."""

from collections.abc import Sequence

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from service.arrays import FloatArray
from service.audit.preprocessing import Preprocessing
from service.graphs.derivation import derive
from service.graphs.description import Description
from service.graphs.network import Network
from service.graphs.places import explained
from service.graphs.reading import load_model, read_network

SIZE, CHANNELS, LABELS = 32, 4, 3
Constants = dict[str, NDArray[np.generic]]


def numbers(*shape: int, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def films(count: int = 2, channels: int = 1) -> FloatArray:
    return np.random.default_rng(1).random((count, channels, SIZE, SIZE), dtype=np.float32)


def described(**changes: object) -> Description:
    settings: dict[str, object] = {
        "name": "small",
        "labels": tuple(f"label {number}" for number in range(LABELS)),
        "preprocessing": Preprocessing(size=SIZE),
    }
    return Description(**(settings | changes))  # type: ignore[arg-type]  # a test says what it means


def node(kind: str, inputs: str, output: str, **attributes: object) -> NodeProto:
    """inputs: names with spaces between, `-` for one that is left out."""
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(kind, names, output.split(), name=output.split()[0], **attributes)


def stem(start: str = "x", channels: int = 1) -> tuple[list[NodeProto], Constants]:
    """From the input to `fine` (N, 4, 4, 4) and `coarse` (N, 4, 2, 2)."""
    sizes = {"w1": (CHANNELS, channels, 5, 5), "w2": (CHANNELS, CHANNELS, 3, 3), "w3": (CHANNELS, CHANNELS, 3, 3)}
    constants: Constants = {name: numbers(*shape, seed=n) * 0.3 for n, (name, shape) in enumerate(sizes.items())}
    constants |= {f"b{number}": numbers(CHANNELS, seed=number) for number in (1, 2, 3)}
    nodes = [
        node("Conv", f"{start} w1 b1", "c1", strides=[4, 4], pads=[2, 2, 2, 2]),
        node("Relu", "c1", "first"),
        node("Conv", "first w2 b2", "c2", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", "c2", "fine"),
        node("Conv", "fine w3 b3", "c3", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", "c3", "coarse"),
    ]
    return nodes, constants


def head(start: str = "coarse", output: str = "y") -> tuple[list[NodeProto], Constants]:
    """A mean over the maps and one linear layer."""
    constants: Constants = {"head": numbers(LABELS, CHANNELS, seed=9), "bias": numbers(LABELS, seed=10)}
    nodes = [
        node("GlobalAveragePool", start, "pooled"),
        node("Flatten", "pooled", "row"),
        node("Gemm", "row head bias", output, transB=1),
    ]
    return nodes, constants


def model(
    nodes: Sequence[NodeProto],
    constants: Constants,
    *,
    channels: int = 1,
    opset: int = 17,
    outputs: Sequence[str] = ("y",),
    kind: int = TensorProto.FLOAT,
    size: int | str = SIZE,
) -> ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info("x", kind, ["N", channels, size, size])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", "C"]) for name in outputs],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def read(file: ModelProto, description: Description | None = None) -> Network:
    return read_network(load_model(file.SerializeToString()), description or described())


def derived_outputs(file: ModelProto, description: Description, batch: FloatArray) -> dict[str, NDArray[np.generic]]:
    """What the derived file puts out."""
    network = read(file, description)
    data = derive(network, explained(network), description)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    count = len(description.labels)
    names = [item.name for item in session.get_outputs()]
    feed = {"radiograph": batch, "label_centre": np.zeros(count, "f4"), "label_scale": np.ones(count, "f4")}
    return dict(zip(names, session.run(names, feed), strict=True))


def original_output(file: ModelProto, pixels: FloatArray, output: str = "y") -> FloatArray:
    """What ONNX Runtime makes of the file itself, film by film."""
    session = onnxruntime.InferenceSession(file.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.concatenate([np.asarray(session.run([output], {"x": film[None]})[0]) for film in pixels])
