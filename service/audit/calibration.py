"""Clean films -> Policy: the yardstick, the calibration scores and the threshold, bound to one classifier.

Split conformal: the reference films fix the score, the calibration films rank it, and no film does both.
No torch: a hospital calibrates a classifier on its own clean films.
"""

import base64
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.arrays import FloatArray
from service.audit import ranking
from service.audit.classifier import Classifier, ClassifierCard
from service.audit.concentration import isolation
from service.audit.evidence import MEANINGS, SIGNS, Hypothesis, Reference, Usual, fused, gather, scaled_mad, surprise
from service.audit.likeness import STATISTICS, Likeness, image_statistics
from service.errors import PolicyError

FORMAT = 4  # earlier ones ranked other scores
# What policies of earlier formats do not hold; old audits are still shown with them.
EARLIER: dict[int, set[str]] = {1: {"pattern_change", "isolation"}, 2: {"isolation"}, 3: set()}
REFERENCE_MINIMUM = 60
BAND_FILMS = 1000  # the reached false-positive rate is stated for so many future films
SUPPORT_GATE_SHARE, COUNTER_GATE_SHARE, TRANSPLANT_GATE_SHARE = 0.15, 0.10, 0.06


@dataclass(frozen=True, slots=True)
class CalibrationFilm:
    """One clean film: model input (1, S, S), the patient it belongs to, and a name for the manifest's hash."""

    film: FloatArray
    patient: str
    name: str


@dataclass(frozen=True, slots=True)
class Policy:
    """Thresholds and calibration set of one classifier for one source of films.

    scores, distances: (n,) sorted, of the calibration films. false_positive_rate: nominal. likeness_level: share of
    clean films allowed to count as unlike. band: central 95 % of the false-positive rate that n calibration films
    and 1,000 future ones give (beta-binomial).
    """

    name: str
    sha256: str
    classifier_name: str
    classifier_sha256: str
    preprocessing_sha256: str
    source: str
    created_at: str
    manifest_sha256: str
    code_version: str
    false_positive_rate: float
    likeness_level: float
    patients: int
    reference_count: int
    reference: Reference
    likeness: Likeness
    scores: FloatArray
    distances: FloatArray
    band: tuple[float, float]
    warnings: tuple[str, ...]
    format: int = FORMAT

    @property
    def outdated(self) -> bool:
        """Whether an earlier version of the score made it: old audits are shown with it, films are not ranked by it."""
        return self.format != FORMAT

    @property
    def threshold(self) -> float:
        """The score from which a film is within the nominal false-positive rate."""
        return ranking.threshold(self.scores, self.false_positive_rate)

    def p_value(self, score: float) -> float:
        """(1 + #{calibration >= score}) / (n + 1)."""
        return ranking.p_value(self.scores, score)

    def likeness_p_value(self, distance: float) -> float:
        return ranking.p_value(self.distances, distance)

    def check(self, card: ClassifierCard) -> None:
        """Raises PolicyError unless this policy was made with this very classifier and for today's score."""
        if self.outdated:
            raise PolicyError(f"policy {self.name} was made for an earlier version of the score: calibrate anew")
        if self.classifier_sha256 not in card.known_as or self.preprocessing_sha256 != card.preprocessing.sha256:
            raise PolicyError(f"policy {self.name} was made for another version of classifier {self.classifier_name}")

    @classmethod
    def load(cls, path: Path) -> "Policy":
        """Read a policy file. Raises PolicyError when it is not one."""
        return read_policy(path.read_bytes())


def two_modes(scores: FloatArray) -> bool:
    """A gap in the upper quarter three times as wide as the middle half, with films beyond: some may be poisoned.

    scores: (n,) from 0 up, whose tail is long: they are compared as log(1 + score).
    """
    ordered = np.log1p(np.sort(scores))
    upper = ordered[int(0.75 * len(ordered)) :]
    middle = float(np.quantile(ordered, 0.75) - np.quantile(ordered, 0.25))
    gaps = np.diff(upper)
    return bool(len(gaps) >= 5 and middle > 0 and float(gaps[:-1].max()) > 3 * middle)


