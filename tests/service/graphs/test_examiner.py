"""Through the box: what is derived, under which identity, and what a file that breaks things costs."""

import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.errors import ClassifierError
from service.graphs.description import Description, read_description
from service.graphs.examiner import ExaminationStopped, Examiner, load_classifier, opened
from service.graphs.protocol import ExaminationLimits
from service.graphs.shipped import shipped
from tests.conftest import REPOSITORY
from tests.tiny import CLASSIFIER, LABELS, SIZE

DESCRIBED = read_description(
    {"name": "hostile", "labels": ["a", "b"], "preprocessing": {"size": 64, "resampler": "bilinear"}}
)


def renamed() -> bytes:
    """The tiny file with other names, its maps gone and its nodes in another order: another exporter's."""
    model = onnx.load(CLASSIFIER)
    nodes = [node for node in model.graph.node if not node.name.startswith("explain/")]
    casts = [node for node in nodes if node.op_type == "Cast"]
    names = {name: f"other/{name}" for node in nodes for name in (*node.input, *node.output) if name}
    names["radiograph"] = "image"
    for node in nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names[name] for name in node.output]
        node.name = ""
    rest = [node for node in nodes if node not in casts]
    del model.graph.node[:]
    model.graph.node.extend([*reversed(casts), *rest])
    for tensor in model.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    model.graph.input[0].name = "image"
    del model.graph.input[1:]
    del model.graph.output[1:]
    model.graph.output[0].name = names["logits"]
    return bytes(model.SerializeToString())


def own_description() -> Description:
    return read_description(json.loads(onnx.load(CLASSIFIER).metadata_props[0].value))


def test_deriving_twice_gives_the_same_bytes() -> None:
    data = CLASSIFIER.read_bytes()
    first, second = Examiner().derive(data), Examiner().derive(data)
    assert first.data == second.data
    assert first.identity == second.identity


def test_the_same_graph_from_another_exporter_is_the_same_classifier() -> None:
    here, there = Examiner().derive(CLASSIFIER.read_bytes()), Examiner().derive(renamed(), own_description())
    assert there.identity == here.identity
    assert there.data == here.data
    assert there.file_sha256 != here.file_sha256


@pytest.mark.parametrize("change", [{"labels": [*LABELS[1:], LABELS[0]]}, {"head": "softmax"}])
def test_another_description_is_another_classifier(change: dict[str, object]) -> None:
    said = own_description().as_mapping() | change
    other = Examiner().derive(CLASSIFIER.read_bytes(), read_description(said))
    assert other.identity != Examiner().derive(CLASSIFIER.read_bytes()).identity


def test_name_licence_and_provenance_are_no_part_of_the_identity() -> None:
    said = own_description().as_mapping() | {"name": "other", "licence": "other", "provenance": {"from": "elsewhere"}}
    other = Examiner().derive(CLASSIFIER.read_bytes(), read_description(said))
    assert other.identity == Examiner().derive(CLASSIFIER.read_bytes()).identity


def test_the_list_of_shipped_files_is_true() -> None:
    found = {}
    for path in sorted((REPOSITORY / "models").rglob("*.onnx")):
        derived = Examiner().derive(path.read_bytes())
        found[derived.file_sha256] = (path.stem, derived.identity)
    assert {sha256: (entry["name"], entry["identity"]) for sha256, entry in shipped().items()} == found


def test_an_examination_finds_again_what_the_list_says() -> None:
    report = Examiner().examine(CLASSIFIER.read_bytes()).report
    listed = next(entry["report"] for entry in shipped().values() if entry["name"] == "tiny")
    assert report is not None
    assert report["graph"] == listed["graph"]
    assert report["places"] == listed["places"]
    np.testing.assert_allclose(report["answers"], listed["answers"], atol=1e-3)
    assert all(found["error"] <= 1e-2 for found in report["slopes"].values())
    assert report["box"]["missing"] == []


# --- Files that break things -----------------------------------------------------------------------------------------


def graph_of(nodes: list[onnx.NodeProto], stored: dict[str, np.ndarray]) -> bytes:
    graph = helper.make_graph(
        nodes,
        "hostile",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, SIZE, SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "C"])],
        [numpy_helper.from_array(values, name) for name, values in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def constant_bomb() -> bytes:
    """A few bytes that ask for 80 GB of constants."""
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["bomb"]),
        helper.make_node("ReduceMax", ["bomb"], ["most"], keepdims=0),
        helper.make_node("Add", ["x", "most"], ["y"]),
    ]
    return graph_of(nodes, {"shape": np.array([20_000_000_000], np.int64)})


