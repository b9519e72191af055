"""What is measured on a derived classifier before it is trusted with a film; runs in the box.

No torch: the gradients are compared with central differences of the tail, the part of the network behind an explained
tensor, fed there.
"""

import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime import InferenceSession

from service.arrays import FloatArray
from service.audit.forward_graph import forward_only
from service.graphs.derivation import ACTIVATION_PREFIX, GRADIENT_PREFIX, derive, map_names
from service.graphs.description import Description
from service.graphs.network import INPUT, Network, Refused, as_model
from service.graphs.places import Explained
from service.graphs.protocol import DERIVATION, EXAMINER

DIRECTIONS = 32
STRONGEST_CELLS = 8
STEPS = (3e-2, 3e-3, 3e-4)  # of the activations' root mean square
LARGEST_SLOPE_ERROR = 1e-2  # median, at the best step
KINK = 0.1  # of a slope, between the differences to both sides
LARGEST_MAP_ERROR = 1e-3  # of a map's sum, between the graph and numpy
LARGEST_LOGIT_ERROR = 1e-3  # of 1 + the largest logit, between sessions, batches and means of maps
FILMS = 4
WINDOWS = 12  # a film
WINDOW_SHARE = 16 / 224  # side of a disturbed window, as a share of the input's
NEAR_CELLS = 1.0  # beyond the window, where the cell that changes most may lie
LEAST_NEAR = 0.85  # of the windows; honest networks show 0.97 and more
LEAST_NEAR_CHANNEL = 0.25  # of the windows that a channel answers to: below it, the channel looks elsewhere
MOST_ELSEWHERE = 0.02  # of the channels; honest networks show 0.006 at most
SEED = 0


@dataclass(frozen=True, slots=True)
class Slopes:
    """Gradients of one explained tensor against central differences. error: median relative error at the best step.
    step: of the activations' root mean square. kinks: share of the directions that cross one at that step."""

    error: float
    step: float
    kinks: float


@dataclass(frozen=True, slots=True)
class Placed:
    """Where an explained tensor answers to a disturbed window. near: share of windows whose cell that changes most,
    weighed by gradients, lies there. elsewhere: share of its channels that answer in other places."""

    near: float
    elsewhere: float
    windows: int


def pictures(size: int, count: int) -> FloatArray:
    """Film-like pictures, (count, 1, S, S) in [0, 1]: two dark lungs on grey, ribs and noise. For examinations only."""
    rng = np.random.default_rng(SEED)
    y, x = np.mgrid[0:size, 0:size] / size
    films = []
    for _ in range(count):
        film = 0.35 + 0.35 * np.exp(-(((x - 0.5) / 0.12) ** 2)) + 0.15 * y
        for side in (0.3, 0.7):
            cx, cy = side + rng.normal(0, 0.02), 0.45 + rng.normal(0, 0.03)
            film -= 0.35 * np.exp(-((((x - cx) / 0.13) ** 2 + ((y - cy) / 0.26) ** 2) ** 2))
        film += 0.05 * np.sin(2 * np.pi * (9 * y + 2 * (x - 0.5) ** 2 + rng.uniform()))
        for _ in range(4):
            cx, cy, r = rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.8), rng.uniform(0.03, 0.1)
            film += rng.uniform(-0.1, 0.2) * np.exp(-(((x - cx) ** 2 + (y - cy) ** 2) / r**2))
        films.append(np.clip(film + rng.normal(0, 0.02, film.shape), 0, 1))
    return np.asarray(np.stack(films)[:, None], dtype=np.float32)


def examine(
    network: Network,
    explained: Sequence[Explained],
    description: Description,
    derived: bytes,
    films: FloatArray,
    batch: int,
) -> dict[str, Any]:
    """Measure a derived classifier on films (n, 1, S, S); returns the report. Raises Refused with what does not hold.

    batch: films at once, the most that the service will use.
    """
    session = _session(derive(network, explained, description, gradients=True))
    shown = [_explained(session, description, film) for film in films[:FILMS]]
    logits = np.concatenate([outputs["logits"] for outputs in shown])
    if not np.isfinite(logits).all():
        raise Refused("The logits are no finite numbers on the examination's films.")
    maps = max(_map_error(outputs, explained, description.explained_count) for outputs in shown)
    if not maps <= LARGEST_MAP_ERROR:
        raise Refused(f"The maps differ from their gradients and activations by {maps:.0e} of their sum.")
    means = _mean_error(network, shown, logits)
    slopes = {str(item.side): _slopes(network, item, shown[0]) for item in explained}
    placed = {str(item.side): value for item, value in _placed(network, explained, films[:FILMS], shown).items()}
    report = {
        "examiner": EXAMINER,
        "derivation": DERIVATION,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "graph": _graph(network, explained),
        "slopes": {side: asdict(value) for side, value in slopes.items()},
        "places": {side: asdict(value) for side, value in placed.items()},
        "map_error": maps,
        "mean_error": means,
        **_trial(derived, description, films, logits, batch),
        "answers": [[round(float(value), 5) for value in row] for row in logits],
    }
    _require(slopes, placed, explained)
    return report


