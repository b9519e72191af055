"""Levels computed by hand: modality LUT, windows, VOI LUT, MONOCHROME1, bits and sign."""

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from service.errors import UnsupportedRadiograph
from service.films.radiograph import decode
from tests.dicom_files import dicom_bytes

RAMP = np.array([[0, 1, 2, 3, 4]], dtype=np.uint8)
FILM = (np.arange(48 * 64).reshape(48, 64) * 7 % 4096).astype(np.uint16)


def test_linear_window_by_hand() -> None:
    """PS3.3 C.11.2.1.2.1 with centre 2 and width 3: below 1 black, above 3 white, (x - 1.5) / 2 + 0.5 between."""
    pixels = decode(dicom_bytes(RAMP, WindowCenter=2, WindowWidth=3)).pixels
    assert pixels.dtype == np.float32
    assert pixels.tolist() == [[0.0, 0.25, 0.75, 1.0, 1.0]]


def test_linear_window_of_width_one_is_a_step() -> None:
    pixels = decode(dicom_bytes(RAMP, WindowCenter=2, WindowWidth=1)).pixels
    assert pixels.tolist() == [[0.0, 0.0, 1.0, 1.0, 1.0]]


def test_linear_exact_window_by_hand() -> None:
    pixels = decode(dicom_bytes(RAMP, WindowCenter=2, WindowWidth=4, VOILUTFunction="LINEAR_EXACT")).pixels
    assert pixels.tolist() == [[0.0, 0.25, 0.5, 0.75, 1.0]]


def test_sigmoid_window_by_hand() -> None:
    pixels = decode(dicom_bytes(RAMP, WindowCenter=2, WindowWidth=4, VOILUTFunction="SIGMOID")).pixels
    expected = [[1 / (1 + np.e**2), 1 / (1 + np.e), 0.5, np.e / (1 + np.e), np.e**2 / (1 + np.e**2)]]
    np.testing.assert_allclose(pixels, expected, atol=1e-7)


def test_a_steep_sigmoid_does_not_overflow() -> None:
    pixels = decode(dicom_bytes(FILM, bits=12, WindowCenter=2000, WindowWidth=1e-3, VOILUTFunction="SIGMOID")).pixels
    assert pixels.min() == 0.0
    assert pixels.max() == 1.0


def test_the_first_of_several_windows_counts() -> None:
    one = decode(dicom_bytes(RAMP, WindowCenter=2, WindowWidth=3))
    several = decode(dicom_bytes(RAMP, WindowCenter=[2, 100], WindowWidth=[3, 50]))
    assert several.pixels_sha256 == one.pixels_sha256


@pytest.mark.parametrize("tags", [{}, {"WindowCenter": "", "WindowWidth": ""}, {"WindowCenter": 3}])
def test_without_a_whole_window_the_films_own_range_counts(tags: dict[str, object]) -> None:
    pixels = decode(dicom_bytes(np.array([[10, 20, 30]], dtype=np.uint8), **tags)).pixels
    assert pixels.tolist() == [[0.0, 0.5, 1.0]]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_a_flat_film_without_window_is_grey(photometric: str) -> None:
    assert decode(dicom_bytes(np.full((3, 4), 7, np.uint8), photometric=photometric)).pixels.tolist() == [[0.5] * 4] * 3


def test_rescale_comes_before_the_window() -> None:
    """x = 2 becomes 2 * 10 - 5 = 15; LINEAR_EXACT with centre 15 and width 40 makes it 0.5, and x = 4 gives 1."""
    tags = {"RescaleSlope": 10, "RescaleIntercept": -5, "WindowCenter": 15, "WindowWidth": 40}
    pixels = decode(dicom_bytes(RAMP, **tags, VOILUTFunction="LINEAR_EXACT")).pixels
    assert pixels.tolist() == [[0.0, 0.25, 0.5, 0.75, 1.0]]


def _table(first: int, entries: list[int], bits: int) -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item["LUTDescriptor"].VR = "US"
    item.LUTData = entries
    item["LUTData"].VR = "US"
    return item


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_voi_lut_by_hand(syntax: str) -> None:
    """Entries begin at 1 and end at 3: values outside take the nearest entry; 255 of 8 bits is white."""
    tags = {"VOILUTSequence": [_table(1, [0, 51, 255], 8)], "WindowCenter": 99, "WindowWidth": 3}
    pixels = decode(dicom_bytes(RAMP, transfer_syntax=syntax, **tags)).pixels
    np.testing.assert_allclose(pixels, [[0.0, 0.0, 0.2, 1.0, 1.0]], atol=1e-7)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_modality_lut_by_hand(syntax: str) -> None:
    """0, 1, 2 become 100, 300, 500; no window, so their range is stretched."""
    tags = {"ModalityLUTSequence": [_table(0, [100, 300, 500], 16)]}
    pixels = decode(dicom_bytes(np.array([[0, 1, 2]], np.uint8), transfer_syntax=syntax, **tags)).pixels
    assert pixels.tolist() == [[0.0, 0.5, 1.0]]


