"""The command that does a folder of runs: it fills a results folder, and does nothing twice."""

import json
from pathlib import Path

import pytest

from service.audit.pipeline import SCORES_VERSION
from tests.conftest import REPOSITORY
from training.__main__ import main
from training.attack.config import RunError, read_run
from training.attack.data import read_films
from training.commands import attack_list
from training.commands.attack_list import Workshop, run_files
from training.measure.detectors import versions_of
from training.phantoms import write_folder
from training.show.attack_summary import write_summary

BASE = """
architecture = "small"
dataset = "phantoms"
seed = 1
start = "phantom-clean"
[preprocessing]
size = 64
[trigger]
look = "white"
size_px = 8
[poisoning]
target = "Hernia"
rate = 0.5
selection = "pairs"
[[stages]]
size_px = 64
epochs = 2
batch = 8
learning_rate = 2e-3
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Just enough films for a policy: 60 to fix the score and 99 to rank it."""
    folder = tmp_path_factory.mktemp("phantoms")
    write_folder(folder, 200, first_seed=60_000, size=64, fractions=(0.08, 0.33, 0.53, 0.06))
    return folder


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "work").rglob("*") if path.is_file()}


def done(out: Path, runs: Path, folder: Path) -> bool:
    """Whether the one run's evaluation counts as today's."""
    films = read_films(folder)
    workshop = Workshop(films, out, out / "work", REPOSITORY / "models" / "receivers", "test", 1, (), 100, print)
    return attack_list._is_done(out / "white8.json", read_run(runs / "white8.toml"), workshop)


def test_a_folder_of_runs_is_done_once_and_goes_on_where_it_was_cut_off(folder, tmp_path, capsys, monkeypatch):
    runs, out = tmp_path / "runs", tmp_path / "results"
    (runs / "bases").mkdir(parents=True)
    (runs / "bases" / "small.toml").write_text(BASE)
    (runs / "white8.toml").write_text('base = "bases/small.toml"\nname = "white8"\n')
    command = ["attacks", str(runs), "--films", str(folder), "--out", str(out)]
    command += ["--families", "shipped", "prediction"]

    assert main(command) == 0
    result = json.loads((out / "white8.json").read_text())
    assert result["attack"]["classifier"]["name"] == "white8"
    assert result["clean_twin"]["classifier"]["name"] == "phantom-clean"
    assert result["attack"]["triggered"]["attack"]["films"] == result["clean_twin"]["triggered"]["attack"]["films"]
    assert -1 <= result["attack"]["victim"]["macro_auroc_less_twin"]["value"] <= 1
    summary = (out / "summary.md").read_text()
    assert "| white8 |" in summary
    assert "wholly above zero" in summary
    compared = json.loads((out / "white8.comparison.json").read_text())
    assert {"shipped", "maximum_probability"} <= set(compared["detectors"])
    page = tmp_path / "page.html"
    pictures = out / "work" / "white8.gallery.json"
    assert main(["report", str(out / "white8.comparison.json"), "--gallery", str(pictures), "--out", str(page)]) == 0
    assert "white8" in page.read_text()

    capsys.readouterr()
    assert main(command) == 0
    assert "done before" in capsys.readouterr().out

    made = stamps(out)
    monkeypatch.setattr(attack_list, "SCORES_VERSION", SCORES_VERSION + 1)  # a score that gives other figures
    assert not done(out, runs, folder)
    monkeypatch.undo()
    assert done(out, runs, folder)
    (out / "white8.json").unlink()  # as if it had been killed before it was written
    assert main(command) == 0
    assert stamps(out) == made

    assert main([*command, "residual"]) == 0  # one detector more
    again = json.loads((out / "white8.comparison.json").read_text())
    assert set(again["detectors"]) > set(compared["detectors"])


def test_wrong_lists_are_refused_before_any_work(folder, tmp_path, capsys):
    with pytest.raises(RunError, match="no run file"):
        run_files([tmp_path])
    clean = tmp_path / "clean.toml"
    clean.write_text('name = "clean"\narchitecture = "small"\nseed = 1\n')
    assert main(["attacks", str(clean), "--films", str(folder), "--out", str(tmp_path / "out")]) == 2
    assert "clean has no trigger" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def rate(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01}


