"""What tables say of a figure that is not today's."""

import pytest

from service.audit.pipeline import SCORES_VERSION
from training.measure.detectors import versions_of
from training.measure.results import write_result
from training.show.made_by import named, outdated
from training.show.tables import tables

TODAY = {"scores_version": SCORES_VERSION}
RATE = {"value": 0.1, "low": 0.0, "high": 0.2, "n": 9}
CLEAN = {
    "suspicious": RATE, "indeterminate": RATE, "fpr_at_0.01": RATE, "fpr_at_0.05": RATE, "explain_passes": 1.0,
    "forward_passes": 1.0, "band_at_0.01": [0.0, 0.1], "band_at_0.05": [0.0, 0.1],
}  # fmt: skip


def test_todays_results_say_nothing():
    assert outdated({"scores_version": SCORES_VERSION, "detectors_version": versions_of(["strip", "shipped"])}) == ""
    assert named("a run", {"scores_version": SCORES_VERSION}) == "a run"


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({}, "made before scores had versions"),
        ({"scores_version": SCORES_VERSION - 1}, f"made by scores version {SCORES_VERSION - 1}"),
        (
            {"scores_version": SCORES_VERSION, "detectors_version": {"strip": 0, "maps": 1}},
            "strip made by its version 0",
        ),
        ({"scores_version": SCORES_VERSION, "detectors_version": {"gone": 1}}, "gone made by its version 1"),
    ],
)
def test_others_say_what_made_them(made, words):
    assert outdated(made) == words
    assert named("a run", made, made, {"scores_version": SCORES_VERSION}) == f"a run ({words})"


def test_a_table_says_it_of_its_row(tmp_path):
    for name, version in (("old", {}), ("new", {"scores_version": SCORES_VERSION})):
        write_result(tmp_path / f"{name}.json", {"title": name, "clean": CLEAN, **version})
    text = tables([tmp_path / "old.json", tmp_path / "new.json"])
    assert "| old (made before scores had versions) | 9 |" in text
    assert "| new | 9 |" in text
