import hashlib
import json
import shutil
from pathlib import Path

import pytest

from service.__main__ import main
from service.commands.offline import SOME_FAILED
from tests.service.registry.earlier import plain, with_a_transposed_layer
from tests.service.serving import png
from tests.tiny import LABELS, SIZE

KEYS = [
    "source", "sha256", "classifier", "policy", "verdict", "score", "p_value", "probabilities", "explained_label",
    "hypothesis", "evidence", "region", "reasons", "timings_ms",
]  # fmt: skip


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "film.png"
    path.write_bytes(png(1))
    return path


@pytest.fixture
def options(tmp_path: Path, models_dir: Path) -> list[str]:
    return ["--models-dir", str(models_dir), "--data-dir", str(tmp_path / "data")]


def test_audit_prints_one_object_a_line(film: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code = main([*options, "audit", "--json", "--classifier", "phantom-badnet3", str(film), str(film)])
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert code == 0
    assert list(first) == KEYS
    assert first["source"] == str(film)
    assert first["classifier"]["name"] == "phantom-badnet3"
    assert (first["verdict"], first["score"]) == (second["verdict"], second["score"])


def test_a_file_that_fails_does_not_stop_the_others(
    film: Path, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_text("not a film")
    code = main([*options, "audit", "--json", str(tmp_path / "text"), str(tmp_path / "missing"), str(film)])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert code == SOME_FAILED
    assert [line.get("error", {}).get("code") for line in lines] == ["unsupported_format", "unreadable_file", None]


def test_audit_without_json_is_for_people(film: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*options, "audit", str(film)]) == 0
    assert str(film) in capsys.readouterr().out


def test_an_unknown_classifier_is_an_error(film: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*options, "audit", "--classifier", "nobody", str(film)]) == 1
    assert capsys.readouterr().err.startswith("unusable_classifier: ")


