"""`triggerscope-train attacks`: trains, exports, calibrates, evaluates and compares a folder of runs with their twins.

Everything that is finished lies in the results folder with what made it, among it the run file's hash and the versions
of the score and of the detectors, so that the command may be killed at any time and started again, and a changed run
file is done anew.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from service import __version__
from service.arrays import FloatArray
from service.audit.calibration import CalibrationFilm, Policy, calibrate, policy_bytes
from service.audit.classifier import Classifier
from service.audit.pipeline import SCORES_VERSION
from service.audit.preprocessing import Preprocessing, model_input
from service.films.radiograph import Limits, decode
from service.graphs.examiner import load_classifier
from training.attack.config import Run, RunError, read_run
from training.attack.data import Film, in_split, manifest_sha256, model_inputs
from training.attack.train import StaleCheckpoint, Training, final_weights
from training.attack.weights import SHIPPED_WEIGHTS, how_to_bring, ship
from training.measure.compare import SHIPPED, Sampling, compare
from training.measure.detectors import versions_of
from training.measure.evaluate import CleanFilms, evaluate
from training.measure.results import read_figures, write_json, write_result
from training.networks.densenet import build
from training.networks.export import export
from training.show.attack_summary import COMPARISON, write_summary
from training.show.gallery import gallery

RUNS = Path(__file__).parents[1] / "runs"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Workshop:
    """Where runs are worked on. out: results. work: weights, classifiers, policies and readings. split: the films to
    evaluate on; whoever changes a detector looks at `tuning`. families: detectors to compare, none for no comparison.
    costly: films of each set that costly detectors read."""

    films: Sequence[Film]
    out: Path
    work: Path
    receivers: Path
    split: str
    threads: int
    families: Sequence[str]
    costly: int
    say: Say
    twins: dict[str, CleanFilms] = field(default_factory=dict)  # clean films' findings by classifier

    @property
    def manifest(self) -> str:
        return manifest_sha256(self.films)


def run_files(paths: Iterable[Path]) -> list[Path]:
    """The run files among `paths` and in the folders among them, in order of name. Raises RunError for none."""
    found = [file for path in paths for file in (sorted(path.glob("*.toml")) if path.is_dir() else [path])]
    if not found:
        raise RunError("no run file there")
    return found


def run_attacks(paths: Iterable[Path], workshop: Workshop) -> Path:
    """Do every run that is not done; returns the path of summary.md. Raises RunError before any work is begun where a
    run file is wrong or has no trigger or no clean parent."""
    runs = [read_run(path) for path in run_files(paths)]
    for run in runs:
        if run.trigger is None or run.start is None:
            raise RunError(f"run {run.name} has no trigger or does not start from a clean run")
    if len({run.name for run in runs}) < len(runs):
        raise RunError("two run files have the same name")
    workshop.work.mkdir(parents=True, exist_ok=True)
    workshop.out.mkdir(parents=True, exist_ok=True)
    for number, run in enumerate(runs, 1):
        place = f"[{number}/{len(runs)}] {run.name}"
        if all(_is_done(path, run, workshop) for path in _results(run, workshop)):
            workshop.say(f"{place}: done before")
            continue
        workshop.say(place)
        pair = _pair(run, workshop)
        for path, measure in _results(run, workshop).items():
            if not _is_done(path, run, workshop):
                write_result(path, measure(run, pair, workshop) | _made_by(path, run, workshop))
        write_summary(runs, workshop.out)
    return write_summary(runs, workshop.out)


def _results(run: Run, workshop: Workshop) -> dict[Path, Callable[[Run, "Pair", Workshop], dict[str, Any]]]:
    """The files that a run leaves, and what fills them."""
    results: dict[Path, Callable[[Run, Pair, Workshop], dict[str, Any]]]
    results = {workshop.out / f"{run.name}.json": _evaluated}
    if workshop.families:
        results[workshop.out / f"{run.name}{COMPARISON}"] = _compared
    return results


def _is_done(path: Path, run: Run, workshop: Workshop) -> bool:
    if not path.exists():
        return False
    made = read_figures(path)
    return all(made.get(key) == value for key, value in _made_by(path, run, workshop).items())


def _made_by(path: Path, run: Run, workshop: Workshop) -> dict[str, Any]:
    """What decides the result at `path`."""
    decides: dict[str, Any] = {
        "run_sha256": run.sha256,
        "manifest_sha256": workshop.manifest,
        "scores_version": SCORES_VERSION,
        "split": workshop.split,
    }
    if path.name.endswith(COMPARISON):
        decides |= {"detectors_version": versions_of(workshop.families), "costly": workshop.costly}
    return decides


@dataclass(frozen=True, slots=True)
class Pair:
    """The backdoored classifier and its clean twin, each with a policy of its own."""

    backdoored: Classifier
    policy: Policy
    twin: Classifier
    twin_policy: Policy


def _pair(run: Run, workshop: Workshop) -> Pair:
    twin_run = _twin(run)
    if twin_run is not None:
        _train(twin_run, workshop)
    _train(run, workshop)
    backdoored = _export(run, run.name, run.sha256, workshop)
    twin = _export(run, str(run.start), twin_run.sha256 if twin_run else "", workshop)
    return Pair(backdoored, _policy(backdoored, workshop), twin, _policy(twin, workshop))


def _evaluated(run: Run, pair: Pair, workshop: Workshop) -> dict[str, Any]:
    """Both classifiers on the films of the split, with the same triggers."""
    films = in_split(workshop.films, workshop.split)
    workshop.say("  evaluating the attack and its clean twin")
    known, twin = workshop.twins, pair.twin.card.sha256
    if twin not in known:
        known[twin] = CleanFilms.audited(films, pair.twin, pair.twin_policy, workshop.threads)
    return {
        "run": run.name,
        "date": datetime.now(UTC).date().isoformat(),
        "code_version": __version__,
        "attack": evaluate(run, films, pair.backdoored, pair.policy, workshop.threads, pair.twin),
        "clean_twin": evaluate(run, films, pair.twin, pair.twin_policy, workshop.threads, clean=known[twin]),
    }


def _compared(run: Run, pair: Pair, workshop: Workshop) -> dict[str, Any]:
    """Every detector of the families on the backdoored classifier; pictures, which hold films, stay in the work."""
    workshop.say("  comparing detectors")
    result, sets, attacked = compare(
        run,
        workshop.films,
        pair.backdoored,
        pair.policy,
        split=workshop.split,
        sampling=Sampling(costly=workshop.costly),
        cache=workshop.work / "readings",
        families=workshop.families,
        threads=workshop.threads,
    )
    if SHIPPED in workshop.families:
        pictures = gallery(sets, workshop.split, attacked, pair.backdoored, pair.policy)
        write_json(workshop.work / f"{run.name}.gallery.json", pictures)
    return {"title": run.name, "date": datetime.now(UTC).date().isoformat(), **result}


def _twin(run: Run) -> Run | None:
    """The run file of the clean parent; None where only its weights ship. Raises RunError where neither is there."""
    path = RUNS / f"{run.start}.toml"
    if path.exists():
        return read_run(path)
    if not (SHIPPED_WEIGHTS / f"{run.start}.pt").exists():
        how = how_to_bring(str(run.start))
        raise RunError(
            f"run {run.name} starts from {run.start}, of which neither run file nor weights are there"
            + (f": {how}" if how else "")
        )
    return None


def _train(run: Run, workshop: Workshop) -> None:
    """Train a run unless its weights are finished or in training/weights, made by this version of its file; a
    checkpoint of another version is thrown away."""
    stamp = workshop.work / run.name / "done.sha256"
    if ship(run) or (stamp.exists() and stamp.read_text() == run.sha256):
        return
    how = how_to_bring(run.name, run.sha256)
    workshop.say(f"  training {run.name}" + (f", which is not needed: {how}" if how else ""))
    films = list(workshop.films)
    try:
        training = Training(run, films, workshop.work)
    except StaleCheckpoint:
        shutil.rmtree(workshop.work / run.name)
        training = Training(run, films, workshop.work)
    training.train()
    stamp.write_text(run.sha256)


def _export(run: Run, weights: str, weights_sha256: str, workshop: Workshop) -> Classifier:
    """The classifier of a run's network and preprocessing with the weights of that name, made by that run file."""
    key = hashlib.sha256(f"{weights_sha256} {run.preprocessing.sha256} {workshop.manifest}".encode()).hexdigest()
    path = workshop.work / f"{weights}-{key[:12]}.onnx"
    if not path.exists():
        partial = path.with_suffix(".partial")
        network = build(run.architecture, len(run.labels), run.seed)
        network.load_state_dict(final_weights(workshop.work, weights))
        export(
            network,
            partial,
            name=weights,
            labels=run.labels,
            preprocessing=run.preprocessing,
            licence=run.licence,
            provenance={"run": weights, "dataset": run.dataset, "manifest_sha256": workshop.manifest},
            explained_count=run.explained_count,
        )
        partial.replace(path)
    return load_classifier(path)


