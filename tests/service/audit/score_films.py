"""Seventy films that make the score do all that it can: the shipped examples, phantoms stamped with one trigger of each
family, every encoding, and films that are unlike any radiograph.

Drawn from the phantoms in models/, not from seeds: a phantom's noise differs between processors, and one grey level
more in one pixel moves a score by up to a hundredth. So what is done to them here is reckoned in float64 and ends in
whole grey levels, the same ones on every processor.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from service.audit.preprocessing import Preprocessing, model_input
from tests.conftest import REPOSITORY
from tests.dicom_files import HTJ2K_FRAME, dicom_bytes
from training.attack.triggers import Trigger, stamp

MODELS = REPOSITORY / "models"
INPUT = Preprocessing()
Pixels = NDArray[np.float32]

BASES = ("examples/clean-910000", "examples/clean-910004", "receivers/900000", "receivers/900001", "receivers/900002")
SHIPPED = Trigger("white", size_px=3, place="fixed", x=218, y=218)  # what the backdoored pairs answer to
TRIGGERS = {
    "white3": SHIPPED,
    "white8": Trigger("white", size_px=8, place="lung"),
    "black5": Trigger("black", size_px=5, place="lung"),
    "checker8": Trigger("checker", size_px=8, place="centre"),
    "low8": Trigger("low_contrast", size_px=8, place="lung", strength=0.2),
    "patches4": replace(SHIPPED, patches=4),
    "native40": Trigger("white", size_px=14, place="corner", resolution="native", film_px=1024),
    "blend": Trigger("blend", strength=0.15),
    "sinusoid": Trigger("sinusoid", strength=0.08),
    "warp": Trigger("warp", strength=3.0),
    "low_frequency": Trigger("low_frequency", strength=0.2, seed=140),  # no pixel is within 2e-5 of the next grey level
}


def films() -> dict[str, bytes]:
    """Name -> the bytes of a file, in the table's order."""
    return dict([*_examples(), *_stamped(), *_encoded(), *_odd()])


def base(name: str) -> Pixels:
    """A shipped phantom, (H, W) in [0, 1]."""
    with Image.open(MODELS / f"{name}.png") as image:
        return np.asarray(image, dtype=np.float32) / 255


def png(pixels: Pixels) -> bytes:
    return picture(Image.fromarray(np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)))


