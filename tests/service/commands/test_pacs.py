"""The commands around DICOM: rules test, forget, results."""

from pathlib import Path

import pytest

from service.__main__ import main
from tests.service.pacs.films import film

RULES = """
[[rule]]
name = "chest"
when = {body_part = ["CHEST"], calling_ae = ["CT*"]}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "film.dcm"
    path.write_bytes(film(1))
    return path


def test_rules_test_says_what_would_happen_and_why(
    tmp_path: Path, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text(RULES)
    given = ["--data-dir", str(tmp_path / "data"), "rules", "test", str(path), "--rules", str(rules)]
    assert main([*given, "--calling-ae", "CT7"]) == 0
    assert main(given) == 0
    fits, misses = capsys.readouterr().out.splitlines()
    assert "rule chest fits: the default classifier" in fits
    assert "recorded as indeterminate; rule chest: calling_ae is missing, wanted CT*" in misses


def test_rules_test_of_what_is_no_film(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.txt"
    other.write_text("not DICOM")
    assert main(["rules", "test", str(other), str(tmp_path / "none")]) == 2
    assert "the file is neither PNG nor DICOM" in capsys.readouterr().out


def test_an_unknown_study_and_an_unknown_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--data-dir", str(tmp_path / "data")]
    assert main([*given, "forget", "1.2.3"]) == 1
    assert main([*given, "results", "list"]) == 0
    assert main([*given, "results", "resend", "0" * 32]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert [line.split(":")[0] for line in printed.err.splitlines()] == ["unknown_study", "unknown_delivery"]
