"""Hits, misses and false alarms as pictures: the fine map with the region, and the last layer's map beside it."""

import base64
import io
from collections.abc import Mapping
from typing import Any

from PIL import Image

from service.arrays import FloatArray
from service.audit.calibration import Policy
from service.audit.classifier import Classifier
from service.audit.overlay import render
from service.audit.pipeline import examine
from service.audit.preprocessing import Preprocessing
from training.measure.compare import SHIPPED, Attacked, FilmSet

SHOWN = 3  # of each kind
QUALITY = 88  # of the JPEGs, to keep the page small


def gallery(
    sets: Mapping[str, FilmSet], split: str, attacked: Attacked | None, classifier: Classifier, policy: Policy
) -> dict[str, Any]:
    """The first hits and misses in the seeded order, and the highest false alarms, by the shipped score."""
    kinds = {"false alarms": _alarming(sets[split], policy, wanted=True)}
    if attacked:
        kinds["hits"] = _alarming(sets["triggered"], policy, wanted=True)
        kinds["misses"] = _alarming(sets["triggered"], policy, wanted=False)
    entries = []
    for kind, films in kinds.items():
        name = split if kind == "false alarms" else "triggered"
        for film in films[:SHOWN]:
            worked = bool(attacked.worked[film]) if attacked and name == "triggered" else None
            entries.append(
                {"kind": kind, "attack_worked": worked, **_entry(sets[name].inputs[film], classifier, policy)}
            )
    return {"classifier": classifier.card.name, "classifier_sha256": classifier.card.sha256, "entries": entries}


def _alarming(films: FilmSet, policy: Policy, *, wanted: bool) -> list[int]:
    scores = films.columns[SHIPPED].parts[:, 0]
    return [
        i for i, score in enumerate(scores) if (policy.p_value(float(score)) <= policy.false_positive_rate) == wanted
    ]


def _entry(film: FloatArray, classifier: Classifier, policy: Policy) -> dict[str, Any]:
    found = examine(film, classifier, policy)
    evidence, finding, verdict = found.evidence, found.finding, found.verdict
    kind = "layercam" if finding.hypothesis == "support" else "counter_layercam"
    fine = finding.saliency.maps[f"{kind}_{classifier.card.grids[0]}"][0]
    same = Preprocessing(size=film.shape[-1])  # the pictures are of the model input itself
    last = finding.saliency.class_activation_maps[finding.label]
    return {
        "label": evidence.prediction.labels[finding.label],
        "probability": float(evidence.prediction.probabilities[finding.label]),
        "verdict": verdict.word,
        "p_value": policy.p_value(evidence.score),
        "reasons": list(verdict.reasons),
        "film_jpeg": _small(render(film[0], None, None, same)),
        "fine_map_jpeg": _small(render(film[0], fine, verdict.region or finding.region, same)),
        "last_layer_jpeg": _small(render(film[0], last, None, same)),
    }


def _small(png: bytes) -> str:
    """Base64 of the same picture as a JPEG that keeps thin coloured lines."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.convert("RGB").save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return base64.b64encode(buffer.getvalue()).decode()
