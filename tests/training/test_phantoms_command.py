"""`triggerscope-train phantoms`."""

import argparse
from pathlib import Path

import pydicom
from PIL import Image

from training.phantoms import command


def test_the_command_writes_folder_dicom_and_sheet(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    sheet = tmp_path / "sheet.png"
    options = ["--out", str(tmp_path / "set"), "--count", "3", "--seed", "5", "--size", "64", "--workers", "1"]
    assert command.run(parser.parse_args([*options, "--dicom", "2", "--contact-sheet", str(sheet)])) == 0
    assert len(list((tmp_path / "set" / "films").glob("*.png"))) == 3
    photometrics = [
        pydicom.dcmread(path).PhotometricInterpretation for path in sorted((tmp_path / "set/dicom").iterdir())
    ]
    assert photometrics == ["MONOCHROME2", "MONOCHROME1"]
    with Image.open(sheet) as image:
        assert image.size == (6 * 226, 226)