def _graph(network: Network, explained: Sequence[Explained]) -> dict[str, Any]:
    kinds = [operation.kind for operation in network.operations]
    return {
        "operators": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
        "parameters": sum(values.size for operation in network.operations for values in operation.constants),
        "multiply_adds": network.multiply_adds(),
        "head": network.head,
        "ended_in": network.ended_in,
        "explained": [
            {
                "tensor": item.operation.origin,
                "operator": item.operation.kind,
                "cells": item.side,
                "step_px": [axis.step for axis in item.places],
                "first_centre_px": [axis.start for axis in item.places],
                "field_of_view_px": [axis.extent for axis in item.places],
            }
            for item in explained
        ],
    }


def _require(slopes: Mapping[str, Slopes], placed: Mapping[str, Placed], explained: Sequence[Explained]) -> None:
    for item in explained:
        side, name = str(item.side), item.operation.label
        if not slopes[side].error <= LARGEST_SLOPE_ERROR:
            raise Refused(f"The gradients at {name} differ from central differences by {slopes[side].error:.1%}.")
        if not placed[side].near >= LEAST_NEAR:
            raise Refused(
                f"The maps of {name} have no places: of {placed[side].windows} disturbed windows of pictures, "
                f"{placed[side].near:.0%} change most where they are (at least {LEAST_NEAR:.0%} are needed)."
            )
        if not placed[side].elsewhere <= MOST_ELSEWHERE:
            raise Refused(
                f"{placed[side].elsewhere:.0%} of the channels of {name} answer elsewhere than where a film is "
                f"disturbed (at most {MOST_ELSEWHERE:.0%} may)."
            )


def _session(data: bytes) -> InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _feed(description: Description, batch: FloatArray) -> dict[str, FloatArray]:
    count = len(description.labels)
    return {INPUT: batch, "label_centre": np.zeros(count, np.float32), "label_scale": np.ones(count, np.float32)}


def _explained(session: InferenceSession, description: Description, film: FloatArray) -> dict[str, NDArray[Any]]:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, _feed(description, film[None])), strict=True))


def map_difference(earlier: bytes, derived: bytes, films: FloatArray) -> float:
    """The largest difference between the maps, and the logits, of two auditable files on films, of the sum of those of
    the first. Raises Refused where they do not put out the same things."""
    before, now = _session(earlier), _session(derived)
    names = [output.name for output in now.get_outputs()]
    if sorted(names) != sorted(output.name for output in before.get_outputs()):
        raise Refused("The file put out other maps before than are derived now.")
    count = now.get_inputs()[1].shape[0]
    given = {"label_centre": np.zeros(count, np.float32), "label_scale": np.ones(count, np.float32)}
    worst = 0.0
    for film in films:
        outputs = [session.run(names, {INPUT: film[None], **given}) for session in (before, now)]
        for one, other in zip(*outputs, strict=True):
            if one.shape != other.shape:
                raise Refused("The file put out maps of other sizes before than are derived now.")
            off = np.abs(one.astype(np.float64) - other).sum()
            worst = max(worst, float(off / (np.abs(one).astype(np.float64).sum() + 1e-6 * one.size)))
    return worst


# --- Maps and means --------------------------------------------------------------------------------------------------


def _map_error(outputs: Mapping[str, NDArray[Any]], explained: Sequence[Explained], count: int) -> float:
    """The largest difference between the graph's maps and those made here of its gradients and activations."""
    worst = 0.0
    for item in explained:
        gradient = outputs[f"{GRADIENT_PREFIX}{item.side}"].astype(np.float64)  # (k, C, g, g)
        activation = outputs[f"{ACTIVATION_PREFIX}{item.side}"].astype(np.float64)  # (1, C, g, g)
        weights = (np.maximum(gradient, 0), np.maximum(-gradient, 0), gradient.mean((2, 3), keepdims=True))
        for name, weight in zip(map_names(item.side), weights, strict=True):
            want = np.maximum((weight * activation).sum(1), 0)
            off = np.abs(outputs[name].reshape(count, item.side, item.side) - want).sum()
            worst = max(worst, float(off / (want.sum() + 1e-6 * np.abs(weight * activation).sum() + 1e-12)))
    return worst


