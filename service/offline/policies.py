"""`triggerscope calibrate`: a folder of clean films -> a policy for one classifier."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np

from service import __version__
from service.arrays import FloatArray
from service.audit.calibration import Policy, calibrate
from service.audit.classifier import Classifier
from service.audit.preprocessing import Preprocessing, model_input
from service.errors import PolicyError
from service.films.radiograph import Limits, decode
from service.offline.calibration_folder import read_calibration_folder

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Calibration:
    folder: Path
    source: str
    name: str | None
    false_positive_rate: float
    receivers: Path | None


@dataclass(frozen=True, slots=True)
class Calibrated:
    """refused: file name -> error code of films that could not be decoded and were left out. suspects: names of files
    that were left out since they stand apart from the others."""

    policy: Policy
    refused: dict[str, str]
    suspects: list[str]


def calibrate_folder(
    models_dir: Path, classifier: Classifier, wanted: Calibration, limits: Limits, progress: Progress
) -> Calibrated:
    """A policy for one classifier from a folder of clean films."""
    sets = read_calibration_folder(
        wanted.folder, classifier.card.preprocessing, limits, progress=partial(progress, "reading")
    )
    suspects: list[str] = []
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
        leaving_out=lambda film: suspects.append(film.name),
    )
    return Calibrated(policy, sets.refused, suspects)


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
    if policy.warnings:
        worst = 100 * policy.band_at_worst[1]
        lines.append(f"if those left out are clean, the reached rate may be up to {worst:.1f} % (95 %)")
        lines.append("the policy goes into force only by `triggerscope policies activate --despite-warnings REASON`")
    lines += [f"stands apart: {name}" for name in sorted(made.suspects)]
    lines += [f"left out: {name} ({code})" for name, code in sorted(made.refused.items())]
    return "\n".join(lines)


def _receivers(models_dir: Path, preprocessing: Preprocessing, folder: Path | None, limits: Limits) -> FloatArray:
    """Radiographs that may be published, because the policy carries them; phantoms ship with the models."""
    folder = folder or models_dir / "receivers"
    paths = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    if not paths:
        raise PolicyError("name a folder of publishable clean radiographs with --receivers")
    return np.stack([model_input(decode(path.read_bytes(), limits).pixels, preprocessing) for path in paths])
