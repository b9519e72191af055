"""`triggerscope-train phantoms`: a folder of phantoms, DICOM copies, a contact sheet."""

import argparse
import os
import sys
from pathlib import Path

from training.phantoms.contact_sheet import write_contact_sheet
from training.phantoms.export import Photometric, write_dicom, write_folder
from training.phantoms.scene import make

PHOTOMETRICS: tuple[Photometric, Photometric] = ("MONOCHROME2", "MONOCHROME1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--out", type=Path, required=True, help="folder for films/, manifest.csv and dicom/")
    parser.add_argument("--count", type=int, default=1000, help="number of films")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first film; the others follow")
    parser.add_argument("--size", type=int, default=320, help="side of the films in pixels")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--dicom", type=int, default=0, metavar="N", help="also write the first N films as DX DICOM")
    parser.add_argument("--contact-sheet", type=Path, metavar="FILE", help="also write a sheet of the first 24 films")


def run(arguments: argparse.Namespace) -> int:
    """Make the folder; the exit code is 0."""
    write_folder(
        arguments.out, arguments.count, arguments.seed, arguments.size, arguments.workers, progress=_show_progress
    )
    write_dicom_copies(arguments.out / "dicom", min(arguments.dicom, arguments.count), arguments.seed, arguments.size)
    if arguments.contact_sheet is not None:
        films = [make(arguments.seed + index, 224).pixels for index in range(min(24, arguments.count))]
        write_contact_sheet(films, arguments.contact_sheet)
    return 0


def write_dicom_copies(directory: Path, count: int, first_seed: int, size: int) -> list[Path]:
    """The first films as DX objects, alternating MONOCHROME2 and MONOCHROME1 and going through 12 to 16 bits."""
    paths = []
    for index in range(count):
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{first_seed + index:08d}.dcm"
        write_dicom(make(first_seed + index, size), path, PHOTOMETRICS[index % 2], 12 + index % 5)
        paths.append(path)
    return paths


def _show_progress(done: int, total: int) -> None:
    if done == total or done % 50 == 0:
        sys.stderr.write(f"\r{done} of {total} phantoms" + ("\n" if done == total else ""))
        sys.stderr.flush()
