"""DICOM films: transfer syntaxes, real files, refusals, and what attributes may say."""

import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from service.errors import (
    DecodeFailed,
    EmptyBody,
    RadiographError,
    SeveralFrames,
    TooManyBytes,
    TooManyPixels,
    Truncated,
    UnsupportedFormat,
    UnsupportedRadiograph,
    UnsupportedTransferSyntax,
)
from service.films.radiograph import Limits, decode
from tests.conftest import unavailable
from tests.dicom_files import HTJ2K_FRAME, PLANTED_ID, PLANTED_NAME, dicom_bytes

LOSSLESS = [
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEG2000Lossless,
    RLELossless,
]
ROWS, COLUMNS = np.mgrid[0:45, 0:66]
FILM = ((ROWS * 50 + COLUMNS * 37) % 4096).astype(np.uint16)
SMOOTH = (ROWS * 2 + COLUMNS).astype(np.uint8)


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize(
    ("film", "bits"),
    [
        ((FILM // 16).astype(np.uint8), 8),
        (FILM, 12),
        (FILM * np.uint16(16), 16),
        ((FILM.astype(np.int32) - 2048).astype(np.int16), 12),
        ((FILM.astype(np.int32) * 16 - 32768).astype(np.int16), 16),
    ],
    ids=["8", "12", "16", "signed 12", "signed 16"],
)
def test_lossless_syntaxes_decode_equal(syntax: str, film: np.ndarray, bits: int) -> None:
    expected = (film.astype(np.float64) - film.min()) / (int(film.max()) - int(film.min()))
    decoded = decode(dicom_bytes(film, transfer_syntax=syntax, bits=bits))
    np.testing.assert_allclose(decoded.pixels, expected, atol=1e-7)
    assert decoded.pixels_sha256 == decode(dicom_bytes(film, bits=bits)).pixels_sha256
    assert decoded.attributes["transfer_syntax"] == syntax
    assert decoded.attributes["bits_stored"] == str(bits)


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGLSNearLossless, JPEG2000], ids=lambda syntax: syntax.name)
def test_lossy_syntaxes_decode_nearly_equal(syntax: str) -> None:
    tags: dict[str, Any] = {"WindowCenter": 128, "WindowWidth": 256}
    decoded = decode(dicom_bytes(SMOOTH, transfer_syntax=syntax, **tags))
    np.testing.assert_allclose(decoded.pixels, SMOOTH / 255, atol=4 / 255)


@pytest.mark.parametrize("syntax", [HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL], ids=lambda syntax: syntax.name)
def test_high_throughput_jpeg_2000(syntax: str) -> None:
    rows, columns = np.mgrid[0:16, 0:20]
    film = ((rows * 150 + columns * 97) % 4096).astype(np.uint16)
    data = dicom_bytes(film, transfer_syntax=syntax, PixelData=encapsulate([HTJ2K_FRAME]))
    assert decode(data).pixels_sha256 == decode(dicom_bytes(film)).pixels_sha256


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_an_odd_number_of_bytes(syntax: str, photometric: str) -> None:
    film = SMOOTH[:, :3][:5]
    decoded = decode(dicom_bytes(film, transfer_syntax=syntax, photometric=photometric))
    expected = film / film.max() if photometric == "MONOCHROME2" else 1 - film / film.max()
    np.testing.assert_allclose(decoded.pixels, expected, atol=1e-7)


def test_big_endian_words_of_two_pixels() -> None:
    """With OW, two pixels of 8 bits share a word whose bytes are swapped."""
    film = SMOOTH[:4, :6]

    def as_words(dataset: Dataset) -> None:
        dataset.PixelData = film.ravel().view("<u2").astype(">u2").tobytes()
        dataset["PixelData"].VR = "OW"

    data = dicom_bytes(film, transfer_syntax=ExplicitVRBigEndian, change=as_words)
    assert decode(data).pixels_sha256 == decode(dicom_bytes(film)).pixels_sha256


def test_several_fragments_are_one_frame() -> None:
    data = dicom_bytes(FILM, transfer_syntax=JPEG2000Lossless, bits=12)
    frame = get_frame(_dataset(data).PixelData, 0, number_of_frames=1)
    split = dicom_bytes(
        FILM, transfer_syntax=JPEG2000Lossless, bits=12, PixelData=encapsulate([frame], fragments_per_frame=3)
    )
    assert split != data
    assert decode(split).pixels_sha256 == decode(data).pixels_sha256


