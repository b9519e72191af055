"""Result files: figures and rows apart on disk, together when they are read."""

import gzip
import json
import math

import pytest

from training.attack.data import DataError
from training.measure.results import read_figures, read_result, rows_path, write_result

ROWS = [{"patient": number, "score": number / 7} for number in range(200)]
RESULT = {
    "title": "a pair",
    "clean": {"suspicious": {"value": 0.1, "n": 200}, "films": ROWS},
    "triggered": {"median_iou": math.nan, "films": ROWS[:3]},
    "detectors": {"strip": {"roc": [(0.0, 1.0), (0.5, 1.0)]}, "other": {}},
    "films": 200,
}


def test_what_is_written_is_read_whole(tmp_path):
    path = tmp_path / "deeper" / "pair.json"
    write_result(path, RESULT)
    found = read_result(path)
    assert found["clean"] == RESULT["clean"]
    assert found["triggered"] == {"median_iou": None, "films": ROWS[:3]}
    assert found["detectors"]["strip"]["roc"] == [[0.0, 1.0], [0.5, 1.0]]
    assert found["films"] == 200
    assert set(found) == set(RESULT)


def test_figures_are_read_without_the_rows(tmp_path):
    path = tmp_path / "pair.json"
    write_result(path, RESULT)
    rows_path(path).unlink()
    found = read_figures(path)
    assert found["clean"]["suspicious"]["value"] == 0.1
    assert "films" not in found["clean"]
    assert len(path.read_text()) < 500
    with pytest.raises(DataError, match="missing"):
        read_result(path)


def test_the_same_result_gives_the_same_bytes(tmp_path):
    for name in ("one", "other"):
        write_result(tmp_path / name / "pair.json", RESULT)
    for name in ("pair.json", "pair.films.json.gz"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_rows_of_another_result_are_refused(tmp_path):
    write_result(tmp_path / "one.json", RESULT)
    write_result(tmp_path / "other.json", RESULT | {"clean": {"films": ROWS[:9]}})
    rows_path(tmp_path / "one.json").write_bytes(rows_path(tmp_path / "other.json").read_bytes())
    with pytest.raises(DataError, match="another result"):
        read_result(tmp_path / "one.json")
    rows_path(tmp_path / "one.json").write_bytes(b"cut off")
    with pytest.raises(DataError, match="broken"):
        read_result(tmp_path / "one.json")


def test_a_table_of_films_a_line_can_be_read_by_hand(tmp_path):
    write_result(tmp_path / "pair.json", RESULT)
    first = gzip.decompress(rows_path(tmp_path / "pair.json").read_bytes()).splitlines()[0]
    assert json.loads(first) == ["clean", "films", ROWS]


def test_a_result_without_rows_leaves_none_behind(tmp_path):
    write_result(tmp_path / "pair.json", RESULT)
    write_result(tmp_path / "pair.json", {"title": "without"})
    assert [path.name for path in tmp_path.iterdir()] == ["pair.json"]
    assert read_result(tmp_path / "pair.json") == {"title": "without"}
