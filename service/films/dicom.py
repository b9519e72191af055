"""DICOM -> StoredPixels. Runs in the decoder process: the file meta and the pixel data element are read by hand.

Ignored on purpose: overlays, the presentation LUT (MONOCHROME1 is inverted here instead), pixel padding.
"""

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from service.errors import (
    SeveralFrames,
    TooManyPixels,
    Truncated,
    UnsupportedFormat,
    UnsupportedRadiograph,
    UnsupportedTransferSyntax,
)
from service.films.codestreams import DECODERS, FrameSpec, decompress
from service.films.grayscale import LookupTable, Rescale, Stored, StoredPixels, Values, Window, every_value, levels

PREFIX, PREFIX_OFFSET = b"DICM", 128
NATIVE = {ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian}
LONG_VRS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
TRANSFER_SYNTAX = 0x00020010
PIXEL_DATA, PIXEL_DATA_KINDS = 0x7FE00010, (0x7FE00008, 0x7FE00009, 0x7FE00010)
ITEM, SEQUENCE_END, UNDEFINED_LENGTH = 0xFFFEE000, 0xFFFEE0DD, 0xFFFFFFFF
CODE_STRING = re.compile(r"[A-Z0-9_ ]{1,16}")
KEYWORDS = (
    "Modality",
    "ViewPosition",
    "BodyPartExamined",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "RescaleIntercept",
    "RescaleSlope",
    "ModalityLUTSequence",
    "VOILUTSequence",
)

pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE


@dataclass(frozen=True, slots=True)
class Header:
    """The data set before its pixel data, and where these are in the file."""

    dataset: Dataset
    transfer_syntax: str
    pixel_offset: int
    pixel_length: int
    pixel_vr: bytes


def read_dicom(data: bytes, max_pixels: int) -> StoredPixels:
    """One grey frame in a transfer syntax of NATIVE or DECODERS. Raises RadiographError, or what a decoder raises."""
    header = read_header(data)
    spec = _frame_spec(header.dataset, max_pixels)
    modality, voi = _modality(header.dataset), _voi(header.dataset)
    photometric = str(header.dataset.PhotometricInterpretation).strip()
    if header.transfer_syntax in NATIVE:
        stored = _native(data, header, spec)
    else:
        stored = decompress(header.transfer_syntax, _frame(data, header), spec)
    values: Values = every_value(spec.bits_allocated, spec.bits_stored, signed=spec.signed)
    scale = levels(stored, values, modality, voi, inverted=photometric == "MONOCHROME1")
    return StoredPixels(stored, scale, _attributes(header, photometric, spec))


def read_header(data: bytes) -> Header:
    """Everything before the pixel data. Raises RadiographError, EOFError, or what pydicom raises on malformed tags."""
    syntax, dataset, end = read_tags(data, KEYWORDS)
    return Header(dataset, syntax, *_pixel_element(data, end, dataset))


def read_tags(data: bytes, keywords: tuple[str, ...]) -> tuple[str, Dataset, int]:
    """The transfer syntax, the elements of `keywords` before the pixel data, and where these begin.

    Raises RadiographError, EOFError, or what pydicom raises on malformed tags.
    """
    syntax, start = _file_meta(data)
    if syntax not in NATIVE and syntax not in DECODERS:
        raise UnsupportedTransferSyntax("the transfer syntax is not decoded here")
    file = io.BytesIO(data)
    file.seek(start)
    dataset = read_dataset(
        file,
        is_implicit_VR=syntax == ImplicitVRLittleEndian,
        is_little_endian=syntax != ExplicitVRBigEndian,
        stop_when=_begins_pixel_data,
        specific_tags=[BaseTag(pydicom.datadict.tag_for_keyword(keyword) or 0) for keyword in keywords],
    )
    return syntax, dataset, file.tell()