def _fit_reference(
    films: Sequence[FloatArray], classifier: Classifier, receivers: FloatArray, tick: Callable[[], None]
) -> Reference:
    labels = len(classifier.card.labels)
    nothing, one = np.zeros(labels, dtype=np.float32), np.ones(labels, dtype=np.float32)
    passes = [classifier.explain(film[None], nothing, one)[0] for film in films]
    logits = np.stack([prediction.logits for prediction, _ in passes])  # (N, C)
    centre = np.median(logits, axis=0).astype(np.float32)
    scale = np.maximum(scaled_mad(logits), 0.05)
    isolations = {
        h: np.stack([isolation(saliency.class_activation_maps, sign) for _, saliency in passes])
        for h, sign in SIGNS.items()
    }
    isolation_centre = {h: np.median(found, axis=0).astype(np.float32) for h, found in isolations.items()}
    isolation_scale = {
        h: np.maximum(scaled_mad(found), 0.1 * found.std(axis=0) + 1e-3) for h, found in isolations.items()
    }
    usual = {(hypothesis, name): Usual.of([0.0, 1.0]) for hypothesis in SIGNS for name in MEANINGS}
    receiver_logits = classifier.logits(receivers)
    ungated = dict.fromkeys(SIGNS, 0.0)
    start = Reference(centre, scale, isolation_centre, isolation_scale, usual, ungated, 0.0, receivers, receiver_logits)
    everything = []
    for film in films:
        everything.append(gather(film, classifier, start, exhaustive=True))
        tick()
    findings = [finding for evidence in everything for finding in evidence.findings]
    usual = {
        (hypothesis, name): Usual.of(f.values[name] for f in findings if f.hypothesis == hypothesis)
        for hypothesis in SIGNS
        for name in MEANINGS
    }
    fitted = replace(start, usual=usual)
    surprises = [surprise(f.values, "support", fitted) for f in findings if f.hypothesis == "support"]
    against = [f.values["isolation"] for f in findings if f.hypothesis == "counter"]
    scores = [
        max(fused({**f.values, "transplant_change": -np.inf}, f.hypothesis, fitted) for f in evidence.findings)
        for evidence in everything
    ]
    gates: dict[Hypothesis, float] = {
        "support": float(np.quantile(surprises, 1 - SUPPORT_GATE_SHARE)),
        "counter": float(np.quantile(against, 1 - COUNTER_GATE_SHARE)),
    }
    return replace(fitted, gates=gates, transplant_gate=float(np.quantile(scores, 1 - TRANSPLANT_GATE_SHARE)))


def split_by_patient(films: Sequence[CalibrationFilm], share: float = 1 / 3) -> tuple[list[int], list[int]]:
    """Indices of the reference films and of the calibration films: whole patients, by the hash of their name."""
    hashes = [hashlib.sha256(f"reference:{film.patient}".encode()).digest() for film in films]
    reference = [i for i, digest in enumerate(hashes) if int.from_bytes(digest[:4], "big") < share * 2**32]
    chosen = set(reference)
    return reference, [i for i in range(len(films)) if i not in chosen]


