"""`triggerscope audit` and `calibrate`: straight on the models folder, without server and database."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from service import __version__
from service.audit import pipeline
from service.audit.calibration import Policy, calibrate
from service.audit.classifier import Classifier
from service.audit.errors import ClassifierError, PolicyError, RadiographError
from service.audit.preprocessing import FloatArray, Preprocessing, model_input
from service.audit.radiograph import Limits, decode
from service.audit.verdict import Audit
from service.calibration_folder import read_calibration_folder
from service.registry import policy_files, preferred

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Models:
    classifier: Classifier
    policy: Policy | None


def find_models(models_dir: Path, classifier: str, policy: str | None) -> Models:
    """By name or path; without a policy's name, the first one in the folder that was made for the classifier."""
    loaded = Classifier.load(find_classifier(models_dir, classifier))
    return Models(loaded, find_policy(models_dir, loaded, policy))


def find_classifier(models_dir: Path, wanted: str) -> Path:
    if wanted and Path(wanted).is_file():
        return Path(wanted)
    name = wanted or preferred(path.stem for path in models_dir.glob("*.onnx"))
    if name is None or not (models_dir / f"{name}.onnx").is_file():
        raise ClassifierError(f"{name or 'a classifier'} is not in the models folder")
    return models_dir / f"{name}.onnx"


def find_policy(models_dir: Path, classifier: Classifier, wanted: str | None) -> Policy | None:
    if wanted and Path(wanted).is_file():
        return Policy.load(Path(wanted))
    for path in policy_files(models_dir):
        policy = Policy.load(path)
        if policy.classifier_sha256 == classifier.card.sha256 and wanted in (None, policy.name, policy.sha256):
            return policy
    if wanted:
        raise PolicyError(f"{wanted} is not in the models folder, or was made for another classifier")
    return None


def audit_files(files: list[Path], models: Models, limits: Limits) -> Iterator[dict[str, Any]]:
    """One record a file, in order; a file that cannot be audited gives {"source", "error"}."""
    for path in files:
        try:
            _, audit = pipeline.audit(path.read_bytes(), models.classifier, models.policy, limits)
        except RadiographError as error:
            yield {"source": str(path), "error": {"code": error.code, "detail": error.detail}}
        except OSError as error:
            yield {"source": str(path), "error": {"code": "unreadable_file", "detail": type(error).__name__}}
        else:
            yield record(str(path), audit)


def record(source: str, audit: Audit) -> dict[str, Any]:
    return {
        "source": source,
        "sha256": audit.source_sha256,
        "classifier": {"name": audit.classifier_name, "sha256": audit.classifier_sha256},
        "policy": {"name": audit.policy_name, "sha256": audit.policy_sha256} if audit.policy_name else None,
        "verdict": audit.verdict,
        "score": audit.score,
        "p_value": audit.p_value,
        "probabilities": audit.probabilities,
        "explained_label": audit.explained_label,
        "hypothesis": audit.hypothesis,
        "evidence": {name: asdict(measurement) for name, measurement in audit.evidence.items()},
        "region": asdict(audit.region) if audit.region else None,
        "reasons": list(audit.reasons),
        "timings_ms": {name: round(value, 2) for name, value in audit.timings_ms.items()},
    }


def as_line(found: dict[str, Any]) -> str:
    return json.dumps(found, allow_nan=False)


def as_text(found: dict[str, Any]) -> str:
    if "error" in found:
        return f"{'error':14} {found['source']}  {found['error']['code']}"
    region = found["region"]
    place = f"  at {region['x']},{region['y']} ({region['width']} x {region['height']} px)" if region else ""
    p_value = "" if found["p_value"] is None else f"  p = {found['p_value']:.4f}"
    lines = [f"{found['verdict']:14} {found['source']}  {found['explained_label']}{p_value}{place}"]
    return "\n".join(lines + [f"{'':14} - {reason}" for reason in found["reasons"]])


@dataclass(frozen=True, slots=True)
class Calibration:
    folder: Path
    source: str
    name: str | None
    false_positive_rate: float
    receivers: Path | None


@dataclass(frozen=True, slots=True)
class Calibrated:
    """refused: file name -> error code of films that could not be decoded and were left out."""

    policy: Policy
    refused: dict[str, str]


def calibrate_folder(
    models_dir: Path, classifier: Classifier, wanted: Calibration, limits: Limits, progress: Progress
) -> Calibrated:
    """A policy for one classifier from a folder of clean films."""
    sets = read_calibration_folder(
        wanted.folder, classifier.card.preprocessing, limits, progress=partial(progress, "reading")
    )
    policy = calibrate(
        classifier,
        sets.reference,
        sets.calibration,
        name=wanted.name or f"{classifier.card.name}-{wanted.source}",
        source=wanted.source,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        code_version=__version__,
        receivers=_receivers(models_dir, classifier.card.preprocessing, wanted.receivers, limits),
        false_positive_rate=wanted.false_positive_rate,
        progress=partial(progress, "auditing"),
    )
    return Calibrated(policy, sets.refused)


def calibration_summary(made: Calibrated) -> str:
    """What a person should know before using the policy."""
    policy, rate = made.policy, made.policy.false_positive_rate
    low, high = (100 * share for share in policy.band)
    lines = [
        f"{policy.name}: {policy.reference_count} reference and {len(policy.scores)} calibration films"
        f" of {policy.patients} patients",
        f"nominal false-alarm rate {100 * rate:g} %; with so many films the reached rate lies in"
        f" {low:.1f}-{high:.1f} % (95 %)",
    ]
    lines += [f"warning: {warning}" for warning in policy.warnings]
    lines += [f"left out: {name} ({code})" for name, code in sorted(made.refused.items())]
    return "\n".join(lines)


def _receivers(models_dir: Path, preprocessing: Preprocessing, folder: Path | None, limits: Limits) -> FloatArray:
    """Radiographs that may be published, because the policy carries them; phantoms ship with the models."""
    folder = folder or models_dir / "receivers"
    paths = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    if not paths:
        raise PolicyError("name a folder of publishable clean radiographs with --receivers")
    return np.stack([model_input(decode(path.read_bytes(), limits).pixels, preprocessing) for path in paths])
