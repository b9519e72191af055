import io
import json
from pathlib import Path

import pytest
from sqlalchemy import text

from service.__main__ import main
from service.app import open_database
from service.settings import Settings

FAULTS_FOUND = 3


@pytest.fixture
def run(tmp_path: Path) -> object:
    def run(*words: str) -> int:
        return main(["--data-dir", str(tmp_path / "data"), *words])

    return run


def test_a_log_is_checked_against_a_kept_checkpoint(run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "checkpoint.json"
    assert run("keys", "create", "--name", "one", "--scope", "admin") == 0
    assert run("log", "checkpoint", "--out", str(kept)) == 0
    assert run("log", "verify", "--checkpoint", str(kept)) == 0
    assert "nothing was changed" in capsys.readouterr().out
    with open_database(Settings(data_dir=tmp_path / "data")) as database, database._writing.begin() as connection:
        connection.execute(text("DROP TRIGGER events_no_delete"))
        connection.execute(text("DELETE FROM events"))
    assert run("log", "verify", "--checkpoint", str(kept)) == FAULTS_FOUND
    assert "cut off behind a checkpoint" in capsys.readouterr().out


def test_the_log_is_exported_and_its_key_shown(run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("keys", "create", "--name", "one", "--scope", "admin") == 0
    assert run("log", "export") == 0
    assert '"kind":"key.created"' in capsys.readouterr().out
    assert run("log", "key") == 0
    assert capsys.readouterr().out.startswith("-----BEGIN PUBLIC KEY-----")


def test_old_events_are_archived_before_they_go(run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = tmp_path / "archive.jsonl"
    assert run("keys", "create", "--name", "one", "--scope", "admin") == 0
    assert run("log", "prune", "--before", "2020-01-01", "--archive", str(archive)) == 0
    assert "0 events removed" in capsys.readouterr().out
    assert run("log", "verify", "--archive", str(archive)) == 0
    assert run("log", "prune", "--before", "2020-01-01", "--archive", str(archive)) == 1  # is not overwritten
    assert run("log", "prune", "--before", "2999-01-01", "--archive", str(tmp_path / "young.jsonl")) == 1
    assert "too_young" in capsys.readouterr().err


def test_checkpoints_are_signed_and_forwarded_to_a_file(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("log", "forward", "--once") == 1
    assert capsys.readouterr().err.startswith("no_receiver")
    forwarded, kept = tmp_path / "forwarded.jsonl", tmp_path / "checkpoint.json"
    monkeypatch.setenv("TRIGGERSCOPE_FORWARD_FILE", str(forwarded))
    assert run("log", "forward", "--once") == 0
    kept.write_text(json.dumps(json.loads(forwarded.read_text())["checkpoint"]))
    assert run("log", "verify", "--checkpoint", str(kept)) == 0


def test_accounts_are_made_on_the_command_line(
    run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (("create", "ada", "--role", "auditor"), ("password", "ada")):
        monkeypatch.setattr("sys.stdin", io.StringIO("correct horse battery\n"))
        assert run("accounts", *words) == 0
    assert run("accounts", "list") == 0
    assert capsys.readouterr().out == "ada\tauditor\tactive\n"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("bundle", "verify", "/nowhere"), "unreadable_bundle"),
        (("log", "verify", "--checkpoint", "/nowhere"), "unreadable_checkpoint"),
        (("log", "verify", "--public-key", "/nowhere"), "unusable_key"),
        (("log", "verify", "--archive", "/nowhere"), "unreadable_archive"),
    ],
)
def test_a_file_that_is_not_there_is_said_plainly(
    run, words: tuple[str, ...], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words) == 1
    assert capsys.readouterr().err.startswith(code)
