"""Phantoms: the same seed gives the same film, physics has the right sign, files read back, nothing is a shortcut."""

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import DigitalXRayImageStorageForPresentation

from training.phantoms import LABELS, NO_FINDING, Scene, draw_scene, make, render, write_dicom, write_folder, write_png
from training.phantoms.anatomy import Chest, build
from training.phantoms.contact_sheet import write_contact_sheet
from training.phantoms.devices import KINDS, Device
from training.phantoms.export import COLUMNS, Photometric, split_patients
from training.phantoms.film import CORTICAL_BONE_PER_CM, SOFT_TISSUE_PER_CM, attenuation, expose
from training.phantoms.findings import OPACITIES, SHAPES, Finding, Label, overlay
from training.phantoms.geometry import Frame, stream
from training.phantoms.scene import chest_of, patient_of

SIZE = 128
SEED = 2024


@pytest.fixture(scope="module")
def scene() -> Scene:
    """A patient without findings or devices."""
    return replace(draw_scene(SEED), findings=(), devices=())


@pytest.fixture(scope="module")
def chest(scene: Scene) -> Chest:
    return chest_of(scene, SIZE)


def nepers(scene: Scene, findings: Sequence[Finding] = ()) -> np.ndarray:
    return attenuation(chest_of(replace(scene, findings=tuple(findings)), SIZE))


def base_of(chest: Chest, side: int) -> np.ndarray:
    """The lowest 4 cm of lung above the dome of one side, clear of heart and wall."""
    above = chest.dome - chest.y
    return (chest.x * side > 8.5) & (above > 0) & (above < 4) & (np.abs(chest.x) < chest.outer - 1)


def test_the_same_seed_gives_the_same_film() -> None:
    first, second = make(SEED, SIZE), make(SEED, SIZE)
    assert first.pixels.tobytes() == second.pixels.tobytes()
    assert replace(first, pixels=second.pixels) == second


def test_other_seeds_give_other_films() -> None:
    assert not np.array_equal(make(SEED, SIZE).pixels, make(SEED + 1, SIZE).pixels)


def test_pixels_are_in_range_and_the_open_beam_is_dark() -> None:
    film = make(SEED, SIZE)
    assert film.pixels.dtype == np.float32
    assert film.pixels.shape == (SIZE, SIZE)
    assert 0.0 <= film.pixels.min() < 0.1
    assert 0.7 < film.pixels.max() <= 1.0


@pytest.mark.parametrize("size", [63, 4097])
def test_absurd_sizes_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=r"outside 64\.\.4096"):
        make(SEED, size)


def test_a_film_shows_the_same_at_another_size(scene: Scene) -> None:
    small, large = chest_of(scene, 96).lung, chest_of(scene, 192).lung
    averaged = large.reshape(96, 2, 96, 2).mean(axis=(1, 3))
    assert np.abs(averaged - small).mean() < 0.1  # cm


def test_lungs_are_darker_than_the_mediastinum(scene: Scene, chest: Chest) -> None:
    pixels = render(scene, SIZE)
    lungs, middle = chest.lung > 10, (np.abs(chest.x) < 1.2) & (np.abs(chest.y - 5) < 3)
    assert np.median(pixels[lungs]) + 0.2 < np.median(pixels[middle])


def test_attenuation_is_the_sum_of_the_path_lengths(chest: Chest) -> None:
    one = np.ones_like(chest.x)
    slab = replace(chest, soft=10 * one, lung=8 * one, density=0.25 * one, vessels=0 * one, bone=2 * one)
    expected = SOFT_TISSUE_PER_CM * (10 + 2) + (CORTICAL_BONE_PER_CM - SOFT_TISSUE_PER_CM) * 2
    np.testing.assert_allclose(attenuation(slab), expected, rtol=1e-6)


def test_the_detector_returns_the_path_of_a_uniform_slab_and_poisson_noise(scene: Scene) -> None:
    technique = replace(scene.technique, scatter=0.0, photons=1e6, blur_cm=0.0)
    signal = expose(np.full((256, 256), 2.0, np.float32), technique, 10.0, stream(1))
    quanta = 1e6 / 10.0**2 * np.exp(-2.0)
    assert signal.mean() == pytest.approx(2.0, abs=0.002)
    blur_factor = 0.82  # white noise through a Gaussian of sigma 0.3 px
    assert signal.std() == pytest.approx(blur_factor / np.sqrt(quanta), rel=0.25)


def test_scatter_lowers_the_measured_attenuation_of_dense_parts(scene: Scene) -> None:
    field = np.full((64, 64), 0.5, np.float32)
    field[24:40, 24:40] = 4.0
    clean, foggy = (
        expose(field, replace(scene.technique, scatter=scatter, photons=1e8), 4.0, stream(1)) for scatter in (0.0, 0.5)
    )
    assert foggy[32, 32] < clean[32, 32] - 0.5


