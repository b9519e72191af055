"""`triggerscope-train weights`: lists the weights of finished runs, and brings those that are not in the tree."""

import argparse
from pathlib import Path

from training.attack.config import RunError
from training.attack.weights import SHIPPED_WEIGHTS, Listed, WeightsRefused, bring, listed, record, state
from training.commands.films import Commands

RUNS = Path(__file__).parents[1] / "runs"


def add(commands: "Commands[argparse.ArgumentParser]") -> None:
    weights = commands.add_parser(
        "weights", help="list weights of finished runs, or bring them from a folder or a clone's history, checked"
    )
    weights.add_argument(
        "--from", dest="source", type=Path, metavar="FOLDER_OR_CLONE",
        help="a folder with NAME.pt files, or a git repository (bare or not) with this project's history",
    )  # fmt: skip
    weights.add_argument("--run", nargs="+", dest="names", metavar="NAME", help="these only; all without it")
    weights.add_argument(
        "--into", type=Path, default=SHIPPED_WEIGHTS, metavar="FOLDER", help="holds the manifest and gets the weights"
    )
    weights.add_argument(
        "--record", action="store_true", help="write the manifest anew from the weights that are there"
    )
    weights.set_defaults(command=_weights)


def _weights(arguments: argparse.Namespace) -> int:
    """Exit status 2 where weights that were asked for are not there in the end."""
    if arguments.record:
        rows = record(arguments.into, RUNS)
        print(f"{len(rows)} in the manifest")
        return 0
    rows = _chosen(listed(arguments.into), arguments.names)
    missing = [row for row in rows if not _is_there(row, arguments.source, arguments.into)]
    print(f"{len(rows) - len(missing)} of {len(rows)} are there")
    return 2 if missing else 0


def _chosen(rows: dict[str, Listed], names: list[str] | None) -> list[Listed]:
    unknown = sorted(set(names or ()) - set(rows))
    if not rows or unknown:
        raise RunError(f"the manifest lists no weights of {', '.join(unknown)}" if unknown else "no manifest there")
    return [rows[name] for name in names or rows]


def _is_there(row: Listed, source: Path | None, folder: Path) -> bool:
    """Bring one run's weights where they are missing and there is a source; says what became of them."""
    found = state(row, folder)
    if found == "there" or source is None:
        print(f"{row.name}: {found}")
        return found == "there"
    try:
        bring(row, source, folder)
    except WeightsRefused as refused:
        print(f"{row.name}: not brought: {refused}")
        return False
    print(f"{row.name}: brought")
    return True