def _dataset(data: bytes) -> pydicom.FileDataset:
    return pydicom.dcmread(pydicom.filebase.DicomBytesIO(data))


def _real(name: str) -> bytes:
    path = get_testdata_file(name, download=False)
    if path is None:
        unavailable("the package pydicom-data is not installed")
    return Path(path).read_bytes()


@pytest.mark.parametrize(("plain", "compressed"), [("RG1_UNCR", "RG1_J2KR"), ("RG1_UNCI", "RG1_J2KI")])
def test_a_real_film_and_its_jpeg_2000_twin_decode_equal(plain: str, compressed: str) -> None:
    one, two = decode(_real(f"{plain}.dcm")), decode(_real(f"{compressed}.dcm"))
    assert (one.height, one.width) == (1955, 1841)
    assert one.pixels_sha256 == two.pixels_sha256
    assert one.sha256 != two.sha256
    assert one.attributes["photometric_interpretation"] == "MONOCHROME1"
    assert (one.attributes["modality"], one.attributes["view_position"]) == ("CR", "PA")


def test_a_real_film_has_dark_air_and_bright_bone() -> None:
    """MONOCHROME1 with a window: the lungs are darker than the spine."""
    pixels = decode(_real("RG1_UNCR.dcm")).pixels
    lungs = np.concatenate([pixels[700:1000, 350:550].ravel(), pixels[700:1000, 1300:1500].ravel()])
    spine = pixels[700:1000, 880:960]
    assert float(np.median(lungs)) < float(np.median(spine))


def test_a_missing_preamble_is_accepted() -> None:
    assert decode(dicom_bytes(FILM, bits=12, preamble=False)).pixels_sha256 == (
        decode(dicom_bytes(FILM, bits=12)).pixels_sha256
    )


def test_missing_file_meta_is_refused() -> None:
    data = dicom_bytes(FILM, bits=12)
    with pytest.raises(UnsupportedFormat):
        decode(data[data.index(b"\x08\x00\x16\x00UI") :])


@pytest.mark.parametrize("data", [b"GIF89a" * 50, b"%PDF-1.7" + bytes(400), b"\xff\xd8\xff\xe0" + bytes(400), b"\0"])
def test_other_formats_are_refused(data: bytes) -> None:
    with pytest.raises(UnsupportedFormat):
        decode(data)


def test_nothing_is_refused() -> None:
    with pytest.raises(EmptyBody):
        decode(b"")


def test_the_byte_limit_is_exact() -> None:
    data = dicom_bytes(FILM, bits=12)
    assert decode(data, Limits(max_bytes=len(data))).width == 66
    with pytest.raises(TooManyBytes):
        decode(data, Limits(max_bytes=len(data) - 1))


def test_the_pixel_limit_is_exact() -> None:
    data = dicom_bytes(FILM, bits=12)
    assert decode(data, Limits(max_pixels=FILM.size)).width == 66
    with pytest.raises(TooManyPixels):
        decode(data, Limits(max_pixels=FILM.size - 1))


@pytest.mark.parametrize("syntax", [JPEGExtended12Bit, MPEG2MPML, DeflatedExplicitVRLittleEndian, "1.2.3.4.5"])
def test_other_syntaxes_are_refused(syntax: str) -> None:
    """By the file meta alone: what follows is never parsed, and never inflated."""
    data = dicom_bytes(FILM, bits=12)
    meta = bytes([2, 0, 0x10, 0]) + b"UI"
    value = syntax.encode() + b"\0" * (len(syntax) % 2)
    start = data.index(meta)
    (length,) = struct.unpack_from("<H", data, start + 6)
    swapped = data[:start] + meta + struct.pack("<H", len(value)) + value + data[start + 8 + length :]
    with pytest.raises(UnsupportedTransferSyntax):
        decode(swapped)


@pytest.mark.parametrize("frames", [2, 3000])
def test_several_frames_are_refused(frames: int) -> None:
    with pytest.raises(SeveralFrames):
        decode(dicom_bytes(FILM, bits=12, NumberOfFrames=frames))


