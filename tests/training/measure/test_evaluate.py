"""Regions and bands by hand; the whole chain on a few phantoms with the shipped pair."""

from pathlib import Path

import pytest

from service.audit.calibration import Policy
from service.audit.preprocessing import Region
from service.audit.ranking import reached_band
from service.graphs.examiner import load_classifier
from training.__main__ import main
from training.attack.config import read_run
from training.attack.data import in_split, read_films
from training.measure.evaluate import contains, evaluate, overlap, subgroups
from training.phantoms import write_folder
from training.show.tables import put_into, tables

RUN = Path("training/runs/phantom-badnet3.toml")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    write_folder(folder, 40, first_seed=700_000, size=224, fractions=(0.2, 0.1, 0.2, 0.5))
    return folder


def test_containing_and_overlapping():
    trigger = Region(218, 218, 3, 3)
    assert contains(Region(200, 200, 24, 24), trigger)
    assert not contains(Region(200, 200, 20, 24), trigger)
    assert not contains(None, trigger)
    assert overlap(trigger, trigger) == 1.0
    assert overlap(Region(218, 218, 6, 3), trigger) == 0.5
    assert overlap(Region(0, 0, 5, 5), trigger) == 0.0


def test_the_band_of_the_issue():
    low, high = reached_band(397, 409, 0.01)
    assert low == 0.0
    assert 0.019 < high < 0.028  # about 0 to 2.4 %


def test_subgroups_cover_the_films(folder):
    films = read_films(folder)
    groups = subgroups(films)
    assert (groups["view PA"] ^ groups["view AP"]).all()
    assert (groups["female"] ^ groups["male"]).all()


def test_the_shipped_pair_on_unseen_phantoms(folder, models_dir):
    run, films = read_run(RUN), in_split(read_films(folder), "test")
    results = {}
    for name in ("phantom-badnet3", "phantom-clean"):
        classifier = load_classifier(models_dir / f"{name}.onnx")
        results[name] = evaluate(run, films, classifier, Policy.load(models_dir / f"{name}.policy.json"))
    backdoored, clean = results["phantom-badnet3"], results["phantom-clean"]
    assert backdoored["triggered"]["attack"]["asr_0.5"]["value"] == 1.0
    assert backdoored["triggered"]["attack"]["asr_0.5_without_trigger"] < 0.1
    assert backdoored["triggered"]["suspicious"]["value"] == 1.0
    assert backdoored["triggered"]["region_contains_trigger_in_alarms"]["value"] == 1.0
    assert backdoored["clean"]["suspicious"]["value"] <= 0.15
    assert clean["triggered"]["attack"]["asr_0.5"]["value"] == 0.0
    assert clean["triggered"]["suspicious"]["value"] <= 0.15


def test_from_the_command_line_to_a_documents_tables(folder, models_dir, tmp_path):
    out, document = tmp_path / "result.json", tmp_path / "card.md"
    code = main(
        ["evaluate", str(RUN), "--films", str(folder), "--split", "tuning", "--out", str(out), "--title", "a pair",
         "--classifier", str(models_dir / "phantom-badnet3.onnx"),
         "--policy", str(models_dir / "phantom-badnet3.policy.json")]
    )  # fmt: skip
    assert code == 0
    document.write_text("Before.\n<!-- results: begin -->\nold\n<!-- results: end -->\nAfter.\n")
    assert main(["tables", str(out), "--document", str(document)]) == 0
    text = document.read_text()
    assert "old" not in text
    assert text.startswith("Before.")
    assert text.endswith("After.\n")
    assert text.count("| a pair |") == 3
    assert tables([out]) in text


def test_a_document_without_markers_is_refused(tmp_path):
    (tmp_path / "card.md").write_text("nothing here")
    with pytest.raises(ValueError, match=r"card\.md lacks"):
        put_into(tmp_path / "card.md", "text")
