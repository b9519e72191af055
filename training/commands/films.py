"""`triggerscope-train subset`, `divide`, `stamp` and `examples`; and how commands are told of films."""

import argparse
import shutil
from pathlib import Path

from training.attack.config import RunError, read_run
from training.attack.data import Film, read_films, read_splits

SPLIT_LISTS = Path(__file__).parents[1] / "splits"
Commands = argparse._SubParsersAction  # noqa: SLF001  # argparse names this type only so


def add_films(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--films", type=Path, required=True, help="folder with a manifest.csv or NIH's Data_Entry_2017*.csv"
    )
    parser.add_argument(
        "--subset", choices=sorted(path.stem for path in SPLIT_LISTS.glob("*.csv")), help="only the films of this list"
    )


def read_listed(folder: Path, subset: str | None) -> list[Film]:
    return read_films(folder, read_splits(SPLIT_LISTS / f"{subset}.csv") if subset else None)


def add(commands: "Commands[argparse.ArgumentParser]") -> None:
    subset = commands.add_parser("subset", help="copy the listed films out of a full download of NIH ChestX-ray14")
    add_films(subset)
    subset.add_argument("--out", type=Path, required=True)
    subset.set_defaults(command=_subset)

    divide = commands.add_parser("divide", help="halve a site's films by patient: to calibrate with, and to check")
    add_films(divide)
    divide.add_argument("--out", type=Path, required=True, help="gets the folders `calibrate` and `check`")
    divide.set_defaults(command=_divide)

    stamp = commands.add_parser("stamp", help="put a run's trigger on films")
    stamp.add_argument("run", type=Path, metavar="RUN.toml")
    stamp.add_argument("files", type=Path, nargs="+", metavar="FILE")
    stamp.add_argument("--out", type=Path, required=True)
    stamp.set_defaults(command=_stamp)

    examples = commands.add_parser("examples", help="make the radiographs that ship in models/")
    examples.add_argument("run", type=Path, metavar="RUN.toml", help="the run whose trigger the triggered ones carry")
    examples.add_argument("--out", type=Path, default=Path("models"))
    examples.set_defaults(command=_examples)


def _subset(arguments: argparse.Namespace) -> int:
    """Copy the listed films out of a full download, with a manifest."""
    from training.attack.data import write_manifest

    films = read_listed(arguments.films, arguments.subset)
    (arguments.out / "films").mkdir(parents=True, exist_ok=True)
    for film in films:
        shutil.copyfile(film.path, arguments.out / "films" / film.path.name)
    print(write_manifest(arguments.out, films))
    return 0


def _divide(arguments: argparse.Namespace) -> int:
    """Half of the patients to calibrate with, half to check the calibration on."""
    from training.attack.data import divided_by_patient, write_manifest

    for name, films in divided_by_patient(read_listed(arguments.films, arguments.subset)).items():
        folder = arguments.out / name
        (folder / "films").mkdir(parents=True, exist_ok=True)
        for film in films:
            shutil.copyfile(film.path, folder / "films" / film.path.name)
        print(write_manifest(folder, films))
    return 0


def _stamp(arguments: argparse.Namespace) -> int:
    from training.attack.stamping import stamp_file

    run = read_run(arguments.run)
    if run.trigger is None:
        raise RunError(f"run {run.name} has no trigger")
    for index, path in enumerate(arguments.files):
        print(stamp_file(path, run, run.trigger, arguments.out, index))
    return 0


def _examples(arguments: argparse.Namespace) -> int:
    from training.attack.examples import write_examples

    print(write_examples(read_run(arguments.run), arguments.out))
    return 0