def test_frames_map_pixels_to_centimetres_and_back() -> None:
    frame = Frame(200, 18.0, 1.0, -2.0, 0.1)
    x, y = frame.coordinates()
    points = np.stack([x[[3, 150], [7, 90]], y[[3, 150], [7, 90]]], axis=1)
    np.testing.assert_allclose(frame.to_pixels(points), [[7.5, 3.5], [90.5, 150.5]], atol=1e-3)


def test_a_larger_heart_shows_a_wider_bright_middle(scene: Scene) -> None:
    finding = Finding("Cardiomegaly", 1, 1.0, 7)
    anatomy = scene.anatomy
    normal, large = nepers(scene), nepers(scene, [finding])
    chest = build(anatomy, scene.frame.resized(SIZE))
    beside = (chest.x > 6.5) & (chest.x < 8.5) & (np.abs(chest.y - anatomy.heart_y) < 1.5)
    assert (large - normal)[beside].mean() > 0.2


@pytest.mark.parametrize("side", [-1, 1])
def test_an_effusion_brightens_the_base_of_its_side_only(scene: Scene, chest: Chest, side: int) -> None:
    rise = nepers(scene, [Finding("Effusion", side, 0.8, 7)]) - nepers(scene)
    assert rise[base_of(chest, side)].mean() > 0.5
    assert np.abs(rise[base_of(chest, -side)]).max() < 1e-5


@pytest.mark.parametrize("side", [-1, 1])
def test_a_pneumothorax_darkens_the_apex_of_its_side_only(scene: Scene, chest: Chest, side: int) -> None:
    change = nepers(scene, [Finding("Pneumothorax", side, 0.9, 7)]) - nepers(scene)
    apex = (np.abs(chest.y - chest.anatomy.apex_y - 2.0) < 1.0) & (chest.lung > 4)
    assert change[apex & (chest.x * side > 0)].mean() < -0.15
    assert np.abs(change[apex & (chest.x * side < 0)]).max() < 1e-5


@pytest.mark.parametrize("label", ["Consolidation", "Infiltration", "Mass", "Nodule", "Pneumonia", "Edema", "Fibrosis"])
def test_opacities_only_add_tissue_to_the_lung(chest: Chest, label: Label) -> None:
    opaque = overlay(chest, [Finding(label, 1, 0.7, 11)])
    change = attenuation(opaque) - attenuation(chest)
    assert change.min() > -1e-5
    assert change.max() > 0.05
    assert np.abs(change[chest.lung == 0]).max() < 1e-5


