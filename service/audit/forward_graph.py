"""What happens to a classifier's file before ONNX Runtime sees it: refused unless its hash is all of it, and cut.

ONNX Runtime executes a session's whole graph whatever is fetched, so causal tests use a second session made from the
same bytes without the explanation. Few fields of the protobuf are read, so no `onnx` package is needed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from service.errors import ClassifierError

EXPLANATION_PREFIX = "explain/"  # of the names of all nodes and constants that logits do not need

# Field numbers of onnx.proto.
_MODEL_GRAPH, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 20, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_SPARSE = 1, 5, 11, 12, 15
_NODE_NAME, _TENSOR_NAME, _VALUE_NAME = 3, 8, 1
_NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_ATTRIBUTE_SPARSE = (22, 23)
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14
STANDARD_DOMAINS = ("", "ai.onnx")

_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5  # protobuf's wire types


@dataclass(frozen=True, slots=True)
class _Field:
    number: int
    payload: memoryview  # empty unless length-delimited
    encoded: memoryview  # with its tag


def forward_only(model: bytes) -> bytes:
    """The same classifier with `radiograph` as its only input and `logits` as its only output.

    Raises ClassifierError where the bytes are no protobuf message.
    """
    parts: list[bytes | memoryview] = []
    for field in _fields(memoryview(model)):
        if field.number == _MODEL_GRAPH:
            graph = b"".join(_forward_fields(field.payload))
            parts += [_varint(_MODEL_GRAPH << 3 | _LENGTH_DELIMITED), _varint(len(graph)), graph]
        else:
            parts.append(field.encoded)
    return b"".join(parts)


def require_self_contained(model: bytes) -> None:
    """Raises ClassifierError for a file whose bytes are not all that it runs, or that need not come to an end.

    Weights in other files would change what a registered hash does; a Loop can keep a worker for ever; functions and
    operators of other domains are what no audit has looked at.
    """
    for field in _fields(memoryview(model)):
        if field.number in (_MODEL_FUNCTIONS, _MODEL_TRAINING):
            raise ClassifierError("The file holds functions of its own, or a training graph; a plain graph is needed.")
        if field.number == _MODEL_GRAPH:
            _require_plain(field.payload)


def _require_plain(graph: memoryview) -> None:
    for field in _fields(graph):
        if field.number == _GRAPH_NODE:
            _require_plain_node(field.payload)
        elif field.number == _GRAPH_INITIALIZER:
            _require_inside(field.payload)
        elif field.number == _GRAPH_SPARSE:
            raise ClassifierError("The file holds sparse weights, which are not read.")


def _require_plain_node(node: memoryview) -> None:
    operator, domain = _text(node, _NODE_OPERATOR), _text(node, _NODE_DOMAIN)
    if domain not in STANDARD_DOMAINS:
        raise ClassifierError("The file uses operators that are not of the ONNX standard.")
    for attribute in (field.payload for field in _fields(node) if field.number == _NODE_ATTRIBUTE):
        for field in _fields(attribute):
            if field.number in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
                known = operator if operator in ("If", "Loop", "Scan", "SequenceMap") else "an operator"
                raise ClassifierError(f"The file holds control flow ({known} with a graph of its own).")
            if field.number in _ATTRIBUTE_SPARSE:
                raise ClassifierError("The file holds sparse weights, which are not read.")
            if field.number in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
                _require_inside(field.payload)


def _require_inside(tensor: memoryview) -> None:
    for field in _fields(tensor):
        is_elsewhere = field.number == _TENSOR_LOCATION and field.encoded[-1] != 0
        if field.number == _TENSOR_EXTERNAL or is_elsewhere:
            raise ClassifierError("The file keeps weights in other files, which its hash does not hold.")


def _forward_fields(graph: memoryview) -> Iterator[memoryview]:
    kept = {_GRAPH_INPUT: "radiograph", _GRAPH_OUTPUT: "logits"}
    name_fields = {_GRAPH_NODE: _NODE_NAME, _GRAPH_INITIALIZER: _TENSOR_NAME}
    for field in _fields(graph):
        if field.number in kept:
            wanted = _text(field.payload, _VALUE_NAME) == kept[field.number]
        elif field.number in name_fields:
            wanted = not _text(field.payload, name_fields[field.number]).startswith(EXPLANATION_PREFIX)
        else:
            wanted = True
        if wanted:
            yield field.encoded


def _text(message: memoryview, number: int) -> str:
    return next(
        (bytes(field.payload).decode("utf-8", "replace") for field in _fields(message) if field.number == number), ""
    )


def _fields(message: memoryview) -> Iterator[_Field]:
    at = 0
    while at < len(message):
        start = at
        tag, at = _read_varint(message, at)
        size, at = _payload_size(message, at, tag & 7)
        if at + size > len(message):
            raise ClassifierError("The file is no ONNX model, or it is cut short.")
        payload = message[at : at + size] if tag & 7 == _LENGTH_DELIMITED else message[:0]
        at += size
        yield _Field(tag >> 3, payload, message[start:at])


def _payload_size(message: memoryview, at: int, wire_type: int) -> tuple[int, int]:
    """The number of bytes that follow a field's tag and length, and where they start."""
    if wire_type == _VARINT:
        _, end = _read_varint(message, at)
        return end - at, at
    if wire_type == _LENGTH_DELIMITED:
        return _read_varint(message, at)
    if wire_type in (_FIXED32, _FIXED64):
        return (4 if wire_type == _FIXED32 else 8), at
    raise ClassifierError("The file is no ONNX model.")


def _read_varint(message: memoryview, at: int) -> tuple[int, int]:
    """A protobuf variable-length integer and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ClassifierError("The file is no ONNX model, or it is cut short.")


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