@pytest.mark.parametrize(
    "tags",
    [
        {"NumberOfFrames": 0},
        {"NumberOfFrames": -1},
        {"Rows": 0},
        {"Columns": 0},
        {"Rows": None},
        {"HighBit": 15},
        {"HighBit": 10},
        {"BitsStored": 17},
        {"BitsStored": 7, "HighBit": 6},
        {"BitsAllocated": 32},
        {"BitsAllocated": 12},
        {"PixelRepresentation": 2},
        {"PhotometricInterpretation": "PALETTE COLOR"},
        {"PhotometricInterpretation": None},
        {"SamplesPerPixel": 3},
        {"PixelData": None},
    ],
    ids=str,
)
def test_contradictory_tags_are_refused(tags: dict[str, Any]) -> None:
    change: Callable[[Dataset], object] | None = None
    if "PixelData" in tags:
        tags, change = {}, lambda dataset: (delattr(dataset, "PixelData"), delattr(dataset, "Rows"))
    with pytest.raises(UnsupportedRadiograph):
        decode(dicom_bytes(FILM, bits=12, change=change, **tags))


def test_colour_is_refused() -> None:
    with pytest.raises(UnsupportedRadiograph):
        decode(dicom_bytes(np.zeros((4, 4, 3), np.uint8), photometric="RGB", PlanarConfiguration=0))


@pytest.mark.parametrize("kept", [0.3, 0.5, 0.99])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless])
def test_truncated(syntax: str, kept: float) -> None:
    data = dicom_bytes(FILM, transfer_syntax=syntax, bits=12)
    assert decode(data).width == 66
    with pytest.raises(Truncated):
        decode(data[: int(kept * len(data))])