def test_emphysema_is_more_transparent_and_lower(scene: Scene, chest: Chest) -> None:
    hollow = chest_of(replace(scene, findings=(Finding("Emphysema", 1, 0.9, 7),)), SIZE)
    lungs = chest.lung > 10
    assert (hollow.density[lungs] < chest.density[lungs]).mean() > 0.95
    assert hollow.dome[SIZE // 2].mean() > chest.dome[SIZE // 2].mean()


def test_every_label_is_drawn_and_acts_on_something() -> None:
    assert set(LABELS) == set(SHAPES) | set(OPACITIES)
    assert len(LABELS) == 14


def test_labels_and_shares_are_like_those_of_nih() -> None:
    labels = [[finding.label for finding in draw_scene(seed).findings] for seed in range(1500)]
    assert {label for film in labels for label in film} == set(LABELS)
    assert np.mean([not film for film in labels]) == pytest.approx(0.35, abs=0.04)
    assert np.mean([len(film) > 1 for film in labels if film]) == pytest.approx(0.44, abs=0.05)
    effusion = [film for film in labels if "Effusion" in film]
    others = [film for film in labels if "Effusion" not in film]
    assert np.mean(["Atelectasis" in film for film in effusion]) > np.mean(["Atelectasis" in film for film in others])


def test_made_labels_say_no_finding_alone() -> None:
    for seed in range(12):
        labels = make(seed, 64).labels
        assert labels == (NO_FINDING,) or (set(labels) <= set(LABELS) and list(labels) == sorted(labels))


def test_devices_are_independent_of_findings_and_views() -> None:
    """No pair of device and label is associated beyond chance (Bonferroni over all pairs, fixed seeds)."""
    scenes = [draw_scene(seed) for seed in range(3000)]
    devices = np.array([[kind in {device.kind for device in s.devices} for kind in KINDS] for s in scenes], float)
    labels = np.array([[label in {finding.label for finding in s.findings} for label in LABELS] for s in scenes], float)
    views = np.array([[s.view == "AP", s.sex == "F"] for s in scenes], float)
    traits = np.concatenate([devices, views], axis=1)
    correlation = np.corrcoef(traits.T, labels.T)[: traits.shape[1], traits.shape[1] :]
    assert np.abs(correlation).max() * np.sqrt(len(scenes)) < 4.0


def test_every_device_leaves_a_mark_on_some_film(scene: Scene) -> None:
    bare = render(scene, SIZE)
    for kind in KINDS:
        marked = [render(replace(scene, devices=(Device(kind, seed),)), SIZE) for seed in range(3)]
        assert max(np.abs(film - bare).max() for film in marked) > 0.1, kind


def test_two_films_of_a_patient_share_the_person_but_not_the_exposure() -> None:
    first, second = draw_scene(6), draw_scene(7)
    assert patient_of(6) == patient_of(7) == first.patient_id == second.patient_id
    assert (first.age, first.sex, first.anatomy.half_width) == (second.age, second.sex, second.anatomy.half_width)
    assert first.technique != second.technique


def test_png_keeps_the_pixels_to_half_a_level(tmp_path: Path) -> None:
    phantom = make(SEED, SIZE)
    write_png(phantom, tmp_path / "film.png")
    with Image.open(tmp_path / "film.png") as image:
        assert image.mode == "L"
        read = np.asarray(image, dtype=np.float64) / 255
    assert np.abs(read - phantom.pixels).max() <= 0.5 / 255 + 1e-6


def test_the_folder_has_a_manifest_of_what_lies_in_it(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    manifest = write_folder(
        tmp_path, 24, first_seed=100, size=64, workers=2, progress=lambda done, total: seen.append((done, total))
    )
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert seen[-1] == (24, 24)
    for row in rows:
        assert hashlib.sha256((tmp_path / row["file"]).read_bytes()).hexdigest() == row["sha256"]
        assert row["width"] == row["height"] == "64"
        assert set(row["labels"].split("|")) <= {*LABELS, NO_FINDING}
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row["patient_id"], set()).add(row["split"])
    assert len(splits) == 18
    assert all(len(found) == 1 for found in splits.values())


def test_a_folder_does_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    one = write_folder(tmp_path / "one", 6, size=64, workers=1).read_bytes()
    assert write_folder(tmp_path / "two", 6, size=64, workers=2).read_bytes() == one


def test_splits_have_the_asked_shares() -> None:
    splits = list(split_patients(list(range(1000)), (0.5, 0.1, 0.2, 0.2)).values())
    assert [splits.count(name) for name in ("train", "tuning", "calibration", "test")] == [500, 100, 200, 200]


@pytest.mark.parametrize("fractions", [(0.5, 0.5, 0.5, 0.0), (1.5, -0.5, 0.0, 0.0)])
def test_shares_that_are_none_are_refused(tmp_path: Path, fractions: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match="add up to 1"):
        write_folder(tmp_path, 4, size=64, fractions=fractions)


@pytest.mark.parametrize("bits", [12, 14, 16])
def test_dicom_is_dx_and_monochrome1_is_the_inverse_of_monochrome2(tmp_path: Path, bits: int) -> None:
    phantom = make(SEED, SIZE)
    datasets: dict[Photometric, pydicom.Dataset] = {}
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        write_dicom(phantom, tmp_path / f"{photometric}.dcm", photometric, bits)
        datasets[photometric] = pydicom.dcmread(tmp_path / f"{photometric}.dcm")
    one, two = datasets["MONOCHROME1"], datasets["MONOCHROME2"]
    assert one.SOPClassUID == two.SOPClassUID == DigitalXRayImageStorageForPresentation
    assert (one.PresentationLUTShape, two.PresentationLUTShape) == ("INVERSE", "IDENTITY")
    assert two.BitsStored == two.HighBit + 1 == bits
    levels = 2**bits - 1
    np.testing.assert_array_equal(one.pixel_array, levels - two.pixel_array)
    assert np.abs(two.pixel_array / levels - phantom.pixels).max() <= 0.5 / levels + 1e-6
    assert one.SOPInstanceUID != two.SOPInstanceUID
    assert one.StudyInstanceUID == two.StudyInstanceUID
    assert str(two.PatientID).startswith("PHANTOM")
    assert str(two.PatientName).startswith("PHANTOM")


def test_dicom_bytes_depend_on_the_seed_alone(tmp_path: Path) -> None:
    write_dicom(make(SEED, SIZE), tmp_path / "a.dcm")
    write_dicom(make(SEED, SIZE), tmp_path / "b.dcm")
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()


def test_dicom_refuses_other_depths(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"outside 12\.\.16"):
        write_dicom(make(SEED, 64), tmp_path / "film.dcm", bits=8)


def test_the_contact_sheet_holds_every_film(tmp_path: Path) -> None:
    films = [np.full((50, 60), level / 10, np.float32) for level in range(8)]
    write_contact_sheet(films, tmp_path / "sheet.png", columns=4, side_px=20)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (88, 44)
        assert [sheet.getpixel((10 + 22 * (i % 4), 10 + 22 * (i // 4))) for i in range(8)] == [
            round(255 * i / 10) for i in range(8)
        ]
