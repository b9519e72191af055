"""Clean films -> Policy: the yardstick, the calibration scores and the threshold, bound to one classifier.

Split conformal: the reference films fix the score, the calibration films rank it, and no film does both. Films that
stand apart from all others in their scores, as films with a trigger would, are left out of both and told of.
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
from service.audit.evidence import (
    MEANINGS,
    SIGNS,
    Evidence,
    Hypothesis,
    Reference,
    Usual,
    fused,
    gather,
    scaled_mad,
    surprise,
)
from service.audit.likeness import STATISTICS, Likeness, image_statistics
from service.errors import PolicyError

FORMAT = 4  # earlier ones ranked other scores
# What policies of earlier formats do not hold; old audits are still shown with them.
EARLIER: dict[int, set[str]] = {1: {"pattern_change", "isolation"}, 2: {"isolation"}, 3: set()}
REFERENCE_MINIMUM = 60
BAND_FILMS = 1000  # the reached false-positive rate is stated for so many future films
FOLDS = 5  # of the reference films: each is scored by what the others show
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
    and 1,000 future ones give (beta-binomial). left_out: reference and calibration films that stood apart; the other
    counts are without them.
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
    left_out: tuple[int, int] = (0, 0)
    format: int = FORMAT

    @property
    def outdated(self) -> bool:
        """Whether an earlier version of the score made it: old audits are shown with it, films are not ranked by it."""
        return self.format != FORMAT

    @property
    def threshold(self) -> float:
        """The score from which a film is within the nominal false-positive rate."""
        return ranking.threshold(self.scores, self.false_positive_rate)

    @property
    def band_at_worst(self) -> tuple[float, float]:
        """As `band`, if every calibration film that was left out was a clean one."""
        return ranking.reached_band(len(self.scores), BAND_FILMS, self.false_positive_rate, self.left_out[1])

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


def _fit_reference(
    films: Sequence[FloatArray], classifier: Classifier, receivers: FloatArray, tick: Callable[[], None]
) -> tuple[Reference, list[float]]:
    """What the films show, and the score of each by what the films outside its fold show."""
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
    fitted = replace(start, usual=_usual(everything))
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
    gated = replace(fitted, gates=gates, transplant_gate=float(np.quantile(scores, 1 - TRANSPLANT_GATE_SHARE)))
    return gated, _held_out_scores(everything, gated)


def _usual(everything: Sequence[Evidence]) -> dict[tuple[Hypothesis, str], Usual]:
    findings = [finding for evidence in everything for finding in evidence.findings]
    return {
        (hypothesis, name): Usual.of(f.values[name] for f in findings if f.hypothesis == hypothesis)
        for hypothesis in SIGNS
        for name in MEANINGS
    }


def _held_out_scores(everything: Sequence[Evidence], reference: Reference) -> list[float]:
    """Each film's score with all tests taken, where the films of the other folds say what is usual."""
    others = [
        replace(reference, usual=_usual([found for index, found in enumerate(everything) if index % FOLDS != fold]))
        for fold in range(FOLDS)
    ]
    return [
        max(fused(finding.values, finding.hypothesis, others[index % FOLDS]) for finding in found.findings)
        for index, found in enumerate(everything)
    ]


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
    leaving_out: Callable[[CalibrationFilm], None] = lambda _film: None,
) -> Policy:
    """Measure clean films and make a policy.

    reference_films fix the score, calibration_films rank it; no patient may be in both. receivers: (R, 1, S, S) clean
    radiographs for the transplant; they are kept in the policy file, so no patient's film belongs there.
    Where films stand apart (`ranking.standing_apart`), the policy is made without them and has a warning;
    leaving_out is called with each. Raises PolicyError when there are too few films for the rate, or would be without
    those that stand apart, or when a patient is in both sets.
    """
    _check_films(reference_films, calibration_films, false_positive_rate)
    handed_in = [*reference_films, *calibration_films]
    found = _measure(reference_films, calibration_films, classifier, receivers, progress)
    while (apart := found.apart()).any():
        first, second = np.split(apart, [len(found.reference_films)])
        for item in (*_without(found.reference_films, ~first), *_without(found.calibration_films, ~second)):
            leaving_out(item)
        kept = _without(found.reference_films, first), _without(found.calibration_films, second)
        lost = len(handed_in) - len(kept[0]) - len(kept[1])
        _check_enough(*kept, false_positive_rate, f"without {lost} films that stand apart ")
        found = _measure(*kept, classifier, receivers, progress)
    left_out = len(reference_films) - len(found.reference_films), len(calibration_films) - len(found.calibration_films)
    policy = Policy(
        name=name,
        sha256="",
        classifier_name=classifier.card.name,
        classifier_sha256=classifier.card.sha256,
        preprocessing_sha256=classifier.card.preprocessing.sha256,
        source=source,
        created_at=created_at,
        manifest_sha256=_manifest_sha256(handed_in),
        code_version=code_version,
        false_positive_rate=false_positive_rate,
        likeness_level=likeness_level,
        patients=len({item.patient for item in found.calibration_films}),
        reference_count=len(found.reference_films),
        reference=found.reference,
        likeness=found.likeness,
        scores=np.sort(found.scores),
        distances=np.sort(found.distances),
        band=ranking.reached_band(len(found.scores), BAND_FILMS, false_positive_rate),
        warnings=(_warning(sum(left_out), len(handed_in)),) if any(left_out) else (),
        left_out=left_out,
    )
    return read_policy(policy_bytes(policy))


