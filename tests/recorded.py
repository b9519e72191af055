"""Recorded tables: a JSON file with a row a line, and the one comparison that says whether figures are still the same.

Numbers may differ by a thousandth of themselves, or by FLOOR where they are small; a film's rank among the calibration
films by one place, since a tie may fall either way. All else, words, labels, pixels of regions and passes, is exact.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

RELATIVE = 1e-3
FLOOR = 1e-4  # in the units of the values, which are shares, distances and units of a label's scale
DIGITS = 6  # that are kept: well below the tolerance

Row = dict[str, Any]


def differences(recorded: Any, found: Any, where: str = "") -> Iterator[str]:
    """What differs between two rows, values or lists, one line each; nothing where they are the same."""
    if isinstance(recorded, Mapping) and isinstance(found, Mapping):
        for name in dict.fromkeys((*recorded, *found)):
            yield from differences(recorded.get(name), found.get(name), f"{where}/{name}")
    elif isinstance(recorded, list) and isinstance(found, list) and len(recorded) == len(found):
        for number, (one, other) in enumerate(zip(recorded, found, strict=True)):
            yield from differences(one, other, f"{where}/{number}")
    elif not _same(recorded, found, where):
        yield f"{where}: {recorded} was recorded, {found} is found"


def _same(recorded: Any, found: Any, where: str) -> bool:
    if type(recorded) is not type(found):
        return False
    if isinstance(recorded, float):
        return abs(found - recorded) <= max(RELATIVE * abs(recorded), FLOOR)
    if where.endswith("/rank"):
        return abs(found - recorded) <= 1
    return bool(recorded == found)


def rounded(value: Any) -> Any:
    """Floats to DIGITS significant digits, at any depth."""
    if isinstance(value, Mapping):
        return {name: rounded(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    lines = ",\n".join(json.dumps(rounded(row), separators=(",", ":"), allow_nan=False) for row in rows)
    path.write_text(f"[\n{lines}\n]\n")


def read_rows(path: Path) -> list[Row]:
    rows: list[Row] = json.loads(path.read_text())
    return rows
