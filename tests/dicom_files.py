"""DICOM files for tests: given pixels in a given transfer syntax, with planted identifiers that nothing may repeat."""

import base64
import io
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import gdcm
import jpeg_ls
import numpy as np
import openjpeg.utils
import rle.utils
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

PLANTED_NAME, PLANTED_ID = "PLANTED^NAME", "PLANTED-ID"
HTJ2K_FRAME = base64.b64decode(  # 16 x 20, (row * 150 + column * 97) % 4096, 16 bits; made by OpenJPH 0.26.3
    "/0//UQApQAAAAAAUAAAAEAAAAAAAAAAAAAAAFAAAABAAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCIkJCQkJCQ"
    "kJCQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAJYAAf+TwAAmhfQFB3QAwAATAHL8Awd0AMAAEsAAE4D3AAd0ALRK"
    "qwDCNADAABNAABVAtf4AAnQAWMUKqwAYwHdWAMAAFTAABXCyZWVl1+GLdQCiihIlStTgEEZCAey4AMAAK+AAFrhAIBAIBAKB7+p6enECeAAq"
    "VVRUVFRUVFRU/v6GPYxge/Yxgey8AP/Z"
)
GDCM_SYNTAXES = {
    JPEGLossless: gdcm.TransferSyntax.JPEGLosslessProcess14,
    JPEGLosslessSV1: gdcm.TransferSyntax.JPEGLosslessProcess14_1,
}


def dicom_bytes(
    pixels: np.ndarray,
    *,
    transfer_syntax: str = ExplicitVRLittleEndian,
    photometric: Literal["MONOCHROME1", "MONOCHROME2", "RGB"] = "MONOCHROME2",
    bits: int | None = None,
    modality: Literal["DX", "CR"] = "DX",
    preamble: bool = True,
    change: Callable[[Dataset], object] | None = None,
    **tags: Any,
) -> bytes:
    """A file of stored values: uint8, int8, uint16 or int16; bits is Bits Stored, all of the type's by default.

    tags set or, where None, remove elements by keyword; `change` gets the finished data set.
    """
    if UID(transfer_syntax) in GDCM_SYNTAXES:
        plain = dicom_bytes(
            pixels, photometric=photometric, bits=bits, modality=modality, preamble=preamble, change=change, **tags
        )
        return transcoded(plain, GDCM_SYNTAXES[UID(transfer_syntax)])
    dataset = _dataset(pixels, UID(transfer_syntax), photometric, bits or 8 * pixels.dtype.itemsize, modality)
    dataset.PixelData, dataset["PixelData"].VR = _pixel_data(pixels, transfer_syntax, dataset.BitsStored)
    for keyword, value in tags.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    if change is not None:
        change(dataset)
    return saved(dataset, preamble=preamble)


def _dataset(pixels: np.ndarray, syntax: UID, photometric: str, bits: int, modality: str) -> FileDataset:
    meta = FileMetaDataset()
    sop_class = DigitalXRayImageStorageForPresentation if modality == "DX" else ComputedRadiographyImageStorage
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, UID("2.25.1")
    meta.TransferSyntaxUID = syntax
    implicit, little_endian = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    dataset = FileDataset(
        "", {}, file_meta=meta, preamble=b"\0" * 128, is_implicit_VR=implicit, is_little_endian=little_endian
    )
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, UID("2.25.1")
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = UID("2.25.2"), UID("2.25.3")
    dataset.PatientName, dataset.PatientID, dataset.AccessionNumber = PLANTED_NAME, PLANTED_ID, "PLANTED-ACC"
    dataset.Modality, dataset.ViewPosition, dataset.BodyPartExamined = modality, "PA", "CHEST"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else pixels.shape[2]
    dataset.PhotometricInterpretation = photometric
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8 * pixels.dtype.itemsize, bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    return dataset


def _pixel_data(pixels: np.ndarray, syntax: str, bits: int) -> tuple[bytes, str]:
    if syntax == ExplicitVRBigEndian:
        return pixels.astype(pixels.dtype.newbyteorder(">")).tobytes(), "OB" if pixels.dtype.itemsize == 1 else "OW"
    if syntax in ENCODERS:
        return encapsulate([ENCODERS[syntax](pixels, bits)]), "OB"
    raw = pixels.tobytes()
    return raw + b"\0" * (len(raw) % 2), "OW"


def _jpeg_baseline(pixels: np.ndarray, _bits: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


def _rle(pixels: np.ndarray, _bits: int) -> bytes:
    rows, columns = pixels.shape
    return rle.utils.encode_pixel_data(
        pixels.tobytes(),
        rows=rows,
        columns=columns,
        samples_per_pixel=1,
        bits_allocated=8 * pixels.dtype.itemsize,
        byteorder="<",
        number_of_frames=1,
    )


def _jpeg_ls(pixels: np.ndarray, bits: int, lossy_error: int = 0) -> bytes:
    """JPEG-LS knows no sign: negative values go in as patterns of `bits` bits."""
    rows, columns = pixels.shape
    patterns = (pixels.astype(np.int64) & (2**bits - 1)).astype(f"u{pixels.dtype.itemsize}")
    return bytes(jpeg_ls.encode_buffer(patterns.tobytes(), rows, columns, 1, bits, lossy_error))


ENCODERS: dict[str, Callable[[np.ndarray, int], bytes]] = {
    JPEGBaseline8Bit: _jpeg_baseline,
    JPEGLSLossless: _jpeg_ls,
    JPEGLSNearLossless: partial(_jpeg_ls, lossy_error=2),
    JPEG2000Lossless: lambda pixels, bits: openjpeg.utils.encode_array(pixels, bits_stored=bits),
    JPEG2000: lambda pixels, bits: openjpeg.utils.encode_array(pixels, bits_stored=bits, signal_noise_ratios=[60]),
    RLELossless: _rle,
}


def saved(dataset: FileDataset, *, preamble: bool = True) -> bytes:
    """The file's bytes; without its preamble it begins with group 2."""
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue() if preamble else file.getvalue()[132:]


def transcoded(data: bytes, syntax: int) -> bytes:
    """The same film in another transfer syntax, by GDCM, which reads and writes files only."""
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "before.dcm"), Path(folder, "after.dcm")
        before.write_bytes(data)
        reader = gdcm.ImageReader()
        reader.SetFileName(str(before))
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
        if not reader.Read():
            raise ValueError("GDCM cannot read the file")
        change.SetInput(reader.GetImage())
        if not change.Change():
            raise ValueError("GDCM cannot encode the film")
        writer = gdcm.ImageWriter()
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        writer.SetFileName(str(after))
        if not writer.Write():
            raise ValueError("GDCM cannot write the file")
        return after.read_bytes()
