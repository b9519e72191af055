import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper
from torch import nn
from training.networks.explain_graph import ExportError, explain, nest_concatenations, pool_before_pointwise

from training.networks.export import autograd_maps, tap_names, trace

SIZE = 36
RNG = np.random.default_rng(0)


class Residual(nn.Module):
    """Strided, dilated and grouped convolutions, a residual sum, a pool that leaves a row over, and a plain head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 6, 3, stride=2, padding=1), nn.ReLU())
        self.down = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.dilated = nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        self.pool = nn.AvgPool2d(2)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, radiograph: torch.Tensor) -> torch.Tensor:
        down = self.down(self.stem(radiograph))  # (N, 8, 9, 9)
        summed = torch.relu(self.dilated(torch.relu(self.grouped(down))) + down)
        pooled = self.norm(self.pool(summed))  # (N, 8, 4, 4)
        return self.head(pooled.mean((2, 3)))


def randomised(network: nn.Module) -> nn.Module:
    """Batch norms with statistics and weights of both signs, in evaluation mode."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network.eval()


def run(model: ModelProto, batch: np.ndarray, label_count: int) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feed = {
        "radiograph": batch,
        "label_centre": np.zeros(label_count, np.float32),
        "label_scale": np.ones(label_count, np.float32),
    }
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


@pytest.mark.parametrize("explained_count", [1, 3])
def test_gradients_through_a_residual_network_equal_autograd(explained_count):
    network = randomised(Residual())
    model = explain(trace(network, ["stem", "down"], SIZE), tap_names(["stem", "down"]), explained_count)
    batch = RNG.random((2, 1, SIZE, SIZE), dtype=np.float32)
    outputs = run(model, batch, 4)
    explained = torch.from_numpy(outputs["explained_labels"])
    logits, maps = autograd_maps(network, ["stem", "down"], torch.from_numpy(batch), explained)
    np.testing.assert_allclose(outputs["logits"], logits.numpy(), atol=1e-5)
    assert set(maps) == {f"{kind}_{grid}" for kind in ("layercam", "counter_layercam", "gradcam") for grid in (18, 9)}
    for name, want in maps.items():
        np.testing.assert_allclose(outputs[name], want.numpy(), rtol=1e-3, atol=1e-5)


def graph_of(nodes: list[NodeProto], output: str, channels: int, side: int) -> ModelProto:
    weight = helper.make_tensor("weight", TensorProto.FLOAT, [3, 2, 1, 1], RNG.random(6).astype(np.float32))
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 4, 4])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [1, channels, side, side])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def evaluated(model: ModelProto, x: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def test_pooling_before_a_pointwise_convolution_gives_the_same_result():
    nodes = [
        helper.make_node("Conv", ["x", "weight"], ["wide"], kernel_shape=[1, 1]),
        helper.make_node("AveragePool", ["wide"], ["y"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    model = graph_of(nodes, "y", 3, 2)
    x = RNG.standard_normal((1, 2, 4, 4)).astype(np.float32)
    before = evaluated(model, x)
    pool_before_pointwise(model.graph)
    assert [node.op_type for node in model.graph.node] == ["AveragePool", "Conv"]
    np.testing.assert_allclose(evaluated(model, x), before, atol=1e-6)


def test_a_convolution_that_is_read_elsewhere_stays_before_its_pool():
    nodes = [
        helper.make_node("Conv", ["x", "weight"], ["wide"], kernel_shape=[1, 1]),
        helper.make_node("AveragePool", ["wide"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Add", ["wide", "pooled"], ["y"]),
    ]
    model = graph_of(nodes, "y", 3, 4)
    pool_before_pointwise(model.graph)
    assert [node.op_type for node in model.graph.node] == ["Conv", "AveragePool", "Add"]


def test_concatenations_are_nested_where_one_begins_with_another():
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Concat", ["x", "a"], ["two"], axis=1),
        helper.make_node("Relu", ["two"], ["b"]),
        helper.make_node("Concat", ["x", "a", "b"], ["y"], axis=1),
    ]
    model = graph_of(nodes, "y", 8, 4)
    x = RNG.standard_normal((1, 2, 4, 4)).astype(np.float32)
    before = evaluated(model, x)
    nest_concatenations(model.graph)
    assert list(model.graph.node[3].input) == ["two", "b"]
    np.testing.assert_array_equal(evaluated(model, x), before)


class Gated(nn.Module):
    """Ends like a classifier, but gates its features."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, stride=2)
        self.head = nn.Linear(4, 2)

    def forward(self, radiograph: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.stem(radiograph)).mean((2, 3)))


def test_an_operator_without_a_gradient_rule_is_refused_by_name():
    with pytest.raises(ExportError, match="Tanh"):
        explain(trace(Gated().eval(), ["stem"], SIZE), tap_names(["stem"]), 1)


def test_a_block_that_does_not_lead_to_the_logits_is_refused():
    forward = trace(Gated().eval(), ["stem"], SIZE)
    with pytest.raises(ExportError, match="does not lead"):
        explain(forward, ["logits"], 1)