def _mean_error(network: Network, shown: Sequence[Mapping[str, NDArray[Any]]], logits: FloatArray) -> float | None:
    """Where labels stand for themselves behind a mean and one linear layer, each map's mean differs from its logit by
    the same number on all films; how far it does not. None for other heads."""
    last = network.operations[-1]
    linear = last.kind == "Gemm" and network.makers()[last.inputs[0]].kind == "Flatten"
    pooled = linear and network.makers()[network.makers()[last.inputs[0]].inputs[0]].kind == "GlobalAveragePool"
    if not pooled or network.head != "sigmoid":
        return None
    means = np.concatenate([outputs["class_activation_maps"].mean((2, 3)) for outputs in shown])
    biases = logits - means
    error = float(np.abs(biases - biases[0]).max() / (1 + np.abs(logits).max()))
    if not error <= LARGEST_LOGIT_ERROR:
        raise Refused(f"The class activation maps do not add up to the logits (off by {error:.0e}).")
    return error


# --- Gradients against central differences ---------------------------------------------------------------------------


def _slopes(network: Network, item: Explained, outputs: Mapping[str, NDArray[Any]]) -> Slopes:
    tail = _session(as_model(network, item.operation.output).SerializeToString())
    activation = outputs[f"{ACTIVATION_PREFIX}{item.side}"].astype(np.float32)  # (1, C, g, g)
    gradient = outputs[f"{GRADIENT_PREFIX}{item.side}"][0].astype(np.float64)  # of the first explained label
    label = int(outputs["explained_labels"][0, 0])
    directions = _directions(activation[0], gradient)
    size = float(np.sqrt((activation**2).mean())) + 1e-12
    predicted = np.array([(gradient * direction).sum() for direction in directions])
    typical = float(np.median(np.abs(predicted))) + 1e-12
    best = Slopes(float("inf"), 0.0, 0.0)
    [at] = _answers(network, tail, activation, label)
    for step in STEPS:
        h = step * size
        ahead = _answers(network, tail, np.concatenate([activation + h * d for d in directions]), label)
        behind = _answers(network, tail, np.concatenate([activation - h * d for d in directions]), label)
        slope = (ahead - behind) / (2 * h)
        error = float(np.median(np.abs(slope - predicted) / np.maximum(np.abs(predicted), 0.1 * typical)))
        bend = np.abs((ahead - at) - (at - behind)) / h
        kinks = float(np.mean(bend > KINK * np.maximum(np.abs(predicted), 0.1 * typical)))
        if error < best.error:
            best = Slopes(error, step, kinks)
    return best


def _directions(activation: FloatArray, gradient: NDArray[np.float64]) -> list[FloatArray]:
    """Random ones, half of all numbers each, with what each channel usually has; and the strongest cells by themselves.

    Where there is a gradient they go with its sign, so that the slopes add up and float32 can measure them at steps
    that cross few kinks; elsewhere their sign is drawn, so that a slope where the gradient says 0 would show.
    """
    rng = np.random.default_rng(SEED)
    usual = np.sqrt((activation**2).mean((1, 2), keepdims=True)) / (np.sqrt((activation**2).mean()) + 1e-12)
    drawn = []
    for _ in range(DIRECTIONS):
        signs = np.where(gradient == 0, rng.choice((-1.0, 1.0), activation.shape), np.sign(gradient))
        drawn.append(np.asarray(usual * signs * rng.integers(0, 2, activation.shape), np.float32))
    strength = np.abs(gradient * activation).sum(0)
    for place in np.argsort(strength, axis=None)[::-1][:STRONGEST_CELLS]:
        row, column = np.unravel_index(int(place), strength.shape)
        alone = np.zeros_like(activation)
        alone[:, row, column] = activation[:, row, column] / (np.sqrt((activation**2).mean()) + 1e-12)
        drawn.append(alone)
    return drawn


def _answers(network: Network, tail: InferenceSession, activations: FloatArray, label: int) -> NDArray[np.float64]:
    """The logit, or log-odds, of a label for explained tensors (n, C, g, g)."""
    [name] = [item.name for item in tail.get_inputs()]
    pieces = [tail.run(None, {name: activations[at : at + 8]})[0] for at in range(0, len(activations), 8)]
    logits = np.concatenate(pieces).astype(np.float64)
    if network.head == "sigmoid":
        return logits[:, label]
    others = np.delete(logits, label, axis=1)
    largest = others.max(1)
    rest = largest + np.log(np.exp(others - largest[:, None]).sum(1))
    return np.asarray(logits[:, label] - rest)


# --- Places ----------------------------------------------------------------------------------------------------------


