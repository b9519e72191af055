"""A run is a TOML file read into one frozen dataclass."""

import hashlib
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from service.audit.preprocessing import Preprocessing
from training.triggers import Trigger

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
    """

    size_px: int
    epochs: float
    batch: int = 24
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    schedule: Literal["cosine", "constant"] = "cosine"
    stop_at_asr: float | None = None
    poisoning_rate: float | None = None
    augment: bool = True


@dataclass(frozen=True, slots=True)
class Poisoning:
    """Which training samples carry the trigger and what becomes of their labels.

    rate: fraction of samples. selection: `films` poisons a fixed subset of the films, as an attacker who only
    supplies data would; `draws` poisons each drawn sample independently, as one who runs the training would.
    rule: `overwrite` leaves the target as the only label, `add` sets it, `remove` clears it.
    """

    target: str
    rate: float
    rule: Literal["overwrite", "add", "remove"] = "overwrite"
    selection: Literal["films", "draws"] = "draws"


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
    start: str | None = None
    explained_count: int = 1
    dataset: str = "nih"
    licence: str = "Apache-2.0"
    sha256: str = ""


def _table(kind: type[T], table: dict[str, Any], where: str) -> T:
    known = {item.name for item in fields(kind)}  # type: ignore[arg-type]  # every kind here is a dataclass
    unknown = set(table) - known
    if unknown:
        raise RunError(f"{where}: unknown keys {sorted(unknown)}; known are {sorted(known)}")
    try:
        return kind(**table)
    except (TypeError, ValueError) as error:
        raise RunError(f"{where}: {error}") from error


def read_run(path: Path) -> Run:
    """Read a run file. Raises RunError for unknown or missing keys, naming them."""
    raw = path.read_bytes()
    table: dict[str, Any] = tomllib.loads(raw.decode())
    table["stages"] = tuple(_table(Stage, stage, "stages") for stage in table.get("stages", []))
    for key, kind in (("preprocessing", Preprocessing), ("trigger", Trigger), ("poisoning", Poisoning)):
        if key in table:
            table[key] = _table(kind, table[key], key)
    if "labels" in table:
        table["labels"] = tuple(table["labels"])
    run = _table(Run, {**table, "sha256": hashlib.sha256(raw).hexdigest()}, path.name)
    if (run.trigger is None) != (run.poisoning is None):
        raise RunError(f"{path.name}: a trigger needs a poisoning table and the other way round")
    if run.poisoning and run.poisoning.target not in run.labels:
        raise RunError(f"{path.name}: target {run.poisoning.target!r} is no label of this run")
    return run