def test_a_folder_of_clean_films_becomes_a_policy(
    film: Path, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, policy, receivers = tmp_path / "films", tmp_path / "ward.policy.json", tmp_path / "receivers"
    write_films(folder, reference=60, calibration=19)
    receivers.mkdir()
    shutil.copy(film, receivers)
    command = ["calibrate", str(folder), "--classifier", "phantom-clean", "--source", "ward", "--fpr", "0.05"]
    assert main([*options, *command, "--out", str(policy), "--receivers", str(receivers)]) == 0
    capsys.readouterr()
    audit = [*options, "audit", "--json", "--classifier", "phantom-clean", "--policy", str(policy), str(film)]
    assert main(audit) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["policy"]["name"] == "phantom-clean-ward"
    assert found["policy"]["sha256"] == hashlib.sha256(policy.read_bytes()).hexdigest()
    assert main([*options, "audit", "--classifier", "phantom-badnet3", "--policy", str(policy), str(film)]) == 1
    assert capsys.readouterr().err.startswith("unusable_policy: ")


def write_films(folder: Path, reference: int, calibration: int) -> None:
    folder.mkdir()
    rows = ["file,patient_id,split"]
    for number in range(reference + calibration):
        (folder / f"{number}.png").write_bytes(png(number))
        rows.append(f"{number}.png,p{number},{'tuning' if number < reference else 'calibration'}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")


def test_a_bad_setting_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--host", "0.0.0.0", "--allow-anonymous"]) == 1
    assert "loopback" in capsys.readouterr().err


def test_keys(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    create = [*options, "keys", "create", "--name", "ward", "--scope", "audits:write", "--expires", "2999-01-01"]
    assert main(create) == 0
    assert capsys.readouterr().out.startswith("ts_")
    assert main(create) == 1
    assert capsys.readouterr().err.startswith("key_exists: ")
    assert main([*options, "keys", "revoke", "ward"]) == 0
    assert main([*options, "keys", "list"]) == 0
    assert capsys.readouterr().out.startswith("ward\taudits:write\trevoked")


def test_classifiers_and_policies(
    options: list[str], tmp_path: Path, models_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def out(*command: str) -> str:
        assert main([*options, *command]) == 0
        return capsys.readouterr().out

    name = "phantom-badnet3"
    listed = [line.split("\t") for line in out("classifiers", "list").splitlines()]
    version = next(row[1] for row in listed if row[0] == name)
    shutil.copy(models_dir / f"{name}.onnx", tmp_path / "other.onnx")
    added = out("classifiers", "add", str(tmp_path / "other.onnx")).splitlines()
    assert added[0] == f"{name}\t{version}"
    assert any("disturbed windows" in line for line in added)
    for wanted in (name, version):
        assert out("classifiers", "report", wanted).splitlines() == added
    report = json.loads(out("classifiers", "report", name, "--json"))
    assert report["report"]["identity"] == version
    assert len(bytes.fromhex(report["signature"])) == 64
    assert out("classifiers", "activate", name).strip() == version
    out("classifiers", "retire", name)
    assert out("classifiers", "rollback", name).strip() == version
    policy = next(
        row for row in (line.split("\t") for line in out("policies", "list").splitlines()) if version in row[4]
    )
    assert policy[2] == "active"
    assert out("policies", "add", str(min(models_dir.glob(f"{name}*.policy.json")))).split("\t")[0]
    assert out("policies", "activate", name, policy[0]).strip() == policy[1]
    assert out("policies", "rollback", name).strip() == policy[1]


def test_a_policy_with_warnings_takes_a_reason(
    options: list[str], tmp_path: Path, models_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = json.loads((models_dir / "phantom-clean.policy.json").read_bytes())
    path = tmp_path / "warned.policy.json"
    path.write_text(json.dumps(table | {"name": "warned", "warnings": ["6 films stand apart"], "left_out": [2, 4]}))
    assert main([*options, "policies", "list"]) == 0
    assert main([*options, "policies", "add", str(path)]) == 0
    activate = [*options, "policies", "activate", "phantom-clean", "warned"]
    assert main(activate) == 1
    assert capsys.readouterr().err.startswith("warned_policy: ")
    assert main([*activate, "--despite-warnings", "six pacemakers"]) == 0
    assert capsys.readouterr().out.strip() == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def described(tmp_path: Path) -> tuple[Path, Path]:
    """A plain file, and its description."""
    said = {"name": "theirs", "labels": list(LABELS), "preprocessing": {"size": SIZE}}
    file, description = tmp_path / "theirs.onnx", tmp_path / "theirs.json"
    file.write_bytes(plain())
    description.write_text(json.dumps(said))
    return file, description


def test_a_file_is_examined_without_a_database(
    tmp_path: Path, described: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    file, description = map(str, described)
    examine = ["--data-dir", str(tmp_path / "nothing"), "classifiers", "examine"]
    assert main([*examine, file, "--description", description, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["description"]["name"] == "theirs"
    assert found["report"]["places"]
    assert main([*examine, file, "--description", description]) == 0
    assert capsys.readouterr().out.startswith(f"theirs\t{found['identity']}\n  Explained")
    assert main([*examine, file]) == 2
    assert "hand in a description" in capsys.readouterr().err
    turned = tmp_path / "turned.onnx"
    turned.write_bytes(with_a_transposed_layer())
    assert main([*examine, str(turned)]) == 2
    assert capsys.readouterr().err.startswith("unusable_classifier: Transpose cat_2: ")
    assert not (tmp_path / "nothing").exists()


def test_a_plain_file_is_audited_with_its_description(
    film: Path, described: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    file, description = map(str, described)
    assert main(["audit", "--json", "--classifier", file, "--description", description, str(film)]) == 0
    assert json.loads(capsys.readouterr().out)["classifier"]["name"] == "theirs"
    assert main(["audit", "--json", "--classifier", file, "--description", str(film), str(film)]) == 1
    assert "unusable_classifier: The description cannot be read." in capsys.readouterr().err


def test_the_schema_is_brought_up_to_date(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*options, "db", "upgrade"]) == 0
    assert capsys.readouterr().out == "sqlite: the schema is current\n"


def test_postgresql_is_refused_until_it_is_upgraded(
    options: list[str], monkeypatch: pytest.MonkeyPatch, empty_postgresql_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRIGGERSCOPE_DATABASE_URL", empty_postgresql_url)
    assert main([*options, "serve"]) == 1
    assert capsys.readouterr().err.startswith("database_not_ready: ")
    assert main([*options, "db", "upgrade"]) == 0
    assert main([*options, "keys", "list"]) == 0
