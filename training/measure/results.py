"""Result files: figures as JSON that people read and compare, and what is kept a film or a threshold beside it.

NAME.json holds the figures; its rows of films and its curves lie in NAME.films.json.gz, so that every table and paired
interval can be made again and the folder stays small. The JSON names that file's hash: it is read whole or refused.
"""

import gzip
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from training.attack.data import DataError

ASIDE = ("films", "ranks", "roc", "calibration_curve")  # lists of this name lie in the other file
ROWS = "films_sha256"  # of the other file's content

Table = dict[str, Any]
Place = tuple[str, ...]


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result, its rows first: where NAME.json stands, all of it stands. NaN becomes null."""
    figures, aside = _parted(_finite(dict(result)), ())
    path.parent.mkdir(parents=True, exist_ok=True)
    if aside:
        content = "\n".join(json.dumps([*place, rows], separators=(",", ":"), allow_nan=False) for place, rows in aside)
        figures[ROWS] = hashlib.sha256(content.encode()).hexdigest()
        _replace(rows_path(path), gzip.compress(content.encode(), 9, mtime=0))
    else:
        rows_path(path).unlink(missing_ok=True)
    _replace(path, f"{_lines(figures)}\n".encode())


def read_result(path: Path) -> Table:
    """The whole result. Raises DataError where its rows are missing or another result's."""
    figures = read_figures(path)
    expected = figures.pop(ROWS, None)
    if expected is None:
        return figures
    try:
        content = gzip.decompress(rows_path(path).read_bytes())
    except (OSError, EOFError) as error:
        raise DataError(f"{rows_path(path).name} is missing or broken") from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise DataError(f"{rows_path(path).name} holds the rows of another result than {path.name}")
    for line in content.splitlines():
        *place, name, rows = json.loads(line)
        table = figures
        for step in place:
            table = table[step]
        table[name] = rows
    return figures


def read_figures(path: Path) -> Table:
    """A result without its rows and curves, which most tables do without."""
    figures: Table = json.loads(path.read_text())
    return figures


def rows_path(path: Path) -> Path:
    return path.with_suffix(".films.json.gz")


def write_json(path: Path, table: Mapping[str, Any]) -> None:
    """Write what has no rows, a gallery for example, as one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, f"{_lines(_finite(dict(table)))}\n".encode())


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)


def _parted(table: Table, place: Place) -> tuple[Table, list[tuple[Place, list[Any]]]]:
    """A table without the lists that lie aside, and these with their places."""
    figures: Table = {}
    aside: list[tuple[Place, list[Any]]] = []
    for name, value in table.items():
        if isinstance(value, dict):
            figures[name], deeper = _parted(value, (*place, name))
            aside += deeper
        elif name in ASIDE and isinstance(value, list):
            aside.append(((*place, name), value))
        else:
            figures[name] = value
    return figures, aside


def _lines(table: Table, indent: int = 1) -> str:
    """JSON with a line for each entry that holds no further table."""
    entries = (
        f"{' ' * indent}{json.dumps(name)}: "
        + (_lines(value, indent + 1) if _deep(value) else json.dumps(value, allow_nan=False))
        for name, value in table.items()
    )
    return "{\n" + ",\n".join(entries) + "\n" + " " * (indent - 1) + "}"


def _deep(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(item, dict) for item in value.values())


def _finite(value: Any) -> Any:
    """NaN, of a figure that does not exist for these films, becomes null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
