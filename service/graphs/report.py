"""An examination's report in words, for pages, the command line and the API."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

LONGEST_NAME = 100  # of a tensor, which is a stranger's word
HEADS = {
    "sigmoid": "sigmoid: each label stands for itself",
    "softmax": "softmax: the labels exclude each other, and the logits that are explained are log-odds",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """topic: what was looked at, in a word or two."""

    topic: str
    words: str

    def __str__(self) -> str:
        return f"{self.topic}: {self.words}"


def findings(report: Mapping[str, Any]) -> list[Finding]:
    """What an examination found, most telling first; nothing of an empty report."""
    return [Finding(topic, words) for topic, words in _found(report)] if report else []


def _found(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    graph, cost = report["graph"], report["cost"]
    if report.get("changes"):
        yield "Against the version in force", _changes(report["changes"])
    for layer in graph["explained"]:
        yield f"Explained, {layer['cells']} x {layer['cells']} cells", _explained(layer)
    for layer in graph["explained"]:
        cells = str(layer["cells"])
        yield f"Gradients, {cells} x {cells}", _slopes(report["slopes"][cells])
        yield f"Places, {cells} x {cells}", _places(report["places"][cells])
    yield "Agreement", _agreement(report)
    yield "Head", HEADS[graph["head"]] + (f"; {graph['ended_in']} taken off" if graph["ended_in"] else "")
    yield "Operators", ", ".join(f"{count} {kind}" for kind, count in graph["operators"].items())
    yield "Size", f"{graph['parameters']:,} numbers, {graph['multiply_adds'] / 1e9:.2f} billion multiply-adds a film"
    yield (
        "Cost",
        f"{cost['explain_ms']:.0f} ms a film with maps, {cost['forward_ms']:.0f} ms without, on one core of the "
        f"examination; {cost['peak_memory_mb']} MB",
    )
    yield "Run on", ", ".join(report["providers"])
    yield (
        "Examined by",
        f"examiner {report['examiner']}, derivation {report['derivation']}, onnx {report['onnx']}, "
        f"ONNX Runtime {report['onnxruntime']}",
    )
    if missing := report.get("box", {}).get("missing"):
        yield "Not taken from the box", "; ".join(missing)


def _explained(layer: Mapping[str, Any]) -> str:
    step, view = layer["step_px"][0], layer["field_of_view_px"][0]
    tensor = "".join(letter for letter in layer["tensor"][:LONGEST_NAME] if letter.isprintable())
    return f"{layer['operator']} {tensor}, a cell every {step:g} px, each sees {view:g} px of the input"


def _slopes(slopes: Mapping[str, Any]) -> str:
    return f"within {slopes['error']:.1e} of central differences; {slopes['kinks']:.0%} of the directions cross a kink"


def _places(places: Mapping[str, Any]) -> str:
    return (
        f"{places['near']:.0%} of {places['windows']} disturbed windows are answered most where they are; "
        f"{places['elsewhere']:.1%} of the channels answer elsewhere"
    )


def _agreement(report: Mapping[str, Any]) -> str:
    parts = [f"maps {_apart(report['map_error'])} those computed beside the graph"]
    if report.get("mean_error") is not None:
        parts.append(f"means of class activation maps {_apart(report['mean_error'])} the logits")
    parts.append(f"logits with maps {_apart(report['session_error'])} those without")
    parts.append(f"in a batch of {report['cost']['batch']} {_apart(report['batch_error'])} those alone")
    return "; ".join(parts)


def _apart(error: float) -> str:
    return f"within {error:.0e} of" if error else "equal to"


def _changes(changes: Mapping[str, Any]) -> str:
    named = [
        f"{name} {_value(changes[name][0])}, now {_value(changes[name][1])}"
        for name in ("labels", "preprocessing", "head")
        if name in changes
    ]
    change = changes.get("largest_probability_change")
    if change is not None:
        named.append(f"probabilities on the examination's films differ by {change:.4f} at most")
    elif not named:
        named.append("the same labels, preprocessing and head; the answers could not be compared")
    return f"{changes['against'][:12]}: " + "; ".join(named)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