def _begins_pixel_data(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return tag in PIXEL_DATA_KINDS


def _file_meta(data: bytes) -> tuple[str, int]:
    """The transfer syntax, and where the data set begins (PS3.10 7.1). The preamble may be missing."""
    position = PREFIX_OFFSET + len(PREFIX) if data[PREFIX_OFFSET : PREFIX_OFFSET + 4] == PREFIX else 0
    syntax = None
    for tag, value, end in _meta_elements(data, position):
        if tag == TRANSFER_SYNTAX:
            syntax = value.rstrip(b"\0 ").decode("ascii", "replace")
        position = end
    if syntax is None:
        raise UnsupportedFormat("the file names no transfer syntax")
    return syntax, position


def _meta_elements(data: bytes, position: int) -> Iterator[tuple[int, bytes, int]]:
    """Tag, value and end of each element of group 2; explicit VR little endian always."""
    while position + 8 <= len(data):
        group, element, vr, length = struct.unpack_from("<HH2sH", data, position)
        if group != 2:
            return
        position += 8
        if vr in LONG_VRS:
            (length,) = struct.unpack_from("<I", data, position)
            position += 4
        if position + length > len(data):
            raise Truncated("the file ends within its file meta")
        yield group << 16 | element, data[position : position + length], position + length
        position += length


def _pixel_element(data: bytes, position: int, dataset: Dataset) -> tuple[int, int, bytes]:
    """Offset, length and VR of the Pixel Data element that begins at `position`."""
    implicit, little_endian = dataset.original_encoding
    order = "<" if little_endian else ">"
    if position + 8 > len(data):
        if position != len(data) or "Rows" in dataset:
            raise Truncated("the file ends before its pixel data")
        raise UnsupportedRadiograph("the file has no pixel data")
    group, element = struct.unpack_from(f"{order}HH", data, position)
    if group << 16 | element != PIXEL_DATA:
        raise UnsupportedRadiograph("the file has no integer pixel data")
    if implicit:
        return position + 8, int(struct.unpack_from("<I", data, position + 4)[0]), b"OW"
    vr, length = struct.unpack_from(f"{order}2s2xI", data, position + 4)
    if vr not in (b"OB", b"OW"):
        raise UnsupportedRadiograph("the pixel data have another value representation than OB or OW")
    return position + 12, int(length), vr


def _integer(dataset: Dataset, keyword: str, default: int | None = None) -> int:
    value = dataset.get(keyword)
    if value in (None, "") and default is not None:
        return default
    if not isinstance(value, int):
        raise UnsupportedRadiograph(f"{keyword} is missing or no whole number")
    return int(value)


def _frame_spec(dataset: Dataset, max_pixels: int) -> FrameSpec:
    _check_grey_single_frame(dataset)
    rows, columns = _integer(dataset, "Rows"), _integer(dataset, "Columns")
    if rows < 1 or columns < 1:
        raise UnsupportedRadiograph("the film has no pixels")
    if rows * columns > max_pixels:
        raise TooManyPixels(f"the film has more than {max_pixels} pixels")
    allocated, stored = _integer(dataset, "BitsAllocated"), _integer(dataset, "BitsStored")
    if allocated not in (8, 16) or not 8 <= stored <= allocated:
        raise UnsupportedRadiograph("Bits Stored is outside 8 to 16, or does not fit Bits Allocated of 8 or 16")
    if _integer(dataset, "HighBit") != stored - 1:
        raise UnsupportedRadiograph("High Bit is not Bits Stored - 1")
    signed = _integer(dataset, "PixelRepresentation")
    if signed not in (0, 1):
        raise UnsupportedRadiograph("Pixel Representation is neither 0 nor 1")
    return FrameSpec(rows, columns, allocated, stored, signed == 1)


def _check_grey_single_frame(dataset: Dataset) -> None:
    if _integer(dataset, "SamplesPerPixel", 1) != 1:
        raise UnsupportedRadiograph("the film has several samples per pixel")
    if str(dataset.get("PhotometricInterpretation")).strip() not in ("MONOCHROME1", "MONOCHROME2"):
        raise UnsupportedRadiograph("the film is neither MONOCHROME1 nor MONOCHROME2")
    frames = _integer(dataset, "NumberOfFrames", 1)
    if frames > 1:
        raise SeveralFrames("the file has several frames")
    if frames < 1:
        raise UnsupportedRadiograph("Number of Frames is below 1")


def _number(dataset: Dataset, keyword: str) -> float | None:
    """The first value of a decimal string; None where it is absent or empty."""
    value: Any = dataset.get(keyword)
    if isinstance(value, pydicom.multival.MultiValue):
        value = value[0] if value else None
    return None if value is None or not str(value).strip() else float(value)


def _modality(dataset: Dataset) -> LookupTable | Rescale:
    if table := _table(dataset, "ModalityLUTSequence"):
        return table
    slope, intercept = _number(dataset, "RescaleSlope"), _number(dataset, "RescaleIntercept")
    return Rescale(1.0 if slope is None else slope, 0.0 if intercept is None else intercept)


def _voi(dataset: Dataset) -> LookupTable | Window | None:
    """The first VOI LUT, or else the first window, or None. A window without its centre or width counts as none."""
    if table := _table(dataset, "VOILUTSequence"):
        return table
    center, width = _number(dataset, "WindowCenter"), _number(dataset, "WindowWidth")
    if center is None or width is None:
        return None
    match str(dataset.get("VOILUTFunction") or "LINEAR").strip():
        case "LINEAR" | "LINEAR_EXACT" | "SIGMOID" as function:
            return Window(center, width, function)
    raise UnsupportedRadiograph("the VOI LUT function is none of the standard's")


def _table(dataset: Dataset, keyword: str) -> LookupTable | None:
    """The first table of a LUT sequence (PS3.3 C.11.1.1.1): entries as words, or as bytes of 8 bits."""
    if not dataset.get(keyword):
        return None
    item = dataset[keyword].value[0]
    descriptor, entries = item.get("LUTDescriptor"), item.get("LUTData")
    if descriptor is None or len(descriptor) != 3 or entries is None:
        raise UnsupportedRadiograph("a lookup table has no descriptor or no data")
    count, first, bits = (int(value) for value in descriptor)
    count = count or 65536
    if not 8 <= bits <= 16:
        raise UnsupportedRadiograph("a lookup table's entries are outside 8 to 16 bits")
    return LookupTable(_entries(entries, count, bits, little_endian=bool(dataset.original_encoding[1])), first, bits)


def _entries(entries: Any, count: int, bits: int, *, little_endian: bool) -> np.ndarray[Any, np.dtype[np.uint16]]:
    if not isinstance(entries, bytes):
        table = np.atleast_1d(np.asarray(entries, dtype=np.int64)) & 0xFFFF
    elif bits == 8 and len(entries) in (count, count + count % 2):
        table = np.frombuffer(entries, np.uint8)[:count].astype(np.int64)
    else:
        table = np.frombuffer(entries, "<u2" if little_endian else ">u2").astype(np.int64)
    if len(table) != count or int(table.max()) >= 2**bits:
        raise UnsupportedRadiograph("a lookup table's data do not fit its descriptor")
    return table.astype(np.uint16)


def _native(data: bytes, header: Header, spec: FrameSpec) -> Stored:
    count, width = spec.rows * spec.columns, spec.bits_allocated // 8
    if header.pixel_length == UNDEFINED_LENGTH:
        raise UnsupportedRadiograph("uncompressed pixel data have no length")
    if header.pixel_length < count * width or header.pixel_offset + count * width > len(data):
        raise Truncated("the pixel data end before the picture does")
    little_endian = header.dataset.original_encoding[1]
    if width == 2:
        words = np.frombuffer(data, "<u2" if little_endian else ">u2", count, header.pixel_offset)
        return words.astype(np.uint16, copy=False).reshape(spec.rows, spec.columns)
    if little_endian or header.pixel_vr == b"OB":
        return np.frombuffer(data, np.uint8, count, header.pixel_offset).reshape(spec.rows, spec.columns)
    return _unswapped(data, header.pixel_offset, count).reshape(spec.rows, spec.columns)


def _unswapped(data: bytes, offset: int, count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Bytes that were written as big endian words (PS3.5 annex A.3, D.1)."""
    words = (count + 1) // 2
    if offset + 2 * words > len(data):
        raise Truncated("the pixel data end before the picture does")
    return np.frombuffer(data, ">u2", words, offset).astype("<u2").view(np.uint8)[:count]


def _frame(data: bytes, header: Header) -> bytes:
    """The fragments of encapsulated pixel data (PS3.5 A.4), joined, without the offset table."""
    if header.pixel_length != UNDEFINED_LENGTH:
        raise UnsupportedRadiograph("compressed pixel data are not encapsulated")
    fragments = list(_items(data, header.pixel_offset))
    if len(fragments) < 2:
        raise Truncated("the pixel data hold no frame")
    return b"".join(fragments[1:])


def _items(data: bytes, position: int) -> Iterator[bytes]:
    while position + 8 <= len(data):
        group, element, length = struct.unpack_from("<HHI", data, position)
        tag, position = group << 16 | element, position + 8
        if tag == SEQUENCE_END:
            return
        if tag != ITEM or length == UNDEFINED_LENGTH:
            raise UnsupportedRadiograph("the encapsulated pixel data are malformed")
        if position + length > len(data):
            break
        yield data[position : position + length]
        position += length
    raise Truncated("the pixel data end before their last fragment does")


def _attributes(header: Header, photometric: str, spec: FrameSpec) -> dict[str, str]:
    codes = {
        "modality": header.dataset.get("Modality"),
        "view_position": header.dataset.get("ViewPosition"),
        "body_part": header.dataset.get("BodyPartExamined"),
    }
    return {
        "format": "dicom",
        **{name: code for name, value in codes.items() if (code := code_string(value))},
        "transfer_syntax": header.transfer_syntax,
        "photometric_interpretation": photometric,
        "bits_stored": str(spec.bits_stored),
    }


def code_string(value: Any) -> str | None:
    """A value of CS as PS3.5 6.2 defines it; None for anything else, which might be free text."""
    code = str(value or "").strip()
    return code if CODE_STRING.fullmatch(code) else None
