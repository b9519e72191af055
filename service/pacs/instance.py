"""The little of a DICOM file that is read before it is accepted: no pixel data, bounded work."""

import struct
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.uid import ComputedRadiographyImageStorage, DigitalXRayImageStorageForPresentation

from service.errors import RadiographError, TooManyBytes
from service.films.dicom import code_string, read_tags
from service.films.radiograph import Limits, film_format

FILM_CLASSES = (ComputedRadiographyImageStorage, DigitalXRayImageStorageForPresentation)
LARGEST_HEADER_BYTES = 16 * 1024 * 1024
UID_LENGTH = 64
KEYWORDS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "ViewPosition",
    "BodyPartExamined", "StationName", "Rows", "Columns",
)  # fmt: skip
MALFORMED = (
    ValueError, TypeError, AttributeError, KeyError, IndexError, EOFError, OverflowError, RecursionError,
    NotImplementedError, struct.error,
)  # fmt: skip


class NotUnderstood(RadiographError):
    """The header cannot be read, or lacks a UID that every DICOM object has."""

    code = "not_understood"


class UnsupportedSopClass(RadiographError):
    """A DICOM object that is not a CR or DX image for presentation."""

    code = "unsupported_sop_class"


class UidMismatch(RadiographError):
    """The data set's UIDs are not those that were announced or asked for."""

    code = "uid_mismatch"


@dataclass(frozen=True, slots=True)
class Instance:
    """One DICOM film as its header describes it."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    width: int
    height: int
    station: str
    attributes: dict[str, str]


def read_instance(data: bytes, limits: Limits) -> Instance:
    """Raises RadiographError: NotUnderstood, UnsupportedTransferSyntax, TooManyBytes, EmptyBody."""
    if film_format(data, limits) != "dicom":
        raise NotUnderstood("the file is not DICOM")
    try:
        syntax, dataset, header_bytes = read_tags(data, KEYWORDS)
        instance = _instance(dataset, syntax)
    except MALFORMED:
        raise NotUnderstood("the header cannot be read") from None
    if header_bytes > LARGEST_HEADER_BYTES:
        raise TooManyBytes(f"the header has more than {LARGEST_HEADER_BYTES} bytes")
    return instance


def require_film(instance: Instance) -> None:
    if instance.sop_class_uid not in FILM_CLASSES:
        raise UnsupportedSopClass("only CR and DX images for presentation are audited")


def _instance(dataset: Dataset, syntax: str) -> Instance:
    codes = {"modality": "Modality", "view_position": "ViewPosition", "body_part": "BodyPartExamined"}
    found = {name: code_string(dataset.get(keyword)) for name, keyword in codes.items()}
    return Instance(
        sop_class_uid=_uid(dataset, "SOPClassUID"),
        sop_instance_uid=_uid(dataset, "SOPInstanceUID"),
        study_instance_uid=_uid(dataset, "StudyInstanceUID"),
        series_instance_uid=_uid(dataset, "SeriesInstanceUID"),
        width=_count(dataset, "Columns"),
        height=_count(dataset, "Rows"),
        station=str(dataset.get("StationName") or "").strip()[:UID_LENGTH],
        attributes={"format": "dicom", **{n: code for n, code in found.items() if code}, "transfer_syntax": syntax},
    )


def _uid(dataset: Dataset, keyword: str) -> str:
    value = str(dataset.get(keyword) or "").strip("\0 ")
    if not 0 < len(value) <= UID_LENGTH or not set(value) <= set("0123456789."):
        raise ValueError(keyword)
    return value


def _count(dataset: Dataset, keyword: str) -> int:
    """0 where it is missing: the decoder will say what is wrong with the film."""
    value = dataset.get(keyword)
    return value if isinstance(value, int) and 0 <= value <= 65535 else 0
