"""The auditable classifier: one ONNX file that the service derived, and its Prediction and Saliency."""

import ctypes
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as onnxruntime_errors

from service.arrays import FloatArray
from service.audit.forward_graph import forward_only, require_self_contained
from service.audit.preprocessing import Preprocessing
from service.errors import ClassifierError

METADATA_KEY = "triggerscope"  # one metadata_props entry of the ONNX model; its value is JSON
FORMAT = 2  # of that JSON and of the graph's inputs and outputs; 1 were files with maps of their own
PIXEL_CONVENTION = "float32 in [0, 1], 0 = air-black"
_BELOW_ALL = np.float32(-1e6)  # as its centre it makes a label the one furthest above
CPU = "CPUExecutionProvider"
MAP_KINDS = ("layercam", "counter_layercam", "gradcam")

T = TypeVar("T")

_LOAD_ERRORS = tuple(
    getattr(onnxruntime_errors, name)
    for name in (
        "EPFail", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoModel", "NotFound",
        "NotImplemented", "RuntimeException",
    )
)  # fmt: skip
_LOG_ERRORS_ONLY = 3


def sigmoid(logits: FloatArray | float) -> FloatArray:
    """Logits of any shape -> probabilities, each label's by itself, as the heads of this project mean them."""
    return np.asarray(1.0 / (1.0 + np.exp(-logits)), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class ClassifierCard:
    """What a derived file says about itself, plus hashes.

    identity: of the canonical forward graph with labels and preprocessing. sha256: what it is registered under, the
    identity but for those that were registered before there was one. file_sha256: of the file that was handed in;
    derived_sha256: of what is run. head: whether labels stand for themselves or exclude each
    other; the logits of the latter are log-odds, so that their sigmoid is the probability either way.
    grids: side of each gradient map in cells, finest first, e.g. (28, 14).
    provenance: hashes of the run file and the data manifest, and the version of the code that made the file.
    """

    name: str
    sha256: str
    identity: str
    file_sha256: str
    derived_sha256: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    head: str
    explained_count: int
    grids: tuple[int, ...]
    pixel_convention: str
    licence: str
    provenance: dict[str, str]

    @property
    def known_as(self) -> tuple[str, str, str]:
        """The hashes that a policy may name this classifier by."""
        return self.sha256, self.identity, self.file_sha256


@dataclass(frozen=True, slots=True)
class Prediction:
    """logits: (C,) float32; probabilities: (C,) sigmoid of them."""

    labels: tuple[str, ...]
    logits: NDArray[np.float32]

    @property
    def probabilities(self) -> NDArray[np.float32]:
        return sigmoid(self.logits)


@dataclass(frozen=True, slots=True)
class Saliency:
    """Raw maps at their native grids; never scaled here.

    explained_labels: (k,) indices into the labels, by excess over the calibration centre, largest first.
    class_activation_maps: (C, h, w) float32; the mean of map c plus its bias is logit c.
    maps: name -> (k, g, g) float32, e.g. `layercam_28`, `gradcam_14`, and `counter_layercam_28` for the evidence
    against the label (the negative part of the gradient).
    """

    explained_labels: NDArray[np.int64]
    class_activation_maps: NDArray[np.float32]
    maps: dict[str, NDArray[np.float32]]


class Classifier:
    """A loaded ONNX file; one instance may be used from many threads at once.

    Holds two ONNX Runtime sessions of the same weights: the whole graph, and the graph cut down to the logits,
    because a session executes all of its graph whatever is asked of it.
    """

    def __init__(
        self, card: ClassifierCard, explaining: onnxruntime.InferenceSession, forward: onnxruntime.InferenceSession
    ) -> None:
        self.card = card
        self._explaining = explaining
        self._forward = forward

    @classmethod
    def from_derived(
        cls, data: bytes, file_sha256: str, *, threads: int = 1, providers: Sequence[str] | None = None
    ) -> Self:
        """Load what service.graphs derived of the file of that hash, and nothing else: its maps are believed.

        threads: of one run; concurrency comes from calling from several threads. providers: ONNX Runtime's execution
        providers in order of preference; by default CUDA where a device is really there, else the CPU.
        Raises ClassifierError.
        """
        require_self_contained(data)
        chosen = list(providers) if providers is not None else available_providers()
        forward = _session(forward_only(data), threads, chosen)
        card = _card(data, file_sha256, forward)
        explaining = _session(data, threads, chosen)
        _check_graph(card, explaining)
        return cls(card, explaining, forward)

    @property
    def providers(self) -> tuple[str, ...]:
        """The execution providers in use."""
        return tuple(self._explaining.get_providers())

    def explain(self, batch: FloatArray, centre: FloatArray, scale: FloatArray) -> list[tuple[Prediction, Saliency]]:
        """Predict and explain films; the explained labels have the largest (logit - centre) / scale.

        batch: (N, 1, S, S) float32 in [0, 1]. centre, scale: (C,) float32, scale > 0; 0 and 1 without a policy.
        """
        names = _output_names(self.card)
        feed = {"radiograph": batch, "label_centre": centre, "label_scale": scale}
        outputs = dict(zip(names, self._explaining.run(names, feed), strict=True))
        return [self._film(outputs, film) for film in range(len(batch))]

    def explain_label(self, film: FloatArray, label: int) -> tuple[Prediction, Saliency]:
        """Predict one film, (1, S, S), and explain the label of that index, whatever its logit."""
        centre = np.zeros(len(self.card.labels), dtype=np.float32)
        centre[label] = _BELOW_ALL
        [found] = self.explain(film[None], centre, np.ones_like(centre))
        return found

    def logits(self, batch: FloatArray) -> FloatArray:
        """(N, 1, S, S) float32 in [0, 1] -> (N, C) float32, without the cost of explaining."""
        return np.asarray(self._forward.run(["logits"], {"radiograph": batch})[0], dtype=np.float32)

    def _film(self, outputs: Mapping[str, NDArray[Any]], film: int) -> tuple[Prediction, Saliency]:
        maps = {name: outputs[name][film] for name in _map_shapes(self.card)}
        saliency = Saliency(outputs["explained_labels"][film], outputs["class_activation_maps"][film], maps)
        return Prediction(self.card.labels, outputs["logits"][film]), saliency


def available_providers() -> list[str]:
    """CUDA and the CPU where the driver reports a device, else the CPU.

    ONNX Runtime's own list names CUDA on machines without one.
    """
    built_in = onnxruntime.get_available_providers()
    if "CUDAExecutionProvider" in built_in and _cuda_device_count() > 0:
        return ["CUDAExecutionProvider", CPU]
    return [CPU]


def _cuda_device_count() -> int:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def _session(data: bytes, threads: int, providers: Sequence[str]) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _LOG_ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(data, options, providers=list(providers))
    except _LOAD_ERRORS:
        raise ClassifierError("ONNX Runtime cannot load the classifier's file.") from None


def _card(data: bytes, file_sha256: str, session: onnxruntime.InferenceSession) -> ClassifierCard:
    """Read and check what the file says about itself."""
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if text is None:
        raise ClassifierError("The ONNX file does not describe itself as an auditable classifier.")
    try:
        return parse_card(json.loads(text), file_sha256, hashlib.sha256(data).hexdigest())
    except (KeyError, TypeError, ValueError):
        raise ClassifierError("The classifier's description of itself is incomplete or invalid.") from None


def parse_card(described: Mapping[str, Any], file_sha256: str, derived_sha256: str) -> ClassifierCard:
    """Read the metadata of a derived file; raises KeyError, TypeError or ValueError."""
    if described["format"] != FORMAT or described["pixel_convention"] != PIXEL_CONVENTION:
        raise ValueError("another format or pixel convention")
    card = ClassifierCard(
        name=_word(described["name"]),
        sha256=_word(described["identity"]),
        identity=_word(described["identity"]),
        file_sha256=file_sha256,
        derived_sha256=derived_sha256,
        head=_word(described["head"]),
        labels=tuple(_word(label) for label in _typed(list, described["labels"])),
        preprocessing=Preprocessing(**described["preprocessing"]),
        explained_count=_typed(int, described["explained_count"]),
        grids=tuple(_typed(int, grid) for grid in described["grids"]),
        pixel_convention=described["pixel_convention"],
        licence=_word(described["licence"]),
        provenance={_word(key): _word(value) for key, value in _typed(dict, described["provenance"]).items()},
    )
    _check_counts(card)
    return card


def _typed(kind: type[T], value: object) -> T:
    if not isinstance(value, kind):
        raise TypeError(f"expected {kind.__name__}")
    return value


def _word(value: object) -> str:
    if not _typed(str, value):
        raise ValueError("expected a text that is not empty")
    return str(value)


def _check_counts(card: ClassifierCard) -> None:
    if not card.labels or len(set(card.labels)) != len(card.labels):
        raise ValueError("labels are missing or repeated")
    if not 1 <= card.explained_count <= len(card.labels):
        raise ValueError("the number of explained labels is outside 1..C")
    if len(card.grids) < 2 or list(card.grids) != sorted(set(card.grids), reverse=True) or card.grids[-1] < 1:
        raise ValueError("the evidence reads two grids, listed finest first")


def _map_shapes(card: ClassifierCard) -> dict[str, list[int]]:
    """The gradient maps of one film and their shapes (k, g, g)."""
    return {f"{kind}_{grid}": [card.explained_count, grid, grid] for kind in MAP_KINDS for grid in card.grids}


def _output_names(card: ClassifierCard) -> list[str]:
    return ["logits", "class_activation_maps", "explained_labels", *_map_shapes(card)]


def _check_graph(card: ClassifierCard, session: onnxruntime.InferenceSession) -> None:
    """The graph has the inputs and outputs that the metadata promise."""
    size, count = card.preprocessing.size, len(card.labels)
    inputs = {"radiograph": [1, size, size], "label_centre": [], "label_scale": []}
    outputs = {"logits": [count], "explained_labels": [card.explained_count], **_map_shapes(card)}
    found = {tensor.name: tensor.shape[1:] for tensor in session.get_outputs()}
    activation = found.pop("class_activation_maps", [])
    if {tensor.name: tensor.shape[1:] for tensor in session.get_inputs()} != inputs or found != outputs:
        raise ClassifierError("The classifier's inputs or outputs are not those that its metadata promise.")
    if len(activation) != 3 or activation[0] != count:
        raise ClassifierError("The classifier gives no class activation map for each of its labels.")
