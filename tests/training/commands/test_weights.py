"""Weights come from a folder or out of a real repository's history, checked, and nothing else gets into place."""

import csv
import hashlib
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from training.__main__ import main
from training.attack import weights
from training.attack.config import RunError, read_run
from training.attack.weights import Listed, how_to_bring, listed, record, ship

HEADER = "name,sha256,run_sha256,commit\n"
FIRST, SECOND = b"first weights", b"second weights"
RUN_FILE = 'name = "first"\narchitecture = "small"\nseed = 1\n'


def git(folder: Path, *arguments: str) -> str:
    settings = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ["git", *settings, *arguments], cwd=folder, check=True, capture_output=True, text=True, env=environment
    )
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path):
    """A repository that once held both weights, whose manifest a command made, and that has neither now."""
    folder = tmp_path / "project" / "training" / "weights"
    folder.mkdir(parents=True)
    runs = tmp_path / "project" / "training" / "runs"
    runs.mkdir()
    top = tmp_path / "project"
    git(top, "init", "--quiet")
    for name, data in (("first", b"an older one"), ("first", FIRST), ("second", SECOND)):
        (folder / f"{name}.pt").write_bytes(data)
        (runs / f"{name}.toml").write_text(RUN_FILE.replace("first", name))
        git(top, "add", ".")
        git(top, "commit", "--quiet", "-m", f"{name}")
    record(folder, runs)
    git(top, "rm", "--quiet", "training/weights/first.pt", "training/weights/second.pt")
    git(top, "add", ".")
    git(top, "commit", "--quiet", "-m", "weights leave")
    return top


@pytest.fixture
def into(project, tmp_path):
    """A place with the manifest alone."""
    folder = tmp_path / "into"
    folder.mkdir()
    (folder / "MANIFEST.csv").write_bytes((project / "training" / "weights" / "MANIFEST.csv").read_bytes())
    return folder


def brought(source, into, *runs):
    chosen = ["--run", *runs] if runs else []
    return main(["weights", "--from", str(source), "--into", str(into), *chosen])


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != "MANIFEST.csv")


def test_the_manifest_is_made_from_the_files_and_their_history(project):
    rows = listed(project / "training" / "weights")
    assert list(rows) == ["first", "second"]
    assert rows["first"].sha256 == hashlib.sha256(FIRST).hexdigest()
    assert rows["first"].run_sha256 == read_run(project / "training" / "runs" / "first.toml").sha256
    assert rows["first"].commit == git(project, "rev-parse", "HEAD~2")
    assert rows["second"].commit == git(project, "rev-parse", "HEAD~1")


def test_rows_of_weights_that_are_not_there_stay_and_uncommitted_ones_have_no_commit(project):
    folder, before = project / "training" / "weights", listed(project / "training" / "weights")
    folder.joinpath("second.pt").write_bytes(b"trained anew")
    record(folder, project / "training" / "runs")
    after = listed(folder)
    assert after["first"] == before["first"]
    assert after["second"].commit == ""
    assert after["second"].sha256 == hashlib.sha256(b"trained anew").hexdigest()
    folder.joinpath("second.pt").write_bytes(SECOND)  # brought: their commit is the one before they left
    record(folder, project / "training" / "runs")
    assert listed(folder) == before
    folder.joinpath("third.pt").write_bytes(b"?")
    with pytest.raises(RunError, match=r"third\.pt has no run file"):
        record(folder, project / "training" / "runs")


@pytest.mark.parametrize("kind", ["work tree", "bare clone"])
def test_they_come_out_of_a_history(kind, project, into, tmp_path, capsys):
    source = project
    if kind == "bare clone":
        source = tmp_path / "bare.git"
        git(tmp_path, "clone", "--quiet", "--bare", project.as_uri(), str(source))
    assert brought(source, into) == 0
    assert capsys.readouterr().out.splitlines() == ["first: brought", "second: brought", "2 of 2 are there"]
    assert (into / "first.pt").read_bytes() == FIRST
    assert (into / "second.pt").read_bytes() == SECOND
    assert names(into) == ["first.pt", "second.pt"]


def test_a_process_inside_another_repository_asks_the_one_that_was_named(project, into, tmp_path, monkeypatch):
    """As under a git hook, which sets GIT_DIR."""
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert brought(project, into) == 0


def test_a_clone_without_history_says_what_to_do(project, into, tmp_path, capsys):
    git(tmp_path, "clone", "--quiet", "--depth", "1", project.as_uri(), "shallow")
    assert brought(tmp_path / "shallow", into) == 2
    assert "git fetch --unshallow" in capsys.readouterr().out
    assert names(into) == []


