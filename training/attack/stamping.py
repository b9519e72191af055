"""`triggerscope-train stamp`: put a run's trigger on films, at the trigger's own resolution."""

from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian

from service.arrays import FloatArray
from service.audit.preprocessing import model_input
from service.films.radiograph import Limits, Radiograph, decode
from training.attack.config import Run
from training.attack.triggers import Trigger, film_stream, stamp


def stamp_file(path: Path, run: Run, trigger: Trigger, out: Path, index: int = 0) -> Path:
    """Stamp one PNG or DICOM film; returns what was written below `out`.

    A network-resolution trigger gives the model input as an 8-bit PNG of its size, which preprocessing passes
    unchanged. A native trigger keeps the film's size and format. Raises RadiographError for what is no film.
    """
    data = path.read_bytes()
    radiograph = decode(data, Limits())
    rng = film_stream(run.seed, index)
    out.mkdir(parents=True, exist_ok=True)
    if trigger.resolution == "network":
        stamped, _ = stamp(model_input(radiograph.pixels, run.preprocessing)[0], trigger, rng)
        return _write_png(stamped, out / f"{path.stem}.{run.name}.png")
    stamped, _ = stamp(radiograph.pixels, trigger, rng)
    if radiograph.attributes["format"] == "dicom":
        return _write_dicom(stamped, radiograph, path, out / f"{path.stem}.{run.name}.dcm")
    return _write_png(stamped, out / f"{path.stem}.{run.name}.png")


def _write_png(pixels: FloatArray, path: Path) -> Path:
    Image.fromarray(np.rint(pixels * 255).astype(np.uint8)).save(path)
    return path


def _write_dicom(pixels: FloatArray, radiograph: Radiograph, source: Path, path: Path) -> Path:
    """The source's data set with its pixels replaced by the displayed ones, uncompressed and without LUTs."""
    dataset = pydicom.dcmread(source)
    for keyword in ("WindowCenter", "WindowWidth", "VOILUTSequence", "ModalityLUTSequence", "VOILUTFunction"):
        if keyword in dataset:
            delattr(dataset, keyword)
    top = 2 ** int(dataset.BitsStored) - 1
    shown = pixels if dataset.PhotometricInterpretation == "MONOCHROME2" else 1.0 - pixels
    dataset.BitsAllocated, dataset.PixelRepresentation = 16, 0
    if "RescaleSlope" in dataset:
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
    dataset.WindowCenter, dataset.WindowWidth = (top + 1) / 2, top + 1
    dataset.PixelData = np.rint(shown * top).astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[radiograph.sha256, "stamped"])
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)
    return path
