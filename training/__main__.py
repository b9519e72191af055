"""The command line `triggerscope-train`."""

import argparse
import sys

from training.attack.config import RunError
from training.attack.data import DataError
from training.commands import attacks, audits, films, measure, networks, phantoms, shipped, show, tiny, weights

NOUNS = (networks, measure, attacks, audits, show, films, phantoms, tiny, shipped, weights)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="triggerscope-train", description="Build, poison, export and prove classifiers.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for noun in NOUNS:
        noun.add(commands)
    return top


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    try:
        code: int = arguments.command(arguments)
    except (RunError, DataError) as error:
        print(f"triggerscope-train: {error}", file=sys.stderr)
        return 2
    return code


if __name__ == "__main__":
    sys.exit(main())
