"""The models folder: which classifier and policy a name, a path or nothing means."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from service.audit.calibration import Policy
from service.audit.classifier import Classifier
from service.errors import ClassifierError, PolicyError
from service.graphs.description import Description
from service.graphs.examiner import load_classifier

SHIPPED_DEFAULT = "nih-clean"


@dataclass(frozen=True, slots=True)
class Models:
    classifier: Classifier
    policy: Policy | None


def find_models(
    models_dir: Path, classifier: str, policy: str | None, description: Description | None = None
) -> Models:
    """By name or path; without a policy's name, the first one without warnings that was made for the classifier.

    description: where the classifier's file does not say labels and preprocessing itself.
    """
    loaded = load_classifier(find_classifier(models_dir, classifier), description)
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
        chosen = wanted in (policy.name, policy.sha256) if wanted else not policy.warnings
        if chosen and policy.classifier_sha256 in classifier.card.known_as:
            return policy
    if wanted:
        raise PolicyError(f"{wanted} is not in the models folder, or was made for another classifier")
    return None


def preferred(names: Iterable[str], wanted: str = "") -> str | None:
    """The classifier for films that name none: the wanted one, else the shipped clean one, else the first by name."""
    known = sorted(names)
    return next((name for name in (wanted, SHIPPED_DEFAULT) if name in known), next(iter(known), None))


def policy_files(models_dir: Path) -> list[Path]:
    """Sorted so that NAME.policy.json comes before NAME.OTHER.policy.json."""
    return sorted(models_dir.glob("*.policy.json"), key=lambda path: (path.name.count("."), path.name))
