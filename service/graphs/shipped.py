"""The files that ship, known by their hashes: examined when they were made, so that a first start need not wait."""

import functools
import json
from pathlib import Path
from typing import Any

LIST = Path(__file__).with_name("shipped.json")


@functools.cache
def shipped() -> dict[str, dict[str, Any]]:
    """Hash of the file -> `name`, `identity` and the `report` of its examination."""
    listed: dict[str, dict[str, Any]] = json.loads(LIST.read_text())
    return listed


def listed(files: dict[str, tuple[str, str, dict[str, Any]]]) -> str:
    """The list as it is written: hash of the file -> name, identity and report."""
    entries = {
        sha256: {"name": name, "identity": identity, "report": report}
        for sha256, (name, identity, report) in sorted(files.items(), key=lambda item: item[1][0])
    }
    return json.dumps(entries, indent=1, sort_keys=False) + "\n"
