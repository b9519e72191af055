"""`triggerscope-train phantoms`: a folder of phantoms, DICOM copies, a contact sheet."""

import argparse
import os
import sys
from pathlib import Path

from training.commands.films import Commands


def add(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("phantoms", help="make procedural chest radiographs")
    parser.add_argument("--out", type=Path, required=True, help="folder for films/, manifest.csv and dicom/")
    parser.add_argument("--count", type=int, default=1000, help="number of films")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first film; the others follow")
    parser.add_argument("--size", type=int, default=320, help="side of the films in pixels")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--dicom", type=int, default=0, metavar="N", help="also write the first N films as DX DICOM")
    parser.add_argument("--contact-sheet", type=Path, metavar="FILE", help="also write a sheet of the first 24 films")
    parser.set_defaults(command=_phantoms)


def _phantoms(arguments: argparse.Namespace) -> int:
    from training.phantoms.contact_sheet import write_contact_sheet
    from training.phantoms.export import write_dicom_copies, write_folder
    from training.phantoms.scene import make

    write_folder(
        arguments.out, arguments.count, arguments.seed, arguments.size, arguments.workers, progress=_show_progress
    )
    write_dicom_copies(arguments.out / "dicom", min(arguments.dicom, arguments.count), arguments.seed, arguments.size)
    if arguments.contact_sheet is not None:
        films = [make(arguments.seed + index, 224).pixels for index in range(min(24, arguments.count))]
        write_contact_sheet(films, arguments.contact_sheet)
    return 0


def _show_progress(done: int, total: int) -> None:
    if done == total or done % 50 == 0:
        sys.stderr.write(f"\r{done} of {total} phantoms" + ("\n" if done == total else ""))
        sys.stderr.flush()