def test_from_a_folder_wrong_bytes_are_refused_and_the_others_go_on(into, tmp_path, capsys):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "first.pt").write_bytes(b"something else")
    (folder / "second.pt").write_bytes(SECOND)
    assert brought(folder, into) == 2
    assert capsys.readouterr().out.splitlines() == [
        f"first: not brought: what {folder} holds has other bytes than the manifest says",
        "second: brought",
        "1 of 2 are there",
    ]
    assert names(into) == ["second.pt"]


def test_what_a_folder_does_not_hold_is_missing(into, tmp_path, capsys):
    folder = tmp_path / "folder"
    folder.mkdir()
    assert brought(folder, into, "second") == 2
    assert capsys.readouterr().out.splitlines() == [
        f"second: not brought: {folder} holds no second.pt and is no git repository",
        "0 of 1 are there",
    ]


def test_weights_without_a_commit_come_from_a_folder_only(project, into, tmp_path, capsys):
    row = replace(listed(into)["first"], commit="")
    (into / "MANIFEST.csv").write_text(HEADER + ",".join((row.name, row.sha256, row.run_sha256, row.commit)) + "\n")
    assert brought(project, into) == 2
    assert "a folder only" in capsys.readouterr().out
    (tmp_path / "first.pt").write_bytes(FIRST)
    assert brought(tmp_path, into) == 0


def test_without_git_it_says_so(project, into, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    assert brought(project, into, "first") == 2
    assert "git is not installed" in capsys.readouterr().out


def test_other_bytes_of_that_name_are_replaced_and_good_ones_left_alone(project, into, capsys):
    (into / "first.pt").write_bytes(FIRST)
    (into / "second.pt").write_bytes(b"half")
    before = (into / "first.pt").stat().st_mtime_ns
    assert main(["weights", "--into", str(into)]) == 2
    assert brought(project, into) == 0
    assert capsys.readouterr().out.splitlines() == [
        "first: there", "second: other bytes than the manifest says", "1 of 2 are there",
        "first: there", "second: brought", "2 of 2 are there",
    ]  # fmt: skip
    assert (into / "first.pt").stat().st_mtime_ns == before
    assert (into / "second.pt").read_bytes() == SECOND


def test_unknown_names_and_broken_manifests_are_refused(into, tmp_path, capsys):
    assert brought(tmp_path, into, "first", "nobody") == 2
    assert "lists no weights of nobody" in capsys.readouterr().err
    (into / "MANIFEST.csv").write_text("name,sha256\n")
    assert brought(tmp_path, into) == 2
    assert "is no manifest of weights" in capsys.readouterr().err
    (into / "MANIFEST.csv").unlink()
    assert main(["weights", "--into", str(into)]) == 2
    assert "no manifest" in capsys.readouterr().err


def test_weights_of_another_version_of_the_run_file_do_not_count(project, into):
    run = read_run(project / "training" / "runs" / "first.toml")
    assert not ship(run, into)
    assert "triggerscope-train weights --from" in how_to_bring("first", run.sha256, into)
    assert how_to_bring("first", "0" * 64, into) == ""
    assert how_to_bring("nobody", folder=into) == ""
    (into / "first.pt").write_bytes(FIRST)
    assert ship(run, into)
    assert not ship(replace(run, sha256="0" * 64), into)
    assert how_to_bring("first", run.sha256, into) == ""


def test_wanted_weights_that_are_listed_and_not_there_name_the_command(into, tmp_path, monkeypatch):
    from training.attack import train

    monkeypatch.setattr(train, "SHIPPED_WEIGHTS", into)
    monkeypatch.setattr(train, "how_to_bring", lambda name: how_to_bring(name, folder=into))
    with pytest.raises(RunError, match=r"no weights of first.*triggerscope-train weights --from FOLDER_OR_CLONE"):
        train.final_weights(tmp_path, "first")
    with pytest.raises(RunError, match=r"no weights of nobody.*train the run first"):
        train.final_weights(tmp_path, "nobody")


def test_the_weights_in_the_tree_are_those_of_the_manifest():
    rows = listed()
    tracked = (REPOSITORY / ".gitignore").read_text()
    stays = [line.rsplit("/", 1)[1] for line in tracked.splitlines() if line.startswith("!/training/weights/")]
    assert {"nih-clean.pt", "nih-small-clean.pt", "phantom-clean.pt"} <= set(stays)
    for name in stays:
        data = (weights.SHIPPED_WEIGHTS / name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == rows[name.removesuffix(".pt")].sha256
    with (weights.SHIPPED_WEIGHTS / "MANIFEST.csv").open() as file:
        assert all(Listed(*row).commit for row in list(csv.reader(file))[1:])