def _policy(classifier: Classifier, workshop: Workshop) -> Policy:
    """The classifier's policy from the tuning and calibration films, as `triggerscope calibrate` makes it."""
    path = workshop.work / f"{classifier.card.sha256[:16]}-scores{SCORES_VERSION}.policy.json"
    if path.exists():
        return Policy.load(path)
    workshop.say(f"  calibrating {classifier.card.name}")
    preprocessing = classifier.card.preprocessing
    policy = calibrate(
        classifier,
        _calibration_films(in_split(workshop.films, "tuning"), preprocessing),
        _calibration_films(in_split(workshop.films, "calibration"), preprocessing),
        name=classifier.card.name,
        source="films",
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        code_version=__version__,
        receivers=_receivers(workshop.receivers, preprocessing),
    )
    partial = path.with_suffix(".partial")
    partial.write_bytes(policy_bytes(policy))
    partial.replace(path)
    return policy


def _calibration_films(films: list[Film], preprocessing: Preprocessing) -> list[CalibrationFilm]:
    inputs = model_inputs(films, preprocessing)
    return [
        CalibrationFilm(pixels, film.patient_id, film.path.name) for pixels, film in zip(inputs, films, strict=True)
    ]


def _receivers(folder: Path, preprocessing: Preprocessing) -> FloatArray:
    paths = sorted(path for path in folder.glob("*") if path.is_file())
    if not paths:
        raise RunError(f"{folder} holds no clean radiographs for the transplant test")
    return np.stack([model_input(decode(path.read_bytes(), Limits()).pixels, preprocessing) for path in paths])
