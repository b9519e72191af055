"""Classifiers as they are handed in, and an installation of before files were examined: its rows, and files that ran
with maps of their own."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from service.audit.calibration import Policy, read_policy
from service.records.session import Database, utc_now
from service.records.tables import ActivationRow, ClassifierRow, PolicyRow
from service.registry.registry import DEFAULT_SLOT, classifier_slot, policy_slot
from tests.service.graphs import rogues
from tests.tiny import CLASSIFIER, POLICY

EXPLAINED = "cat_2"  # of the tiny network


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def tiny() -> onnx.ModelProto:
    return onnx.load(CLASSIFIER)


def plain() -> bytes:
    """The tiny network as a vendor hands it in: its logits and nothing else."""
    model = tiny()
    del model.metadata_props[:]
    kept = [output for output in model.graph.output if output.name == "logits"]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    return bytes(model.SerializeToString())


def written_by_another() -> bytes:
    """The tiny classifier as another exporter might have written it: the same network and maps, other bytes."""
    model = tiny()
    model.producer_name = "another exporter"
    return bytes(model.SerializeToString())


def with_anothers_logits() -> bytes:
    """All maps of the tiny classifier, and the logits of another network."""
    return rogues.with_anothers_logits(CLASSIFIER, other_network())


def other_network() -> bytes:
    """The tiny classifier with another first layer."""
    model = tiny()
    first = next(tensor for tensor in model.graph.initializer if "conv0.weight" in tensor.name)
    values = numpy_helper.to_array(first)
    first.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values[::-1, :, ::-1]), first.name))
    return bytes(model.SerializeToString())


def with_a_transposed_layer() -> bytes:
    """Rows and columns change places at the explained tensor, and again behind it."""
    model = tiny()
    place = next(i for i, node in enumerate(model.graph.node) if EXPLAINED in node.output)
    model.graph.node[place].output[0] = "upright"
    turned = helper.make_node("Transpose", ["upright"], [EXPLAINED], perm=[0, 1, 3, 2])
    back = helper.make_node("Transpose", [EXPLAINED], ["back"], perm=[0, 1, 3, 2])
    for node in model.graph.node[place + 1 :]:
        node.input[:] = ["back" if name == EXPLAINED else name for name in node.input]
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[: place + 1], turned, back, *nodes[place + 1 :]])
    return bytes(model.SerializeToString())


def install(database: Database, store: Path, data: bytes, *, name: str = "tiny", is_default: bool = True) -> Policy:
    """Register a file as it was done then, under its own hash, with a policy made for it, both in force."""
    found, now = sha256(data), utc_now()
    policy_data = POLICY.read_bytes().replace(sha256(CLASSIFIER.read_bytes()).encode(), found.encode())
    policy = read_policy(policy_data)
    store.mkdir(parents=True, exist_ok=True)
    (store / f"{found}.onnx").write_bytes(data)
    (store / f"{policy.sha256}.policy.json").write_bytes(policy_data)
    said = {item.key: item.value for item in onnx.load_from_string(data).metadata_props}["triggerscope"]
    card = json.loads(said) | {"name": name, "sha256": found}
    names = ("sha256", "name", "classifier_sha256", "preprocessing_sha256", "source", "false_positive_rate")
    values = {field: getattr(policy, field) for field in names}
    slots = {classifier_slot(name): found, policy_slot(found): policy.sha256}
    with database.write() as unit:
        unit.session.add(ClassifierRow(sha256=found, name=name, card=card, added_at=now, actor="system"))
        unit.session.flush()
        unit.session.add(PolicyRow(**values, created_at=str(policy.created_at), added_at=now, actor="system"))
        for slot, target in (slots | ({DEFAULT_SLOT: name} if is_default else {})).items():
            unit.session.add(ActivationRow(slot=slot, target=target, previous_id=None, at=now, actor="system"))
    return policy