def _placed(
    network: Network,
    explained: Sequence[Explained],
    films: FloatArray,
    shown: Sequence[Mapping[str, NDArray[Any]]],
) -> dict[Explained, Placed]:
    rng, size = np.random.default_rng(SEED), network.size
    window = max(2, round(WINDOW_SHARE * size))
    taps = [item.operation.output for item in explained]
    forward = _session(as_model(network, also=taps).SerializeToString())
    answers = {item: _Answers() for item in explained}
    for film, outputs in zip(films, shown, strict=True):
        for _ in range(WINDOWS):
            x, y = (int(value) for value in rng.integers(window, size - 2 * window, 2))
            disturbed = film.copy()
            disturbed[0, y : y + window, x : x + window] = rng.random((window, window), dtype=np.float32)
            others = forward.run(taps, {INPUT: disturbed[None]})
            for item, other in zip(explained, others, strict=True):
                activation = outputs[f"{ACTIVATION_PREFIX}{item.side}"][0]
                gradient = outputs[f"{GRADIENT_PREFIX}{item.side}"][0]
                near = _near(item.side, x, y, window, size)
                answers[item].take(np.abs(other[0] - activation), np.abs(gradient), np.abs(activation), near)
    return {item: found.placed() for item, found in answers.items()}


class _Answers:
    """Where one explained tensor answered to window after window."""

    def __init__(self) -> None:
        self.near: list[bool] = []
        self.answered: NDArray[np.int64] | int = 0
        self.close: NDArray[np.int64] | int = 0

    def take(self, change: FloatArray, gradient: FloatArray, activation: FloatArray, near: NDArray[np.bool_]) -> None:
        """change, gradient, activation: sizes, (C, g, g). near: (g * g,), the cells in or next to the window."""
        weighed = (gradient * change).sum(0)
        self.near.append(bool(near[int(weighed.argmax())]))
        answers = change.max((1, 2)) > 1e-3 * (activation.max((1, 2)) + 1e-12)
        self.answered = self.answered + answers
        self.close = self.close + (answers & near[change.reshape(len(change), -1).argmax(1)])

    def placed(self) -> Placed:
        answered = np.asarray(self.answered)
        share = np.asarray(self.close) / np.maximum(1, answered)
        seen = answered >= len(self.near) // 4
        elsewhere = float(np.mean(share[seen] < LEAST_NEAR_CHANNEL)) if seen.any() else 0.0
        return Placed(float(np.mean(self.near)), elsewhere, len(self.near))


def _near(side: int, x: int, y: int, window: int, size: int) -> NDArray[np.bool_]:
    """(side * side,): whether a cell lies in a window, or next to it."""
    cells, cell_px = np.arange(side * side), size / side
    rows, columns = (cells // side + 0.5) * cell_px, (cells % side + 0.5) * cell_px
    reach = (NEAR_CELLS + 0.5) * cell_px
    inside = (rows >= y - reach) & (rows <= y + window + reach) & (columns >= x - reach)
    return np.asarray(inside & (columns <= x + window + reach))


# --- The trial -------------------------------------------------------------------------------------------------------


def _trial(
    derived: bytes, description: Description, films: FloatArray, logits: FloatArray, batch: int
) -> dict[str, Any]:
    """Both sessions as the service will run them, one film at a time and at the largest batch."""
    explaining, forward = _session(derived), _session(forward_only(derived))
    films = films[:FILMS]
    full = films[np.arange(batch) % len(films)]
    together = explaining.run(["logits"], _feed(description, full))[0]
    alone = np.concatenate([forward.run(["logits"], {INPUT: film[None]})[0] for film in films])
    scale = 1 + float(np.abs(logits).max())
    sessions = float(np.abs(alone - logits).max() / scale)
    batches = float(np.abs(together - logits[np.arange(batch) % len(films)]).max() / scale)
    for error, what in ((sessions, "where it explains than where it does not"), (batches, "in a batch than alone")):
        if not error <= LARGEST_LOGIT_ERROR:
            raise Refused(f"The file gives other logits {what} (off by {error:.0e}).")
    return {
        "session_error": sessions,
        "batch_error": batches,
        "cost": {
            "explain_ms": _milliseconds(lambda film: explaining.run(None, _feed(description, film)), films),
            "forward_ms": _milliseconds(lambda film: forward.run(["logits"], {INPUT: film}), films),
            "batch": batch,
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "derived_bytes": len(derived),
        },
        "providers": explaining.get_providers(),
    }


def _milliseconds(run: Any, films: FloatArray) -> float:
    started = time.perf_counter()
    for film in films:
        run(film[None])
    return round(1000 * (time.perf_counter() - started) / len(films), 2)
