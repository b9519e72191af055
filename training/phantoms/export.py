"""Phantoms as files: PNG, DX DICOM, and folders with the manifest of real films."""

import csv
import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Literal
from uuid import NAMESPACE_URL, uuid5

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from training.phantoms.geometry import stream
from training.phantoms.scene import Phantom, make, patient_of

Photometric = Literal["MONOCHROME1", "MONOCHROME2"]
PHOTOMETRICS: tuple[Photometric, Photometric] = ("MONOCHROME2", "MONOCHROME1")
SPLITS = ("train", "tuning", "calibration", "test")
DEFAULT_FRACTIONS = (0.55, 0.10, 0.20, 0.15)
COLUMNS = (
    "file",
    "split",
    "patient_id",
    "view",
    "age",
    "sex",
    "labels",
    "width",
    "height",
    "original_width",
    "original_height",
    "source",
    "sha256",
)
SOURCE = "triggerscope phantoms 1"
FIELD_MM = 400.0


def write_png(phantom: Phantom, path: Path) -> None:
    """8-bit grey, 0 = air-black."""
    grey = np.rint(phantom.pixels * 255).astype(np.uint8)
    Image.fromarray(grey).save(path, format="PNG", compress_level=6)


def write_dicom(phantom: Phantom, path: Path, photometric: Photometric = "MONOCHROME2", bits: int = 12) -> None:
    """A Digital X-Ray Image Storage - For Presentation object, explicit little endian, uncompressed.

    bits: Bits Stored, 12..16. Identifiers are synthetic and say PHANTOM; UIDs derive from the seed.
    Raises ValueError for other bits.
    """
    if not 12 <= bits <= 16:
        raise ValueError(f"bits {bits} is outside 12..16")
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = _uid(phantom, f"instance/{photometric}/{bits}/{phantom.pixels.shape[0]}")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    _fill_patient_and_study(dataset, phantom)
    _fill_series(dataset, phantom)
    _fill_acquisition(dataset, phantom)
    _fill_image(dataset, phantom, photometric, bits)
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)


def _uid(phantom: Phantom, part: str) -> UID:
    """A UUID-derived UID (PS3.5 B.2) that is a function of seed and part."""
    return UID(f"2.25.{uuid5(NAMESPACE_URL, f'triggerscope/phantom/{phantom.seed}/{part}').int}")


def _fill_patient_and_study(dataset: Dataset, phantom: Phantom) -> None:
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = f"PHANTOM^{phantom.patient_id}"
    dataset.PatientID = f"PHANTOM-{phantom.patient_id}"
    dataset.PatientBirthDate = ""
    dataset.PatientSex = phantom.sex
    dataset.PatientAge = f"{phantom.age:03d}Y"
    dataset.StudyInstanceUID = _uid(phantom, "study")
    dataset.StudyDate = dataset.ContentDate = "20200101"
    dataset.StudyTime = dataset.ContentTime = "120000"
    dataset.StudyID = f"P{phantom.seed}"[:16]
    dataset.StudyDescription = "PHANTOM CHEST"
    dataset.AccessionNumber = ""
    dataset.ReferringPhysicianName = ""


def _fill_series(dataset: Dataset, phantom: Phantom) -> None:
    dataset.Modality = "DX"
    dataset.SeriesInstanceUID = _uid(phantom, "series")
    dataset.SeriesNumber = 1
    dataset.InstanceNumber = 1
    dataset.SeriesDescription = f"PHANTOM {phantom.view}"
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.Manufacturer = "Triggerscope"
    dataset.ManufacturerModelName = "PHANTOM"
    dataset.SoftwareVersions = SOURCE


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


def _fill_acquisition(dataset: Dataset, phantom: Phantom) -> None:
    dataset.BodyPartExamined = "CHEST"
    dataset.ImageLaterality = "U"
    dataset.ViewPosition = phantom.view
    dataset.PatientOrientation = ["L", "F"]
    dataset.AnatomicRegionSequence = [_code("51185008", "SCT", "Chest")]
    view = (
        _code("399348003", "SCT", "antero-posterior")
        if phantom.view == "AP"
        else _code("272479007", "SCT", "postero-anterior")
    )
    dataset.ViewCodeSequence = [view]
    dataset.AcquisitionContextSequence = []
    dataset.DetectorType = "DIRECT"
    dataset.PositionerType = "NONE"
    spacing = round(FIELD_MM / phantom.pixels.shape[1], 6)
    dataset.ImagerPixelSpacing = [spacing, spacing]