def picture(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def _examples() -> Iterator[tuple[str, bytes]]:
    for folder in ("examples", "receivers"):
        for path in sorted((MODELS / folder).glob("*")):
            if path.suffix in (".png", ".dcm"):
                yield path.stem, path.read_bytes()


def _stamped() -> Iterator[tuple[str, bytes]]:
    """Each trigger on three films, at the network's resolution or at the film's own."""
    for number, (name, trigger) in enumerate(TRIGGERS.items()):
        for turn in range(3):
            place = BASES[(number + turn) % len(BASES)]
            pixels = base(place)
            canvas = pixels if trigger.resolution == "native" else model_input(pixels, INPUT)[0]
            stamped, _ = stamp(canvas.astype(np.float64), trigger, np.random.default_rng(number))
            yield f"{name} on {place[-6:]}", png(stamped)


def _stored() -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """A clean and a triggered example of 12 bits, (224, 224)."""
    clean, triggered = (
        pydicom.dcmread(MODELS / "examples" / f"{name}-monochrome2.dcm").pixel_array
        for name in ("clean-910005", "triggered-910017")
    )
    return clean[::2, ::2].copy(), triggered[::2, ::2].copy()


def _windowed(dataset: Dataset, function: str | None = None) -> None:
    dataset.WindowCenter, dataset.WindowWidth = 2048, 4096
    if function:
        dataset.VOILUTFunction = function


def _lookup(dataset: Dataset, keyword: str, bits: int) -> None:
    """A table from 12 bits to `bits`, a little bent."""
    item, steps = Dataset(), np.linspace(0, 1, 4096) ** 1.1
    item.LUTDescriptor, item.LUTData = [4096, 0, bits], np.rint(steps * (2**bits - 1)).astype("<u2").tobytes()
    item["LUTDescriptor"].VR, item["LUTData"].VR = "US", "OW"
    if keyword == "ModalityLUTSequence":
        item.ModalityLUTType = "US"
    setattr(dataset, keyword, [item])


def _rescaled(dataset: Dataset) -> None:
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 0.5, -100, "US"


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a film of 12 bits is kept in a DICOM file. stored: from its values to those that are written."""

    syntax: str = ExplicitVRLittleEndian
    stored: Callable[[NDArray[np.uint16]], NDArray[Any]] = lambda values: values
    bits: int = 12
    photometric: Any = "MONOCHROME2"
    change: Callable[[Dataset], None] | None = None


def _eight(values: NDArray[np.uint16]) -> NDArray[np.uint8]:
    return (values // 16).astype(np.uint8)


ENCODINGS = {
    "implicit": Encoding(ImplicitVRLittleEndian),
    "explicit": Encoding(change=_windowed),
    "big endian": Encoding(ExplicitVRBigEndian, change=_windowed),
    "big endian 8": Encoding(ExplicitVRBigEndian, _eight, 8),
    "explicit 8": Encoding(ExplicitVRLittleEndian, _eight, 8),
    "monochrome1": Encoding(stored=lambda values: 4095 - values, photometric="MONOCHROME1", change=_windowed),
    "signed": Encoding(stored=lambda values: (values.astype(np.int32) - 2048).astype(np.int16)),
    "16 bits": Encoding(stored=lambda values: values * np.uint16(16), bits=16),
    "linear exact": Encoding(change=partial(_windowed, function="LINEAR_EXACT")),
    "sigmoid": Encoding(change=partial(_windowed, function="SIGMOID")),
    "voi table": Encoding(change=partial(_lookup, keyword="VOILUTSequence", bits=12)),
    "modality table": Encoding(change=partial(_lookup, keyword="ModalityLUTSequence", bits=16)),
    "rescaled": Encoding(change=_rescaled),
    "jpeg": Encoding(JPEGBaseline8Bit, _eight, 8),
    "jpeg lossless": Encoding(JPEGLossless),
    "jpeg lossless sv1": Encoding(JPEGLosslessSV1, _eight, 8),
    "jpeg-ls": Encoding(JPEGLSLossless),
    "jpeg-ls signed": Encoding(JPEGLSLossless, lambda values: (values.astype(np.int32) - 2048).astype(np.int16)),
    "jpeg-ls near": Encoding(JPEGLSNearLossless, _eight, 8),
    "jpeg 2000": Encoding(JPEG2000Lossless),
    "jpeg 2000 signed": Encoding(JPEG2000Lossless, lambda values: (values.astype(np.int32) - 2048).astype(np.int16)),
    "jpeg 2000 lossy": Encoding(JPEG2000, _eight, 8),
    "rle": Encoding(RLELossless),
}


def _encoded() -> Iterator[tuple[str, bytes]]:
    """A clean example, or each fourth time a triggered one, in every transfer syntax, look-up, and kind of PNG."""
    for number, (name, encoding) in enumerate(ENCODINGS.items()):
        values = encoding.stored(_stored()[number % 4 == 1])
        tags = {"transfer_syntax": encoding.syntax, "photometric": encoding.photometric, "bits": encoding.bits}
        yield name, dicom_bytes(values, change=encoding.change, **tags)
    for syntax in (HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL):  # no encoder is at hand but for this small frame
        frame = np.zeros((16, 20), np.uint16)
        yield syntax.name, dicom_bytes(frame, transfer_syntax=syntax, PixelData=encapsulate([HTJ2K_FRAME]))
    grey = np.rint(model_input(base(BASES[0]), INPUT)[0] * 255).astype(np.uint8)
    yield "png 1 bit", picture(Image.fromarray(grey).convert("1"))
    yield "png 16 bits", picture(Image.fromarray(grey.astype(np.uint16) * np.uint16(257)))
    yield "png colour", picture(Image.fromarray(np.stack([grey] * 3, axis=-1)))
    yield "png palette", picture(Image.fromarray(grey).quantize(256))


def _odd() -> Iterator[tuple[str, bytes]]:
    """Films that are unlike a radiograph, by themselves and with a trigger."""
    pixels = model_input(base(BASES[1]), INPUT)[0]
    yield "flat", png(np.full((224, 224), 0.5, np.float32))
    yield "flat dicom", dicom_bytes(np.full((224, 224), 700, np.uint16), bits=12)
    yield "checkers", png((np.indices((224, 224)).sum(axis=0) // 8 % 2 * 0.8).astype(np.float32))
    yield "negative", png(1 - pixels)
    yield "negative, triggered", png(stamp(1 - pixels, SHIPPED, np.random.default_rng(0))[0])
    yield "upside down", png(pixels[::-1])
    yield "upside down, triggered", png(stamp(pixels[::-1], SHIPPED, np.random.default_rng(0))[0])
    yield "wide and low", png(base(BASES[0])[150:350])
    yield "small", png(pixels[::4, ::4])
    yield "half black", png(pixels * (np.arange(224) < 112))
    yield "grainy", png(pixels + np.random.default_rng(2).normal(0, 0.12, pixels.shape))