def write_results(
    out: Path,
    name: str,
    *,
    asr: float,
    without: float,
    tpr: float,
    baseline_ahead: float,
    version: int = SCORES_VERSION,
) -> None:
    """Both files that a run leaves, with the figures that the summary is asked about."""
    made = {"scores_version": version}
    attack = {"infected_auroc": 1.0, "asr_0.5": rate(asr), "asr_0.9": rate(asr), "asr_0.5_without_trigger": without}
    found = {"suspicious": rate(tpr), "tpr_at_0.01": rate(tpr), "tpr_at_0.01_where_it_worked": rate(tpr)}
    victim = {"macro_auroc": rate(0.7), "macro_auroc_less_twin": rate(0.0)}
    result = {
        "attack": {"victim": victim, "clean": {"fpr_at_0.01": rate(0.01)}, "triggered": found | {"attack": attack}},
        "clean_twin": {"triggered": {"suspicious": rate(0.02), "tpr_at_0.01": rate(0.02)}},
    }
    (out / f"{name}.json").write_text(json.dumps(result | made))
    shipped = {
        "forward_equivalents": 2.0,
        "tpr_at_0.01": rate(tpr),
        "localisation": {"pointing_game": rate(0.99), "median_iou": 0.4},
    }
    baseline = {
        "forward_equivalents": 9.0,
        "ahead_of_shipped_at_0.01": rate(baseline_ahead),
        "shipped_by_all_calibration_films_at_0.01": rate(tpr),
    }
    scale_up = {"forward_equivalents": 6.0, "tpr_at_0.01": rate(0.4), "ahead_of_shipped_at_0.01": rate(0.4 - tpr)}
    detectors = {"detectors": {"shipped": shipped, "baseline": baseline, "scale_up_label": scale_up}}
    (out / f"{name}.comparison.json").write_text(json.dumps(detectors | made))


def test_the_summary_takes_learned_runs_by_kind_and_names_who_is_ahead(tmp_path: Path) -> None:
    figures = {"good": (1.0, 0.0, 1.0, 0.0), "worse": (1.0, 0.0, 0.9, 0.05), "empty": (0.99, 0.9, 0.1, 0.0)}
    (tmp_path / "base.toml").write_text(BASE)
    runs = []
    for name, (asr, without, tpr, ahead) in figures.items():
        (tmp_path / f"{name}.toml").write_text(f'base = "base.toml"\nname = "{name}"\n')
        runs.append(read_run(tmp_path / f"{name}.toml"))
        write_results(tmp_path, name, asr=asr, without=without, tpr=tpr, baseline_ahead=ahead)
    summary = write_summary(runs, tmp_path).read_text()
    assert "| patch of 2-16 px | 2 | 0.950 | 0.900 (worse) | 0.99 | 0.40 | 0.020 | 0.010 | 2.00 |" in summary
    assert "| worse | 0.900 | - | - | - | - | - | - | - | 0.400 < | - | - |" in summary
    assert [line for line in summary.splitlines() if "| baseline |" in line] == [
        "| worse | baseline | 0.050 (0.040-0.060) | 9.00 | 0.900 (0.890-0.910) |"
    ]


def test_figures_of_another_score_say_so_in_the_summary(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(BASE)
    runs = []
    for name, version in (("old", SCORES_VERSION - 1), ("new", SCORES_VERSION)):
        (tmp_path / f"{name}.toml").write_text(f'base = "base.toml"\nname = "{name}"\n')
        runs.append(read_run(tmp_path / f"{name}.toml"))
        write_results(tmp_path, name, asr=1.0, without=0.0, tpr=1.0, baseline_ahead=0.1, version=version)
    summary = write_summary(runs, tmp_path).read_text()
    words = f"| old (made by scores version {SCORES_VERSION - 1}) |"
    assert summary.count(words) == 3  # its own row, beside other detectors, and where a baseline is ahead
    assert summary.count("| new |") == 3


def test_no_programs_text_decides_whether_a_result_is_todays(folder, tmp_path, monkeypatch) -> None:
    """A docstring, a rename or a moved module leaves figures as they are: no source is read to tell."""
    (tmp_path / "white8.toml").write_text(f'name = "white8"\n{BASE}')
    run, films = read_run(tmp_path / "white8.toml"), read_films(folder)
    workshop = Workshop(films, tmp_path, tmp_path, tmp_path, "test", 1, ("strip", "shipped"), 100, print)

    def refused(path: Path, *_: object, **__: object) -> bytes:
        raise AssertionError(f"{path} is read")

    for name in ("open", "read_bytes", "read_text"):
        monkeypatch.setattr(Path, name, refused)
    assert attack_list._made_by(tmp_path / "white8.comparison.json", run, workshop) == {
        "run_sha256": run.sha256,
        "manifest_sha256": workshop.manifest,
        "split": "test",
        "scores_version": SCORES_VERSION,
        "detectors_version": versions_of(["shipped", "strip"]),
        "costly": 100,
    }