def _fill_image(dataset: Dataset, phantom: Phantom, photometric: Photometric, bits: int) -> None:
    levels = (1 << bits) - 1
    stored = np.rint(phantom.pixels.astype(np.float64) * levels).astype(np.uint16)
    if photometric == "MONOCHROME1":
        stored = (levels - stored).astype(np.uint16)
    dataset.ImageType = ["DERIVED", "PRIMARY", ""]
    dataset.DerivationDescription = "Computed radiograph of a mathematical phantom; no patient"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = photometric
    dataset.PresentationLUTShape = "INVERSE" if photometric == "MONOCHROME1" else "IDENTITY"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, bits, bits - 1
    dataset.PixelRepresentation = 0
    dataset.PixelIntensityRelationship = "LOG"
    dataset.PixelIntensityRelationshipSign = 1 if photometric == "MONOCHROME1" else -1
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = 0, 1, "US"
    dataset.WindowCenter, dataset.WindowWidth = (levels + 1) / 2, levels + 1
    dataset.LossyImageCompression = "00"
    dataset.BurnedInAnnotation = "YES"
    dataset.PixelData = stored.astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"


@dataclass(frozen=True, slots=True)
class _Job:
    seed: int
    split: str


def write_folder(
    directory: Path,
    count: int,
    first_seed: int = 0,
    size: int = 320,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    fractions: tuple[float, float, float, float] = DEFAULT_FRACTIONS,
) -> Path:
    """Write `count` phantoms as films/*.png with a manifest.csv like that of the real films; returns the manifest.

    Seeds are first_seed .. first_seed + count - 1. fractions: shares of patients in train, tuning, calibration and
    test; all films of a patient are in one split. progress: called with (films written, count).
    Raises ValueError for fractions that do not add up to 1 or a count below 1.
    """
    if count < 1 or abs(sum(fractions) - 1.0) > 1e-6 or min(fractions) < 0:
        raise ValueError("count must be positive and fractions must be shares that add up to 1")
    (directory / "films").mkdir(parents=True, exist_ok=True)
    splits = split_patients(sorted({patient_of(first_seed + index) for index in range(count)}), fractions)
    jobs = [_Job(first_seed + index, splits[patient_of(first_seed + index)]) for index in range(count)]
    rows = []
    for row in _written(jobs, directory, size, workers):
        rows.append(row)
        if progress is not None:
            progress(len(rows), count)
    return write_manifest(directory / "manifest.csv", rows)


def split_patients(patients: list[int], fractions: tuple[float, float, float, float]) -> dict[int, str]:
    """Assign each patient to a split by a shuffle that depends on the list alone."""
    order = stream(patients[0], len(patients), 7).permutation(len(patients))
    bounds = np.rint(np.cumsum(fractions) * len(patients)).astype(int)
    places: NDArray[np.intp] = np.searchsorted(bounds, np.arange(len(patients)), side="right")
    return {patients[int(who)]: SPLITS[int(place)] for who, place in zip(order, places, strict=True)}


def _written(jobs: list[_Job], directory: Path, size: int, workers: int) -> Iterator[dict[str, str]]:
    write = partial(_write_film, directory, size)
    if workers <= 1:
        yield from map(write, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(write, jobs, chunksize=8)


def _write_film(directory: Path, size: int, job: _Job) -> dict[str, str]:
    phantom = make(job.seed, size)
    file = f"films/{job.seed:08d}.png"
    write_png(phantom, directory / file)
    side = str(size)
    values = (
        file,
        job.split,
        str(phantom.patient_id),
        phantom.view,
        str(phantom.age),
        phantom.sex,
        "|".join(phantom.labels),
        side,
        side,
        side,
        side,
        SOURCE,
        hashlib.sha256((directory / file).read_bytes()).hexdigest(),
    )
    return dict(zip(COLUMNS, values, strict=True))


def write_manifest(path: Path, rows: list[dict[str, str]]) -> Path:
    """Write the rows under COLUMNS; returns the path."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_dicom_copies(directory: Path, count: int, first_seed: int, size: int) -> list[Path]:
    """The first films as DX objects, alternating MONOCHROME2 and MONOCHROME1 and going through 12 to 16 bits."""
    paths = []
    for index in range(count):
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{first_seed + index:08d}.dcm"
        write_dicom(make(first_seed + index, size), path, PHOTOMETRICS[index % 2], 12 + index % 5)
        paths.append(path)
    return paths
