"""`triggerscope-train attacks`."""

import argparse
from pathlib import Path

from training.commands.films import Commands, add_films, read_listed

FAMILIES = (
    "shipped", "tests", "maps", "prediction", "random_map", "residual", "purify", "scale_up", "strip", "sentinet",
    "occlusion", "search",
)  # fmt: skip


def add(commands: "Commands[argparse.ArgumentParser]") -> None:
    attacks = commands.add_parser("attacks", help="train, export, calibrate and evaluate runs beside their clean twins")
    attacks.add_argument("runs", type=Path, nargs="+", metavar="RUNS", help="folders of run files, or run files")
    add_films(attacks)
    attacks.add_argument("--out", type=Path, required=True, help="results; what is done there is not done again")
    attacks.add_argument("--work", type=Path, help="folder of weights, classifiers and policies; OUT/work without it")
    attacks.add_argument(
        "--families", nargs="*", choices=FAMILIES, default=(), metavar="FAMILY",
        help="detectors to compare on each run; none without it",
    )  # fmt: skip
    attacks.add_argument("--costly", type=int, default=100, help="films of each set that costly detectors read")
    attacks.add_argument("--split", default="test", help="whose films are audited; `tuning` to work on a detector")
    attacks.add_argument("--receivers", type=Path, default=Path("models/receivers"), metavar="FOLDER")
    attacks.add_argument("--threads", type=int, default=1, help="films audited at the same time")
    attacks.set_defaults(command=_attacks)


def _attacks(arguments: argparse.Namespace) -> int:
    from training.commands.attack_list import Workshop, run_attacks

    workshop = Workshop(
        read_listed(arguments.films, arguments.subset),
        arguments.out,
        arguments.work or arguments.out / "work",
        arguments.receivers,
        arguments.split,
        arguments.threads,
        arguments.families,
        arguments.costly,
        print,
    )
    print(run_attacks(arguments.runs, workshop))
    return 0