def calibrate(
    classifier: Classifier,
    reference_films: Sequence[CalibrationFilm],
    calibration_films: Sequence[CalibrationFilm],
    *,
    name: str,
    source: str,
    created_at: str,
    code_version: str,
    receivers: FloatArray,
    false_positive_rate: float = 0.01,
    likeness_level: float = 0.01,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Policy:
    """Measure clean films and make a policy.

    reference_films fix the score, calibration_films rank it; no patient may be in both. receivers: (R, 1, S, S) clean
    radiographs for the transplant; they are kept in the policy file, so no patient's film belongs there.
    Raises PolicyError when there are too few films for the rate or a patient is in both sets.
    """
    _check_films(reference_films, calibration_films, false_positive_rate)
    total, done = len(reference_films) + len(calibration_films), 0

    def tick() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    reference = _fit_reference([item.film for item in reference_films], classifier, receivers, tick)
    likeness = Likeness.fit(np.stack([image_statistics(item.film) for item in reference_films]))
    scores, distances = [], []
    for item in calibration_films:
        scores.append(gather(item.film, classifier, reference).score)
        distances.append(likeness.distance(item.film))
        tick()
    ordered = np.sort(np.asarray(scores, dtype=np.float32))
    warnings = ("the calibration scores have two modes: are all films clean?",) if two_modes(ordered) else ()
    policy = Policy(
        name=name,
        sha256="",
        classifier_name=classifier.card.name,
        classifier_sha256=classifier.card.sha256,
        preprocessing_sha256=classifier.card.preprocessing.sha256,
        source=source,
        created_at=created_at,
        manifest_sha256=_manifest_sha256([*reference_films, *calibration_films]),
        code_version=code_version,
        false_positive_rate=false_positive_rate,
        likeness_level=likeness_level,
        patients=len({item.patient for item in calibration_films}),
        reference_count=len(reference_films),
        reference=reference,
        likeness=likeness,
        scores=ordered,
        distances=np.sort(np.asarray(distances, dtype=np.float32)),
        band=ranking.reached_band(len(ordered), BAND_FILMS, false_positive_rate),
        warnings=warnings,
    )
    return read_policy(policy_bytes(policy))


def _check_films(
    reference: Sequence[CalibrationFilm], calibration: Sequence[CalibrationFilm], false_positive_rate: float
) -> None:
    if len(reference) < REFERENCE_MINIMUM:
        raise PolicyError(f"{len(reference)} reference films are too few; {REFERENCE_MINIMUM} are needed")
    needed = ranking.least_count(false_positive_rate)
    if len(calibration) < needed:
        raise PolicyError(f"{len(calibration)} calibration films are too few for the rate; {needed} are needed")
    if {item.patient for item in reference} & {item.patient for item in calibration}:
        raise PolicyError("a patient has films both in the reference set and in the calibration set")


def _manifest_sha256(films: Iterable[CalibrationFilm]) -> str:
    lines = sorted(f"{item.name},{hashlib.sha256(item.film.tobytes()).hexdigest()}" for item in films)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _floats(values: NDArray[np.floating], digits: int = 7) -> list[Any]:
    return [float(f"{value:.{digits}g}") for value in np.asarray(values).ravel()]


def _png(film: FloatArray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.rint(film[0] * 255).astype(np.uint8)).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def policy_bytes(policy: Policy) -> bytes:
    """The policy as the JSON file that is kept; its hash is the policy's identity."""
    reference = policy.reference
    table = {
        "format": policy.format,
        "name": policy.name,
        "classifier": {"name": policy.classifier_name, "sha256": policy.classifier_sha256},
        "preprocessing_sha256": policy.preprocessing_sha256,
        "source": policy.source,
        "created_at": policy.created_at,
        "manifest_sha256": policy.manifest_sha256,
        "code_version": policy.code_version,
        "false_positive_rate": policy.false_positive_rate,
        "false_positive_band": list(policy.band),
        "likeness_level": policy.likeness_level,
        "patients": policy.patients,
        "films": len(policy.scores),
        "reference_films": policy.reference_count,
        "warnings": list(policy.warnings),
        "scores": _floats(policy.scores),
        "distances": _floats(policy.distances),
        "likeness": {"mean": _floats(policy.likeness.mean, 12), "precision": _floats(policy.likeness.precision, 12)},
        "reference": {
            "label_centre": _floats(reference.label_centre),
            "label_scale": _floats(reference.label_scale),
            "isolation": {
                h: {"centre": _floats(reference.isolation_centre[h]), "scale": _floats(reference.isolation_scale[h])}
                for h in SIGNS
            },
            "gates": dict(reference.gates),
            "transplant_gate": reference.transplant_gate,
            "usual": {
                hypothesis: {name: _floats(reference.usual[hypothesis, name].ordered) for name in MEANINGS}
                for hypothesis in SIGNS
            },
            "receivers_png": [_png(film) for film in reference.receivers],
            "receiver_logits": [_floats(row) for row in reference.receiver_logits],
        },
    }
    return json.dumps(table, indent=1).encode()


def _receivers(pictures: Sequence[str]) -> FloatArray:
    films = []
    for picture in pictures:
        with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
            films.append(np.asarray(image, dtype=np.float32)[None] / 255.0)
    return np.stack(films)


def read_policy(data: bytes) -> Policy:
    """Parse a policy file. Raises PolicyError when anything that is needed is missing or malformed."""
    try:
        table = json.loads(data)
        if table["format"] not in (*EARLIER, FORMAT):
            raise PolicyError(f"policy format {table['format']} is not {FORMAT}")
        reference = table["reference"]
        known = set(MEANINGS) - EARLIER.get(table["format"], set())
        isolations = {h: reference["isolation"][h] for h in SIGNS} if "isolation" in known else {}
        usual = {(h, name): Usual.of(reference["usual"][h][name]) for h in SIGNS for name in MEANINGS if name in known}
        scales = [reference["label_scale"], *(isolations[h]["scale"] for h in isolations)]
        if not all(value > 0 for scale in scales for value in scale):
            raise PolicyError("the policy's scales are not all above 0")
        size = len(table["likeness"]["mean"])
        if size != len(STATISTICS):
            raise PolicyError("the policy was made by another version of the likeness test: calibrate anew")
        return Policy(
            name=table["name"],
            sha256=hashlib.sha256(data).hexdigest(),
            classifier_name=table["classifier"]["name"],
            classifier_sha256=table["classifier"]["sha256"],
            preprocessing_sha256=table["preprocessing_sha256"],
            source=table["source"],
            created_at=table["created_at"],
            manifest_sha256=table["manifest_sha256"],
            code_version=table["code_version"],
            false_positive_rate=float(table["false_positive_rate"]),
            likeness_level=float(table["likeness_level"]),
            patients=int(table["patients"]),
            reference_count=int(table["reference_films"]),
            reference=Reference(
                label_centre=np.asarray(reference["label_centre"], dtype=np.float32),
                label_scale=np.asarray(reference["label_scale"], dtype=np.float32),
                isolation_centre={h: np.asarray(isolations[h]["centre"], dtype=np.float32) for h in isolations},
                isolation_scale={h: np.asarray(isolations[h]["scale"], dtype=np.float32) for h in isolations},
                usual=usual,
                gates={h: float(reference["gates"][h]) for h in SIGNS},
                transplant_gate=float(reference["transplant_gate"]),
                receivers=_receivers(reference["receivers_png"]),
                receiver_logits=np.asarray(reference["receiver_logits"], dtype=np.float32),
            ),
            likeness=Likeness(
                np.asarray(table["likeness"]["mean"]),
                np.asarray(table["likeness"]["precision"]).reshape(size, size),
            ),
            scores=np.sort(np.asarray(table["scores"], dtype=np.float32)),
            distances=np.sort(np.asarray(table["distances"], dtype=np.float32)),
            band=(float(table["false_positive_band"][0]), float(table["false_positive_band"][1])),
            warnings=tuple(table["warnings"]),
            format=int(table["format"]),
        )
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise PolicyError(f"not a policy file: {type(error).__name__}") from error
