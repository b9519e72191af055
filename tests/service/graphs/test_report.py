"""An examination in words: what a reader of the page, the command line or the API is told."""

import pytest

from service.graphs.report import findings
from service.graphs.shipped import shipped


@pytest.mark.parametrize("name", ["nih-clean", "phantom-badnet3", "tiny"])
def test_a_report_is_told_in_words_and_figures(name: str) -> None:
    [report] = [entry["report"] for entry in shipped().values() if entry["name"] == name]
    told = {finding.topic: finding.words for finding in findings(report)}
    cells = report["graph"]["explained"][0]["cells"]
    assert report["graph"]["explained"][0]["tensor"] in told[f"Explained, {cells} x {cells} cells"]
    assert f"of {report['places'][str(cells)]['windows']} disturbed windows" in told[f"Places, {cells} x {cells}"]
    assert "central differences" in told[f"Gradients, {cells} x {cells}"]
    assert f"{report['graph']['operators']['Conv']} Conv" in told["Operators"]
    assert "each label stands for itself" in told["Head"]
    assert "Against the version in force" not in told
    assert "Not taken from the box" not in told


def test_what_changed_and_what_the_kernel_lacked_is_told() -> None:
    report = next(iter(shipped().values()))["report"]
    changes = {"against": "ab" * 32, "labels": [["Mass"], ["Mass", "Nodule"]], "largest_probability_change": 0.25}
    box = {"missing": ["its memory can be looked at"], "memory_bytes": 1}
    first, *_, last = findings({**report, "changes": changes, "box": box})
    assert str(first) == (
        "Against the version in force: abababababab: labels Mass, now Mass, Nodule; "
        "probabilities on the examination's films differ by 0.2500 at most"
    )
    assert last.words == "its memory can be looked at"


def test_a_stranger_s_words_are_cut() -> None:
    report = next(iter(shipped().values()))["report"]
    layer = {**report["graph"]["explained"][0], "tensor": "a\x1b[31m" + "b" * 10_000}
    [words] = [
        finding.words
        for finding in findings({**report, "graph": {**report["graph"], "explained": [layer]}})
        if finding.topic.startswith("Explained")
    ]
    assert len(words) < 200
    assert words.isprintable()


def test_no_report_no_words() -> None:
    assert findings({}) == []