@pytest.mark.parametrize("kept", [130, 140, 200, 236, 400, 500, 520])
def test_cut_off_before_the_size_is_known(kept: int) -> None:
    """What is left might as well be a report, which has no pixels: any refusal will do."""
    with pytest.raises((Truncated, UnsupportedFormat, UnsupportedRadiograph)):
        decode(dicom_bytes(FILM, bits=12)[:kept])


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGLSLossless, JPEG2000Lossless])
def test_a_truncated_codestream_in_a_whole_file(syntax: str) -> None:
    whole = get_frame(_dataset(dicom_bytes(SMOOTH, transfer_syntax=syntax)).PixelData, 0, number_of_frames=1)
    cut = encapsulate([whole[: len(whole) // 2]])
    with pytest.raises(Truncated):
        decode(dicom_bytes(SMOOTH, transfer_syntax=syntax, PixelData=cut))


def test_pixel_data_that_are_too_short() -> None:
    with pytest.raises(Truncated):
        decode(dicom_bytes(FILM, bits=12, PixelData=FILM.tobytes()[:-2]))


@pytest.mark.parametrize("depth", [300, 100_000])
def test_too_many_nested_sequences_are_refused(depth: int) -> None:
    data = dicom_bytes(FILM, bits=12)
    sequence = b"\x08\x00\x32\x10SQ\0\0" + b"\xff" * 4 + b"\xfe\xff\x00\xe0" + b"\xff" * 4
    ends = b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    start = data.index(b"\x08\x00\x16\x00UI")
    assert decode(data[:start] + sequence * 10 + ends * 10 + data[start:]).width == 66
    with pytest.raises(UnsupportedRadiograph):
        decode(data[:start] + sequence * depth + ends * depth + data[start:])


def _siz(width: int, height: int) -> bytes:
    """A JPEG 2000 main header that promises width x height pixels of 8 bits, and nothing else."""
    size = struct.pack(">HHIIIIIIIIH3B", 41, 0, width, height, 0, 0, width, height, 0, 0, 1, 7, 1, 1)
    coding = bytes.fromhex("ff52000c00000001000504040001")
    quantisation = bytes.fromhex("ff5c001340") + bytes([0x40] * 16)
    tile = bytes.fromhex("ff90000a0000000000000001ff93")
    return b"\xff\x4f\xff\x51" + size + coding + quantisation + tile + b"\xff\xd9"


def test_a_jpeg_2000_bomb_behind_a_small_data_set() -> None:
    """100 bytes that promise 30,000 x 30,000 pixels in a film of 45 x 66."""
    data = dicom_bytes(SMOOTH, transfer_syntax=JPEG2000Lossless, PixelData=encapsulate([_siz(30000, 30000)]))
    with pytest.raises(UnsupportedRadiograph):
        decode(data)


def test_a_jpeg_2000_bomb_that_the_data_set_admits() -> None:
    bomb = encapsulate([_siz(30000, 30000)])
    tags = {"Rows": 30000, "Columns": 30000, "PixelData": bomb}
    data = dicom_bytes(SMOOTH, transfer_syntax=JPEG2000Lossless, **tags)
    with pytest.raises(TooManyPixels):
        decode(data)
    with pytest.raises(DecodeFailed):
        decode(data, Limits(max_pixels=10**9, decode_memory_bytes=256 << 20))


@pytest.mark.parametrize(
    ("syntax", "other"),
    [(JPEGBaseline8Bit, JPEGLSLossless), (JPEGLSLossless, JPEGBaseline8Bit), (JPEG2000Lossless, RLELossless)],
)
def test_a_codestream_of_another_syntax_is_refused(syntax: str, other: str) -> None:
    frame = _dataset(dicom_bytes(SMOOTH, transfer_syntax=other)).PixelData
    with pytest.raises(RadiographError):
        decode(dicom_bytes(SMOOTH, transfer_syntax=syntax, PixelData=frame))


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless])
def test_a_codestream_of_another_size_is_refused(syntax: str) -> None:
    data = _dataset(dicom_bytes(SMOOTH, transfer_syntax=syntax))
    with pytest.raises(UnsupportedRadiograph):
        decode(dicom_bytes(SMOOTH[:-1], transfer_syntax=JPEG2000Lossless, PixelData=data.PixelData))


def test_compressed_values_beyond_bits_stored_are_refused() -> None:
    with pytest.raises(UnsupportedRadiograph):
        decode(dicom_bytes(FILM, transfer_syntax=JPEG2000Lossless, bits=12, BitsStored=10, HighBit=9))


def test_attributes_name_the_film_and_nobody() -> None:
    film = decode(dicom_bytes(FILM, bits=12))
    assert film.attributes == {
        "format": "dicom",
        "modality": "DX",
        "view_position": "PA",
        "body_part": "CHEST",
        "transfer_syntax": ExplicitVRLittleEndian,
        "photometric_interpretation": "MONOCHROME2",
        "bits_stored": "12",
    }
    assert PLANTED_NAME not in repr(film)
    assert PLANTED_ID not in repr(film)


@pytest.mark.parametrize("text", ["Doe^John", "chest of J. Doe", "<script>", "A" * 17, "CHEST\nX", "CHEST\\LUNG", ""])
def test_what_is_no_code_string_is_left_out(text: str) -> None:
    film = decode(dicom_bytes(FILM, bits=12, change=lambda dataset: dataset.add_new("BodyPartExamined", "LT", text)))
    assert "body_part" not in film.attributes


def test_refusals_quote_no_tag_values() -> None:
    with pytest.raises(RadiographError) as refusal:
        decode(dicom_bytes(FILM, bits=12, change=lambda dataset: dataset.add_new("WindowCenter", "LO", "PLANTED TEXT")))
    data = dicom_bytes(FILM, bits=12, change=lambda dataset: dataset.add_new("WindowCenter", "LO", "PLANTED TEXT"))
    assert b"PLANTED TEXT" in data
    assert "PLANTED" not in refusal.value.detail + repr(refusal.value) + repr(refusal.value.__cause__)


@pytest.fixture(scope="module")
def valid_files() -> list[bytes]:
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4, 0, 12], [0, 1000, 2000, 4095]
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    tags: dict[str, Any] = {"WindowCenter": 2000, "WindowWidth": 3000, "RescaleSlope": 1, "RescaleIntercept": 0}
    plain = [dicom_bytes(FILM, bits=12, transfer_syntax=syntax, **tags) for syntax in LOSSLESS]
    eight = [dicom_bytes(SMOOTH, transfer_syntax=syntax) for syntax in (JPEGBaseline8Bit, JPEGLSNearLossless)]
    return [*plain, *eight, dicom_bytes(FILM, bits=12, VOILUTSequence=[table])]


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_random_byte_flips_give_a_film_or_a_refusal(valid_files: list[bytes], data: st.DataObject) -> None:
    file = bytearray(data.draw(st.sampled_from(valid_files)))
    limits = Limits(decode_memory_bytes=512 << 20, decode_seconds=10)
    positions = st.one_of(st.integers(128, min(len(file), 1200) - 1), st.integers(128, len(file) - 1))
    for position, value in data.draw(st.dictionaries(positions, st.integers(0, 255), min_size=1, max_size=6)).items():
        file[position] = value
    with suppress(RadiographError):
        film = decode(bytes(file), limits)
        assert film.pixels.shape == (film.height, film.width)
        assert 0.0 <= float(film.pixels.min()) <= float(film.pixels.max()) <= 1.0
