import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from service.audit.forward_graph import EXPLANATION_PREFIX, forward_only, require_self_contained
from service.errors import ClassifierError


@pytest.fixture
def model() -> ModelProto:
    """logits = radiograph + offset; a map that only the explanation needs."""
    shape = [1, 1]
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["radiograph", "offset"], ["logits"], name="add"),
            helper.make_node("Mul", ["logits", "explain/factor"], ["maps"], name=f"{EXPLANATION_PREFIX}mul"),
        ],
        "classifier",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("radiograph", "label_centre")],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("logits", "maps")],
        [helper.make_tensor(name, TensorProto.FLOAT, shape, [2.0]) for name in ("offset", "explain/factor")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, {"triggerscope": "{}"})
    return model


def test_only_what_the_logits_need_is_kept(model):
    cut = onnx.load_from_string(forward_only(model.SerializeToString()))
    onnx.checker.check_model(cut, full_check=True)
    assert [node.name for node in cut.graph.node] == ["add"]
    assert [tensor.name for tensor in cut.graph.initializer] == ["offset"]
    assert [value.name for value in cut.graph.input] == ["radiograph"]
    assert [value.name for value in cut.graph.output] == ["logits"]


def test_everything_outside_the_graph_is_kept(model):
    cut = onnx.load_from_string(forward_only(model.SerializeToString()))
    assert (cut.ir_version, cut.opset_import, cut.metadata_props) == (
        model.ir_version,
        model.opset_import,
        model.metadata_props,
    )


def test_a_message_cut_anywhere_is_refused_or_lacks_whole_fields(model):
    data = model.SerializeToString()
    refused = 0
    for end in range(len(data)):
        try:
            onnx.load_from_string(forward_only(data[:end]))
        except ClassifierError:
            refused += 1
    assert refused >= 0.9 * len(data)


def test_an_endless_number_is_refused():
    with pytest.raises(ClassifierError):
        forward_only(b"\xff" * 20)


def test_weights_in_other_files_are_refused(model):
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    with pytest.raises(ClassifierError, match="weights in other files"):
        require_self_contained(model.SerializeToString())


def test_weights_in_other_files_are_refused_in_a_constant_too(model):
    value = helper.make_tensor("value", TensorProto.FLOAT, [1], [1.0])
    value.data_location = TensorProto.EXTERNAL
    model.graph.node.append(helper.make_node("Constant", [], ["more"], value=value))
    with pytest.raises(ClassifierError, match="weights in other files"):
        require_self_contained(model.SerializeToString())


def test_a_loop_is_refused_by_its_name(model):
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["count"], ["out"], body=body))
    with pytest.raises(ClassifierError, match=r"control flow \(Loop"):
        require_self_contained(model.SerializeToString())


def test_operators_of_another_domain_and_functions_are_refused(model):
    plain = model.SerializeToString()
    require_self_contained(plain)
    model.graph.node.append(helper.make_node("Anything", ["logits"], ["out"], domain="somebody"))
    with pytest.raises(ClassifierError, match="not of the ONNX standard"):
        require_self_contained(model.SerializeToString())
    model.ParseFromString(plain)
    model.functions.add(name="f", domain="local")
    with pytest.raises(ClassifierError, match="functions of its own"):
        require_self_contained(model.SerializeToString())
