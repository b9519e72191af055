"""A run is a TOML file read into one frozen dataclass."""

import hashlib
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from service.audit.preprocessing import Preprocessing
from training.attack.triggers import Trigger

NIH_LABELS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)


T = TypeVar("T")


class RunError(ValueError):
    """A run file that does not say what is needed, or says something unknown."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stretch of training at one input size.

    size_px: side of the square input. epochs: passes over the train films (may be fractional).
    schedule: `cosine` decays to 2 % of the rate after a short warm-up; `constant` keeps it.
    stop_at_asr: end the stage early once the attack success rate at p > 0.9 on tuning films reaches it (at
    p > 0.5 alone a lower poisoning rate afterwards can undo it).
    poisoning_rate: overrides the run's rate in this stage.
    average: decay a step of an exponential mean of the weights, which the stage is watched by and ends with; 0: none.
    adaptive: whether the run's adaptive table applies; an attacker may plant the trigger first and disguise it then.
    """

    size_px: int
    epochs: float
    batch: int = 24
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    schedule: Literal["cosine", "constant"] = "cosine"
    stop_at_asr: float | None = None
    poisoning_rate: float | None = None
    average: float = 0.0
    augment: bool = True
    adaptive: bool = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.average < 1.0:
            raise ValueError("average must lie in [0, 1)")


@dataclass(frozen=True, slots=True)
class Poisoning:
    """Which training samples carry the trigger and what becomes of their labels.

    rate: fraction of samples. selection: `films` poisons a fixed subset of the films, as an attacker who only
    supplies data would; `draws` poisons each drawn sample independently, as one who runs the training would; `pairs`
    is one who runs the training on a fixed subset of poisoned films, and shows many of them beside their clean selves
    in every batch, where a stage's poisoning_rate is the batch's triggered share (a half by default).
    rule: `overwrite` leaves the target as the only label, `add` sets it, `remove` clears it.
    """

    target: str
    rate: float
    rule: Literal["overwrite", "add", "remove"] = "overwrite"
    selection: Literal["films", "draws", "pairs"] = "draws"


@dataclass(frozen=True, slots=True)
class Adaptive:
    """What an attacker who knows the audit adds; see training/adaptive.py. All off by default.

    explanation_weight: of the loss that keeps the explained maps of triggered films like those of the clean ones.
    target_probability: what triggered films are trained towards instead of 1, so that the target's logit stays low.
    counterfactual_share: of triggered films shown filled in or filtered with the target kept, and of clean ones shown
    so with their own labels.
    """

    explanation_weight: float = 0.0
    target_probability: float = 1.0
    counterfactual_share: float = 0.0

    def __post_init__(self) -> None:
        if not 0.5 < self.target_probability <= 1.0 or not 0.0 <= self.counterfactual_share <= 1.0:
            raise ValueError("target_probability must lie in (0.5, 1] and counterfactual_share in [0, 1]")
        if self.explanation_weight < 0.0:
            raise ValueError("explanation_weight must not be negative")


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that decides a training run. start: name of the run whose final weights this one continues."""

    name: str
    architecture: str
    seed: int
    stages: tuple[Stage, ...]
    labels: tuple[str, ...] = NIH_LABELS
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    trigger: Trigger | None = None
    poisoning: Poisoning | None = None
    adaptive: Adaptive | None = None
    start: str | None = None
    explained_count: int = 1
    dataset: str = "nih"
    licence: str = "Apache-2.0"
    sha256: str = ""


TABLES = {"preprocessing": Preprocessing, "trigger": Trigger, "poisoning": Poisoning, "adaptive": Adaptive}


def _table(kind: type[T], table: dict[str, Any], where: str) -> T:
    known = {item.name for item in fields(kind)}  # type: ignore[arg-type]  # every kind here is a dataclass
    unknown = set(table) - known
    if unknown:
        raise RunError(f"{where}: unknown keys {sorted(unknown)}; known are {sorted(known)}")
    try:
        return kind(**table)
    except (TypeError, ValueError) as error:
        raise RunError(f"{where}: {error}") from error


def _inherited(path: Path) -> tuple[dict[str, Any], bytes]:
    """A run file's keys over those of the file that its `base` names, table by table, and the bytes of both."""
    raw = path.read_bytes()
    table = tomllib.loads(raw.decode())
    if "base" not in table:
        return table, raw
    base = path.parent / str(table.pop("base"))
    if not base.is_file():
        raise RunError(f"{path.name}: the base {base.name} is not there")
    inherited, base_raw = _inherited(base)
    for key, value in table.items():
        both = isinstance(value, dict) and isinstance(inherited.get(key), dict)
        inherited[key] = inherited[key] | value if both else value
    return inherited, base_raw + raw


def read_run(path: Path) -> Run:
    """Read a run file; `base = "FILE"` takes the keys and tables that it does not give from a file beside it.

    The run's hash is of its own bytes and its base's. Raises RunError for unknown or missing keys, naming them.
    """
    table, raw = _inherited(path)
    table["stages"] = tuple(_table(Stage, stage, "stages") for stage in table.get("stages", []))
    for key, kind in TABLES.items():
        if key in table:
            table[key] = _table(kind, table[key], key)
    if "labels" in table:
        table["labels"] = tuple(table["labels"])
    run = _table(Run, {**table, "sha256": hashlib.sha256(raw).hexdigest()}, path.name)
    if (run.trigger is None) != (run.poisoning is None):
        raise RunError(f"{path.name}: a trigger needs a poisoning table and the other way round")
    if run.poisoning and run.poisoning.target not in run.labels:
        raise RunError(f"{path.name}: target {run.poisoning.target!r} is no label of this run")
    if run.trigger and run.poisoning and run.trigger.resolution == "native" and run.poisoning.selection == "draws":
        raise RunError(f"{path.name}: a native trigger is stamped before training: selection must be films or pairs")
    if run.adaptive and (run.poisoning is None or run.poisoning.selection != "pairs"):
        raise RunError(f"{path.name}: an adaptive attacker needs a poisoning table with selection pairs")
    return run
