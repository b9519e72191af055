"""`triggerscope-train phantoms`."""

from pathlib import Path

import pydicom
from PIL import Image

from training.__main__ import main


def test_the_command_writes_folder_dicom_and_sheet(tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    options = ["--out", str(tmp_path / "set"), "--count", "3", "--seed", "5", "--size", "64", "--workers", "1"]
    assert main(["phantoms", *options, "--dicom", "2", "--contact-sheet", str(sheet)]) == 0
    assert len(list((tmp_path / "set" / "films").glob("*.png"))) == 3
    photometrics = [
        pydicom.dcmread(path).PhotometricInterpretation for path in sorted((tmp_path / "set/dicom").iterdir())
    ]
    assert photometrics == ["MONOCHROME2", "MONOCHROME1"]
    with Image.open(sheet) as image:
        assert image.size == (6 * 226, 226)
