"""From a folder of films to the page: `compare` with its cache, and `report`, on the classifier set by hand."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.audit.calibration import policy_bytes
from service.audit.preprocessing import Region
from tests.training.handmade import TRIGGER, calibrated, export_handmade, smooth_films
from training.__main__ import main
from training.attack.config import read_run
from training.attack.data import Film, write_manifest
from training.commands.attacks import FAMILIES as COMMAND_FAMILIES
from training.measure.compare import Sampling, Scored, clean_figures, trigger_places, triggered_figures
from training.measure.detectors import FAMILIES
from training.measure.results import read_result
from training.show.report import BASELINES, HEADLINE

COUNTS = {"tuning": 60, "calibration": 100, "test": 24}
QUICK = [family for family in FAMILIES if family != "occlusion"]  # whose scan has a test of its own
RUN = f"""
name = "handmade-white4"
architecture = "small"
seed = 1
dataset = "tests"
labels = ["Target", "Bright"]
stages = []
[preprocessing]
size = 224
[trigger]
look = "white"
size_px = 4
place = "fixed"
x = {TRIGGER.x}
y = {TRIGGER.y}
canvas_px = 224
[poisoning]
target = "Target"
rate = 0.1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Films, classifier, policy and run file."""
    folder = tmp_path_factory.mktemp("handmade")
    (folder / "films").mkdir()
    films, pixels = [], {}
    for seed, (split, count) in enumerate(COUNTS.items()):
        pixels[split] = smooth_films(count, seed)
        for i, film in enumerate(pixels[split]):
            path = folder / "films" / f"{split}{i}.png"
            Image.fromarray(np.rint(film[0] * 255).astype(np.uint8)).save(path)
            films.append(Film(path, split, f"{split}{i // 2}", (), "PA", "F", 50, ""))
    write_manifest(folder, films)
    classifier = export_handmade(folder / "handmade.onnx")
    policy = calibrated(classifier, pixels["tuning"], pixels["calibration"])
    (folder / "handmade.policy.json").write_bytes(policy_bytes(policy))
    (folder / "run.toml").write_text(RUN)
    return folder


def command(folder: Path, *more: str) -> list[str]:
    return ["compare", str(folder / "run.toml"), "--films", str(folder), "--classifier", str(folder / "handmade.onnx"),
            "--policy", str(folder / "handmade.policy.json"), "--cache", str(folder / "cache"), "--costly", "20",
            "--families", *QUICK,
            "--out", str(folder / "comparison.json"), "--gallery", str(folder / "gallery.json"), *more]  # fmt: skip


@pytest.fixture(scope="module")
def result(folder) -> dict:
    assert main(command(folder, "--title", "hand made")) == 0
    return read_result(folder / "comparison.json")


def test_known_detectors_catch_the_known_trigger_and_nulls_do_not(result):
    detectors = result["detectors"]
    assert result["attack"]["asr_0.5"]["value"] == 1.0
    for name in ("shipped", "every_test", "fill_in_change", "layercam_28_entropy", "maximum_probability"):
        assert detectors[name]["tpr_at_0.01"]["value"] == 1.0, name
        assert detectors[name]["auroc"]["value"] == 1.0, name
    assert detectors["random_map"]["tpr_at_0.01"]["value"] < 0.2
    assert detectors["random_map"]["ahead_of_shipped_at_0.01"]["high"] < -0.7
    assert detectors["coarse_to_fine"]["tpr_at_0.05"]["value"] == 1.0


def test_clean_films_and_the_price(result):
    shipped = result["detectors"]["shipped"]
    assert shipped["fpr_at_0.01"]["value"] <= shipped["band_at_0.01"][1] + 0.05
    assert shipped["forward_equivalents"] < result["detectors"]["every_test"]["forward_equivalents"]
    assert result["sets"]["test"] == {"films": 24, "patients": 12}


def test_a_subsample_too_small_for_a_rate_gives_no_figure_at_it(result):
    strip = result["detectors"]["strip"]
    assert strip["calibration_films"] == 20
    assert "tpr_at_0.01" not in strip  # 20 films cannot rank anything at 1 %
    assert "tpr_at_0.05" in strip
    assert strip["shipped_by_all_calibration_films_at_0.05"]["value"] == 1.0
    assert strip["shipped_by_all_calibration_films_at_0.05"]["n"] == strip["triggered_films"] == 20
    assert "shipped_by_all_calibration_films_at_0.05" not in result["detectors"]["random_map"]  # reads them all


def test_where_detectors_point(result):
    shipped = result["detectors"]["shipped"]["localisation"]
    assert shipped["pointing_game"]["value"] == 1.0
    assert shipped["recovering_rate"] == shipped["fill_in_restores"] == 1.0
    assert shipped["fill_in_logit_drop"] == pytest.approx(10.0, abs=0.1)
    assert result["detectors"]["random_map"]["localisation"]["fill_in_restores"] < 0.3


def test_readings_are_kept_and_read_again(result, folder):
    kept = {path: path.stat().st_mtime_ns for path in (folder / "cache").rglob("*.npz")}
    assert kept
    files = ["--out", str(folder / "again.json"), "--gallery", str(folder / "again.gallery.json")]
    assert main(command(folder, *files, "--families", "shipped", "strip", "search")) == 0
    again = read_result(folder / "again.json")
    assert {path: path.stat().st_mtime_ns for path in (folder / "cache").rglob("*.npz")} == kept
    assert set(again["detectors"]) > {"shipped", "strip", "strip_label", "coarse_to_fine"}
    for name, table in again["detectors"].items():
        timed = {"forward_equivalents": 0}  # the price of a pass with maps is measured anew
        assert table | timed == result["detectors"][name] | timed, name


def test_every_rate_and_paired_difference_can_be_made_again_from_the_rows(result):
    """The same functions on the places that the rows give."""
    films = result["films"]
    groups = {name: np.array([f["patient"] for f in films if f["set"] == name]) for name in ("test", "triggered")}
    worked = np.array([film["worked"] for film in films if film["set"] == "triggered"])
    assert {name: len(found) for name, found in groups.items()} == {
        name: result["sets"][name]["films"] for name in groups
    }
    scored = {
        name: Scored(*(np.array(part, dtype=np.float64) for part in table["ranks"]))
        for name, table in result["detectors"].items()
    }
    for name, of in scored.items():
        table, test, shown = result["detectors"][name], groups["test"], groups["triggered"]
        both = test[: len(of.test)], shown[: len(of.triggered)]
        made = clean_figures(of, both[0], np.zeros(0, np.int64))
        made |= triggered_figures(of, scored["shipped"], worked[: len(of.triggered)], both)
        assert json.loads(json.dumps(made)) == {key: table[key] for key in made}, name


def test_the_page_stands_alone(result, folder):
    page = folder / "report.html"
    code = main(
        ["report", str(folder / "comparison.json"), "--gallery", str(folder / "gallery.json"), "--out", str(page)]
    )
    assert code == 0
    text = page.read_text()
    assert not re.search(r'(src|href)\s*=\s*"(?!data:)', text)
    assert not re.search(r"https?://|@import|url\(|<script", text)
    for words in ("hand made", "STRIP", "SCALE-UP", "random map", "LayerCAM 28 x 28", "<svg", "Hit", "Limits"):
        assert words in text, words
    assert text.count("data:image/jpeg;base64,") >= 3 * 3
    assert f"{result['detectors']['shipped']['auroc']['value']:.3f}" in text


def test_a_report_of_something_else_is_refused(tmp_path):
    (tmp_path / "other.json").write_text("{}")
    assert main(["report", str(tmp_path / "other.json"), "--out", str(tmp_path / "x.html")]) == 2


def test_the_command_line_knows_every_family():
    assert set(COMMAND_FAMILIES) == set(FAMILIES)
    assert set(BASELINES) <= set(HEADLINE) | {"strip_label"}


def test_a_native_triggers_place_is_what_the_resampler_left(folder):
    run = read_run(folder / "run.toml")
    clean = np.zeros((1, 224, 224), np.float32)
    stamped = clean.copy()
    stamped[0, 10:12, 20:23] = 0.5
    native = replace(run, trigger=replace(run.trigger, resolution="native"))
    assert trigger_places(native, 0, clean, stamped) == (Region(20, 10, 3, 2),)
    assert trigger_places(run, 0, clean, stamped) == (TRIGGER,)


def test_a_draw_is_seeded_and_without_replacement():
    order = Sampling(limit=5, seed=3).order(20)
    assert len(set(order.tolist())) == 5
    assert order.tolist() == Sampling(limit=5, seed=3).order(20).tolist()