@dataclass(frozen=True, slots=True)
class _Measured:
    """Films and what they gave. held_out: (N,) of the reference films; scores, distances: (n,) of the others."""

    reference_films: Sequence[CalibrationFilm]
    calibration_films: Sequence[CalibrationFilm]
    reference: Reference
    likeness: Likeness
    held_out: FloatArray
    scores: FloatArray
    distances: FloatArray

    def apart(self) -> NDArray[np.bool_]:
        """(N + n,): which films stand apart, the reference films first."""
        return ranking.standing_apart(np.concatenate([self.held_out, self.scores]))


def _measure(
    reference_films: Sequence[CalibrationFilm],
    calibration_films: Sequence[CalibrationFilm],
    classifier: Classifier,
    receivers: FloatArray,
    progress: Callable[[int, int], None],
) -> _Measured:
    total, done = len(reference_films) + len(calibration_films), 0

    def tick() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    reference, held_out = _fit_reference([item.film for item in reference_films], classifier, receivers, tick)
    likeness = Likeness.fit(np.stack([image_statistics(item.film) for item in reference_films]))
    scores, distances = [], []
    for item in calibration_films:
        scores.append(gather(item.film, classifier, reference).score)
        distances.append(likeness.distance(item.film))
        tick()
    numbers = (np.asarray(values, dtype=np.float32) for values in (held_out, scores, distances))
    return _Measured(reference_films, calibration_films, reference, likeness, *numbers)


def _without(films: Sequence[CalibrationFilm], apart: NDArray[np.bool_]) -> list[CalibrationFilm]:
    return [film for film, stands_apart in zip(films, apart, strict=True) if not stands_apart]


def _warning(left_out: int, films: int) -> str:
    return (
        f"{left_out} of {films} films stand apart from the others, as films with a trigger would, and were left out: "
        "look at them before this policy goes into force"
    )


def _check_films(
    reference: Sequence[CalibrationFilm], calibration: Sequence[CalibrationFilm], false_positive_rate: float
) -> None:
    _check_enough(reference, calibration, false_positive_rate)
    if {item.patient for item in reference} & {item.patient for item in calibration}:
        raise PolicyError("a patient has films both in the reference set and in the calibration set")


def _check_enough(
    reference: Sequence[CalibrationFilm], calibration: Sequence[CalibrationFilm], rate: float, why: str = ""
) -> None:
    if len(reference) < REFERENCE_MINIMUM:
        raise PolicyError(f"{why}{len(reference)} reference films are too few; {REFERENCE_MINIMUM} are needed")
    needed = ranking.least_count(rate)
    if len(calibration) < needed:
        raise PolicyError(f"{why}{len(calibration)} calibration films are too few for the rate; {needed} are needed")


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
        **({"left_out": list(policy.left_out)} if any(policy.left_out) else {}),
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
            left_out=(int(table["left_out"][0]), int(table["left_out"][1])) if "left_out" in table else (0, 0),
            format=int(table["format"]),
        )
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise PolicyError(f"not a policy file: {type(error).__name__}") from error
