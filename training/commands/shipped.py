"""`triggerscope-train shipped`: examine the files that ship and list them by their hashes, for the service to know."""

import argparse
import sys
from pathlib import Path

from training.commands.films import Commands


def add(commands: "Commands[argparse.ArgumentParser]") -> None:
    shipped = commands.add_parser("shipped", help="examine the classifiers that ship and list them for the service")
    shipped.add_argument("--models", type=Path, default=Path("models"))
    shipped.set_defaults(command=_shipped)


def _shipped(arguments: argparse.Namespace) -> int:
    from service.graphs.examiner import Examiner, read_file
    from service.graphs.shipped import LIST, listed

    found = {}
    for path in sorted(arguments.models.rglob("*.onnx")):
        derived = Examiner().examine(read_file(path))
        found[derived.file_sha256] = (path.stem, derived.identity, derived.report or {})
        print(f"{path}  identity {derived.identity}", file=sys.stderr)
    LIST.write_text(listed(found))
    print(LIST)
    return 0