def endless_convolutions() -> bytes:
    """A few kilobytes that take a minute a film: convolutions of large kernels that are stored once."""
    kernel, last = np.zeros((8, 8, 3, 3), np.float32), np.zeros((2, 8, 1, 1), np.float32)
    nodes = [helper.make_node("Conv", ["x", "first"], ["c0"], pads=[1000, 1000, 1000, 1000])]
    nodes += [helper.make_node("Conv", [f"c{n}", "kernel"], [f"c{n + 1}"], pads=[1, 1, 1, 1]) for n in range(200)]
    nodes += [helper.make_node("Conv", ["c200", "last"], ["c"])]
    nodes += [helper.make_node("GlobalAveragePool", ["c"], ["p"]), helper.make_node("Flatten", ["p"], ["y"])]
    return graph_of(nodes, {"first": np.zeros((8, 1, 3, 3), np.float32), "kernel": kernel, "last": last})


def deep_chain(count: int = 19_000) -> bytes:
    nodes = [helper.make_node("Relu", ["x"], ["r0"])]
    nodes += [helper.make_node("Relu", [f"r{n}"], [f"r{n + 1}"]) for n in range(count)]
    return graph_of([*nodes, helper.make_node("Identity", [f"r{count}"], ["y"])], {})


@pytest.mark.parametrize(
    ("file", "told"),
    [
        (constant_bomb, "memory|constants"),
        (endless_convolutions, "multiply-adds|places|layer"),
        (deep_chain, "no row of logits|layer"),
        (lambda: b"\x08\x0a" + os.urandom(5000), "no ONNX model|valid ONNX"),
    ],
    ids=["constants", "convolutions", "deep", "noise"],
)
def test_a_hostile_file_costs_one_process_and_a_sentence(file: object, told: str) -> None:
    data = file()  # type: ignore[operator]
    limits = ExaminationLimits(memory_bytes=1 << 30, seconds=30.0)
    started = time.monotonic()
    with pytest.raises(ClassifierError, match=told) as refused:
        Examiner(limits).examine(data, DESCRIBED)
    assert time.monotonic() - started < 60
    assert "\n" not in refused.value.detail
    assert load_classifier(CLASSIFIER).card.name == "tiny"


def test_more_bytes_than_allowed_are_not_sent_to_the_box() -> None:
    with pytest.raises(ClassifierError, match="more than 1000 bytes"):
        Examiner(ExaminationLimits(max_bytes=1000)).derive(CLASSIFIER.read_bytes())


def test_an_examination_that_takes_too_long_is_ended() -> None:
    with pytest.raises(ClassifierError, match=r"more memory or time|longer than"):
        Examiner(ExaminationLimits(seconds=0.0)).examine((REPOSITORY / "models" / "nih-clean.onnx").read_bytes())


def test_closing_ends_what_is_being_examined() -> None:
    examiner, told = Examiner(), list[str]()

    def examine() -> None:
        with pytest.raises(ExaminationStopped) as refused:
            examiner.examine((REPOSITORY / "models" / "nih-clean.onnx").read_bytes())
        told.append(refused.value.detail)

    thread = threading.Thread(target=examine)
    thread.start()
    time.sleep(1.0)
    started = time.monotonic()
    examiner.close()
    thread.join(10)
    assert not thread.is_alive()
    assert time.monotonic() - started < 5
    assert len(told) == 1
    with pytest.raises(ExaminationStopped, match="stopping"):
        examiner.derive(CLASSIFIER.read_bytes())


def test_a_classifier_is_loaded_with_what_was_derived(tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(renamed())
    with pytest.raises(ClassifierError, match="labels"):
        load_classifier(path, read_description({"name": "x", "labels": ["a"], "preprocessing": {"size": SIZE}}))
    film = np.random.default_rng(0).random((1, 1, SIZE, SIZE), dtype=np.float32)
    here, there = load_classifier(CLASSIFIER), load_classifier(path, own_description())
    np.testing.assert_array_equal(here.logits(film), there.logits(film))
    assert opened(Examiner().derive(path.read_bytes(), own_description())).card.identity == here.card.identity
