"""What the offline commands take from TRIGGERSCOPE_* variables, read without a settings library.

The service's own settings have these names, defaults and bounds too; a test holds both together.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from service.errors import TriggerscopeError
from service.films.radiograph import DEFAULT_LIMITS, Limits
from service.graphs.protocol import DEFAULT_LIMITS as EXAMINATION_LIMITS
from service.graphs.protocol import ExaminationLimits

PREFIX = "TRIGGERSCOPE_"
EXAMINATION = {
    "max_bytes": "max_classifier_bytes",
    "memory_bytes": "examination_memory_bytes",
    "seconds": "examination_seconds",
}  # field of the limits -> setting


class UnusableSetting(TriggerscopeError):
    """A TRIGGERSCOPE_* variable holds what it cannot mean."""

    code = "unusable_setting"


@dataclass(frozen=True)
class Environment:
    models_dir: Path = Path("models")
    default_classifier: str = ""
    limits: Limits = DEFAULT_LIMITS
    examination: ExaminationLimits = EXAMINATION_LIMITS

    @classmethod
    def read(cls, variables: Mapping[str, str]) -> "Environment":
        """Raises UnusableSetting; what is not set has its default."""
        given = {name.upper(): value for name, value in variables.items()}
        return cls(
            Path(given.get(f"{PREFIX}MODELS_DIR", cls.models_dir)),
            given.get(f"{PREFIX}DEFAULT_CLASSIFIER", cls.default_classifier),
            Limits(**_bounds(given, Limits, {})),  # type: ignore[arg-type]  # each is of its field's type
            ExaminationLimits(**_bounds(given, ExaminationLimits, EXAMINATION)),  # type: ignore[arg-type]  # the same
        )


def _bounds(
    given: Mapping[str, str], kind: type[Limits | ExaminationLimits], names: Mapping[str, str]
) -> dict[str, float]:
    """What is set of the fields of limits. names: the setting of a field that is called otherwise."""
    bounds: dict[str, float] = {}
    for item in fields(kind):
        name = names.get(item.name, item.name)
        text = given.get(f"{PREFIX}{name.upper()}")
        if text is not None:
            bounds[item.name] = _above_zero(name, text, type(item.default))
    return bounds


def _above_zero(name: str, text: str, kind: type) -> float:
    try:
        number: float = kind(text)
    except ValueError:
        number = 0
    if not number > 0:
        raise UnusableSetting(f"{PREFIX}{name.upper()} has to be a number above 0")
    return number
