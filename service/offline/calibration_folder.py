"""A folder of clean films -> the reference and calibration sets of a policy."""

import csv
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError

from service.audit.calibration import CalibrationFilm, split_by_patient
from service.audit.preprocessing import Preprocessing, model_input
from service.errors import PolicyError, RadiographError
from service.films.radiograph import Limits, decode

PICTURES = (".png", ".dcm", ".dicom", "")


@dataclass(frozen=True, slots=True)
class Listed:
    """A film on disk: where, whose, and in which split if the table says so."""

    path: Path
    patient: str
    split: str


@dataclass(frozen=True, slots=True)
class CalibrationSets:
    """What a folder gave. refused: file names that could not be decoded, with the error's code."""

    reference: list[CalibrationFilm]
    calibration: list[CalibrationFilm]
    refused: dict[str, str]


def _patient(path: Path) -> str:
    """A hash of the DICOM PatientID, or the file's name without what follows its first underscore."""
    try:
        identifier = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["PatientID"]).get("PatientID")
    except (InvalidDicomError, OSError, ValueError):
        identifier = None
    return hashlib.sha256(str(identifier or path.stem.split("_")[0]).encode()).hexdigest()


def _listed(folder: Path) -> Iterator[Listed]:
    table = folder / "manifest.csv"
    if table.exists():
        with table.open(newline="") as file:
            for row in csv.DictReader(file):
                yield Listed(folder / row["file"], row.get("patient_id") or row["file"], row.get("split", ""))
        return
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix.lower() in PICTURES and not path.name.startswith("."):
            yield Listed(path, _patient(path), "")


def read_calibration_folder(
    folder: Path,
    preprocessing: Preprocessing,
    limits: Limits,
    *,
    patients: Callable[[str], bool] = lambda _patient: True,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> CalibrationSets:
    """Decode a folder of clean films.

    A manifest.csv (columns file, patient_id and, if wanted, split) names the films; its splits `tuning` and
    `calibration` become the reference and the calibration set and other splits are left out. Without splits, a third
    of the patients become the reference. Without a manifest every PNG and DICOM below the folder counts, by DICOM
    PatientID (hashed in memory, never kept). Raises PolicyError when the folder holds no film.
    """
    listed = [item for item in _listed(folder) if patients(item.patient)]
    if {"tuning", "calibration"} <= {item.split for item in listed}:
        listed = [item for item in listed if item.split in ("tuning", "calibration")]
    if not listed:
        raise PolicyError("the folder holds no film")
    films: list[CalibrationFilm] = []
    splits: list[str] = []
    refused: dict[str, str] = {}
    for number, item in enumerate(listed, 1):
        try:
            radiograph = decode(item.path.read_bytes(), limits)
            films.append(CalibrationFilm(model_input(radiograph.pixels, preprocessing), item.patient, item.path.name))
            splits.append(item.split)
        except RadiographError as error:
            refused[item.path.name] = error.code
        progress(number, len(listed))
    if {"tuning", "calibration"} <= set(splits):
        reference = [i for i, split in enumerate(splits) if split == "tuning"]
        calibration = [i for i, split in enumerate(splits) if split == "calibration"]
    else:
        reference, calibration = split_by_patient(films)
    return CalibrationSets([films[i] for i in reference], [films[i] for i in calibration], refused)
