"""DICOM films that are told apart by their UIDs and pixels."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from tests.conftest import REPOSITORY
from tests.dicom_files import dicom_bytes

SIDE = 96
STUDY = "2.25.20"
ENCODING = ("transfer_syntax", "photometric", "modality")


def film(number: int, *, study: str = STUDY, side: int = SIDE, **changes: Any) -> bytes:
    """A film with all the attributes that its IOD demands; `changes` are its encoding, or elements by keyword.

    An element that is None is left out.
    """
    pixels = np.random.default_rng(number).integers(0, 4096, (side, side), dtype=np.uint16)
    return film_of(pixels, number, study, **changes)


def phantom(name: str, number: int, *, study: str = STUDY, photometric: str = "MONOCHROME2", **changes: Any) -> bytes:
    """A shipped example in another encoding; it looks the same in either photometric interpretation."""
    pixels = pydicom.dcmread(REPOSITORY / "models" / "examples" / f"{name}-monochrome2.dcm").pixel_array
    stored = pixels if photometric == "MONOCHROME2" else 4095 - pixels
    return film_of(stored, number, study, photometric=photometric, **changes)


def film_of(pixels: np.ndarray, number: int, study: str, **changes: Any) -> bytes:
    encoding = {name: changes.pop(name) for name in ENCODING if name in changes}
    return dicom_bytes(pixels, bits=12, change=_identify(number, study, changes), **encoding)


def _identify(number: int, study: str, changes: dict[str, Any]) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"2.25.1{number:06d}"
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, f"{study}.1"
        dataset.StudyDate = dataset.StudyTime = dataset.StudyID = dataset.PatientBirthDate = ""
        dataset.ReferringPhysicianName = dataset.PatientSex = ""
        dataset.InstanceNumber, dataset.SeriesNumber = number, 1
        dataset.PatientOrientation = ["L", "F"]
        for keyword, value in changes.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)

    return change