def _byte_table(entries: bytes, count: int) -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [count, 0, 8]
    item["LUTDescriptor"].VR = "US"
    item.LUTData = entries
    item["LUTData"].VR = "OW"
    return item


def test_voi_lut_of_packed_bytes() -> None:
    table = _byte_table(bytes([0, 51, 102, 153, 255, 0]), 5)
    pixels = decode(dicom_bytes(RAMP, VOILUTSequence=[table])).pixels
    np.testing.assert_allclose(pixels, [[0.0, 0.2, 0.4, 0.6, 1.0]], atol=1e-7)


@pytest.mark.parametrize("table", [_table(0, [0, 1, 256], 8), _table(0, [0, 1, 2], 17), _byte_table(bytes(4), 9)])
def test_contradictory_tables_are_refused(table: Dataset) -> None:
    with pytest.raises(UnsupportedRadiograph):
        decode(dicom_bytes(RAMP, VOILUTSequence=[table]))


@pytest.mark.parametrize("window", [None, (1500, 900)])
def test_a_monochrome1_film_and_its_inverted_twin_decode_equal(window: tuple[float, float] | None) -> None:
    """LINEAR is not symmetric about its centre: the twin of centre c is 4095 - c + 1."""
    tags = {"WindowCenter": window[0], "WindowWidth": window[1]} if window else {}
    twin_tags = {"WindowCenter": 4096 - window[0], "WindowWidth": window[1]} if window else {}
    one = decode(dicom_bytes(FILM, bits=12, photometric="MONOCHROME1", **tags))
    two = decode(dicom_bytes(4095 - FILM, bits=12, photometric="MONOCHROME2", **twin_tags))
    assert one.pixels_sha256 == two.pixels_sha256
    assert one.pixels[0, 0] == 1.0


def test_the_presentation_lut_is_ignored() -> None:
    plain = decode(dicom_bytes(RAMP, photometric="MONOCHROME1"))
    assert decode(dicom_bytes(RAMP, photometric="MONOCHROME1", PresentationLUTShape="INVERSE")).pixels_sha256 == (
        plain.pixels_sha256
    )
    assert decode(dicom_bytes(RAMP, PresentationLUTShape="INVERSE")).pixels[0, 0] == 0.0


@pytest.mark.parametrize("bits", range(8, 17))
def test_signed_films_of_every_depth(bits: int) -> None:
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    film = np.array([[low, -1, 0, high]], dtype=np.int16)
    pixels = decode(dicom_bytes(film, bits=bits)).pixels
    np.testing.assert_allclose(pixels[0], (film[0].astype(float) - low) / (high - low), atol=1e-7)


@pytest.mark.parametrize("bits", range(8, 17))
def test_bits_above_bits_stored_are_ignored(bits: int) -> None:
    """Old overlays live there."""
    film = np.array([[0, 100, 2**bits - 1]], dtype=np.uint16)
    junk = film | np.uint16(0xFFFF ^ (2**bits - 1))
    assert decode(dicom_bytes(junk, bits=bits)).pixels_sha256 == decode(dicom_bytes(film, bits=bits)).pixels_sha256


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": "NaN", "WindowWidth": "10"},
        {"WindowCenter": "10", "WindowWidth": "NaN"},
        {"WindowCenter": "10", "WindowWidth": "inf"},
        {"WindowCenter": "1e300", "WindowWidth": "10"},
        {"WindowCenter": "10", "WindowWidth": "0"},
        {"WindowCenter": "10", "WindowWidth": "-5"},
        {"WindowCenter": "10", "WindowWidth": "0.5"},
        {"WindowCenter": "10", "WindowWidth": "0", "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": "10", "WindowWidth": "20", "VOILUTFunction": "CUBIC"},
        {"RescaleSlope": "0", "RescaleIntercept": "0"},
        {"RescaleSlope": "NaN", "RescaleIntercept": "0"},
        {"RescaleSlope": "1e30", "RescaleIntercept": "0"},
        {"RescaleSlope": "1", "RescaleIntercept": "-inf"},
        {"RescaleSlope": "one"},
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_nonsense_numbers_are_refused(tags: dict[str, str]) -> None:
    with pytest.raises(UnsupportedRadiograph):
        decode(dicom_bytes(RAMP, change=lambda dataset: _plant(dataset, tags)))


def _plant(dataset: Dataset, tags: dict[str, str]) -> None:
    """Decimal strings that pydicom would not let through are planted as other text of the same bytes."""
    for keyword, text in tags.items():
        dataset.add_new(keyword, "CS" if keyword == "VOILUTFunction" else "LO", text)
