"""Weights of finished runs: what the manifest lists, and how they come out of a folder or a clone's history."""

import csv
import hashlib
import os
import subprocess
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from training.attack.config import Run, RunError, read_run

SHIPPED_WEIGHTS = Path(__file__).parents[1] / "weights"
MANIFEST = "MANIFEST.csv"
IN_HISTORY = "training/weights"  # where a commit holds them
BRING = "triggerscope-train weights --from FOLDER_OR_CLONE"


class WeightsRefused(RunError):
    """Weights that were not brought, and why."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A row of the manifest. sha256: of NAME.pt. run_sha256: of the run file that made it, as `read_run` takes it.
    commit: the last one that put it into the tree; empty where none did and only a folder can bring it."""

    name: str
    sha256: str
    run_sha256: str
    commit: str


def listed(folder: Path = SHIPPED_WEIGHTS) -> dict[str, Listed]:
    """The manifest in a folder, by name; empty without one. Raises RunError for rows of another kind."""
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    if not rows or rows[0] != [field.name for field in fields(Listed)] or any(len(row) != 4 for row in rows):
        raise RunError(f"{path} is no manifest of weights")
    return {row[0]: Listed(*row) for row in rows[1:]}


def ship(run: Run, folder: Path = SHIPPED_WEIGHTS) -> bool:
    """Whether the run's weights are there, made by this version of its run file as far as the manifest tells."""
    row = listed(folder).get(run.name)
    return (folder / f"{run.name}.pt").exists() and (row is None or row.run_sha256 == run.sha256)


def how_to_bring(name: str, run_sha256: str = "", folder: Path = SHIPPED_WEIGHTS) -> str:
    """The command that brings weights which the manifest lists and which are not there; else empty.

    run_sha256: of the run file that they must have been made by; any without it.
    """
    row = listed(folder).get(name)
    if row is None or run_sha256 not in ("", row.run_sha256) or (folder / f"{name}.pt").exists():
        return ""
    return f"`{BRING} --run {name}` brings them"


def state(row: Listed, folder: Path) -> str:
    """`there`, `missing`, or that other bytes lie under the name."""
    path = folder / f"{row.name}.pt"
    if not path.exists():
        return "missing"
    return "there" if _sha256(path.read_bytes()) == row.sha256 else "other bytes than the manifest says"


def bring(row: Listed, source: Path, folder: Path) -> None:
    """Put checked weights in place at once or not at all; source: a folder with NAME.pt, or a git repository whose
    history holds it. Raises WeightsRefused where the source does not have these bytes."""
    data = _read(row, source)
    if _sha256(data) != row.sha256:
        raise WeightsRefused(f"what {source} holds has other bytes than the manifest says")
    partial = folder / f"{row.name}.partial"
    try:
        partial.write_bytes(data)
        partial.replace(folder / f"{row.name}.pt")
    except OSError as error:
        raise WeightsRefused(f"{folder} cannot be written: {error.strerror}") from error


def record(folder: Path, runs: Path) -> list[Listed]:
    """Write the manifest anew from the weights that are there, and from its rows for those that are not.

    Raises RunError for weights without a run file below `runs`.
    """
    files = {path.stem: path for path in runs.rglob("*.toml")}
    rows = listed(folder)
    for path in folder.glob("*.pt"):
        if path.stem not in files:
            raise RunError(f"{path.name} has no run file below {runs}")
        sha256 = _sha256(path.read_bytes())
        rows[path.stem] = Listed(path.stem, sha256, read_run(files[path.stem]).sha256, _commit(path, sha256))
    ordered = [rows[name] for name in sorted(rows)]
    _write(folder / MANIFEST, ordered)
    return ordered


def _write(path: Path, rows: Iterable[Listed]) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in fields(Listed))
        writer.writerows(astuple(row) for row in rows)
    partial.replace(path)


def _commit(path: Path, sha256: str) -> str:
    """The last commit that put the bytes which lie there into the tree; empty where none did."""
    commits = _git(path.parent, "log", "--diff-filter=AM", "--format=%H", "--", path.name).decode().split()
    blobs = ((commit, _git(path.parent, "cat-file", "blob", f"{commit}:./{path.name}")) for commit in commits)
    return next((commit for commit, blob in blobs if _sha256(blob) == sha256), "")


def _read(row: Listed, source: Path) -> bytes:
    path = source / f"{row.name}.pt"
    try:
        if path.exists():
            return path.read_bytes()
    except OSError as error:
        raise WeightsRefused(f"{path} cannot be read: {error.strerror}") from error
    if not _is_repository(source):
        raise WeightsRefused(f"{source} holds no {path.name} and is no git repository")
    if not row.commit:
        raise WeightsRefused("the manifest names no commit that holds it: it comes from a folder only")
    return _git(source, "cat-file", "blob", f"{row.commit}:{IN_HISTORY}/{path.name}")


def _is_repository(folder: Path) -> bool:
    """A work tree's top or a bare repository."""
    return (folder / ".git").exists() or ((folder / "HEAD").is_file() and (folder / "objects").is_dir())


def _git(folder: Path, *arguments: str) -> bytes:
    """What git prints in that repository, whatever repository this process runs in."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment["LC_ALL"] = "C"
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, env=environment)  # noqa: S603  # no shell, our own words
    except FileNotFoundError:
        raise WeightsRefused("git is not installed, and nothing comes out of a history without it") from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["it failed"]
        raise WeightsRefused(
            f"git in {folder}: {said[0]} (a clone of depth 1 has no history: git fetch --unshallow brings it)"
        )
    return done.stdout


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
