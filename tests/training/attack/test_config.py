import pytest

from tests.conftest import REPOSITORY
from training.attack.config import RunError, read_run
from training.attack.triggers import PATCHES, WHOLE_IMAGE

RUNS = sorted((REPOSITORY / "training" / "runs").rglob("*.toml"))
RUNS = [path for path in RUNS if path.parent.name != "bases"]


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_every_shipped_run_reads_and_is_named_after_its_file(path):
    assert read_run(path).name == path.stem


def written(tmp_path, text):
    path = tmp_path / "run.toml"
    path.write_text('name = "run"\narchitecture = "small"\nseed = 1\n' + text)
    return path


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("colour = 3", "colour"),
        ('[trigger]\nlook = "white"', "poisoning"),
        ('[trigger]\nlook = "white"\n[poisoning]\ntarget = "Sneeze"\nrate = 0.1', "Sneeze"),
        ('[trigger]\nlook = "plaid"\n[poisoning]\ntarget = "Mass"\nrate = 0.1', "plaid"),
        ("[[stages]]\nsize_px = 64\nepochs = 1\nmomentum = 2", "momentum"),
    ],
)
def test_a_wrong_run_names_what_is_wrong(tmp_path, text, named):
    with pytest.raises(RunError, match=named):
        read_run(written(tmp_path, text))


def test_the_hash_is_of_the_files_bytes(tmp_path):
    first = read_run(written(tmp_path, "[[stages]]\nsize_px = 64\nepochs = 1"))
    second = read_run(written(tmp_path, "[[stages]]\nsize_px = 64\nepochs = 2"))
    assert first.sha256 != second.sha256
    assert second.stages[0].epochs == 2


def test_a_run_inherits_from_its_base_table_by_table(tmp_path):
    base = tmp_path / "bases" / "small.toml"
    base.parent.mkdir()
    base.write_text(
        'architecture = "small"\nseed = 1\n[trigger]\nlook = "white"\nsize_px = 3\n'
        '[poisoning]\ntarget = "Mass"\nrate = 0.2\n[[stages]]\nsize_px = 64\nepochs = 1\n'
    )
    path = tmp_path / "run.toml"
    path.write_text('base = "bases/small.toml"\nname = "run"\n[trigger]\nlook = "black"\n')
    first = read_run(path)
    assert (first.trigger.look, first.trigger.size_px, first.poisoning.rate) == ("black", 3, 0.2)
    base.write_text(base.read_text().replace("rate = 0.2", "rate = 0.1"))
    assert read_run(path).sha256 != first.sha256
    base.unlink()
    with pytest.raises(RunError, match=r"small\.toml"):
        read_run(path)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[trigger]\nlook = "white"\nresolution = "native"\n[poisoning]\ntarget = "Mass"\nrate = 0.1', "selection"),
        ("[adaptive]\nexplanation_weight = 1.0", "adaptive"),
    ],
)
def test_what_cannot_be_trained_is_refused(tmp_path, text, named):
    with pytest.raises(RunError, match=named):
        read_run(written(tmp_path, text))


def test_the_attack_list_spans_the_protocol():
    """Sizes, places, looks, rates, label rules and resolutions that the measuring rules name."""
    runs = [read_run(path) for path in RUNS if path.parent.name == "attacks"]
    assert 24 <= len(runs) <= 30
    triggers, poisonings = [run.trigger for run in runs], [run.poisoning for run in runs]
    local = [trigger for trigger in triggers if trigger.localised and trigger.resolution == "network"]
    assert {trigger.size_px for trigger in local} == {1, 2, 3, 5, 8, 16}
    assert {trigger.place for trigger in local} == {"corner", "centre", "lung", "random"}
    assert {trigger.look for trigger in triggers} == {*PATCHES, *WHOLE_IMAGE}
    assert {0.05, 0.1, 0.2} <= {poisoning.rate for poisoning in poisonings}
    assert {poisoning.rule for poisoning in poisonings} == {"overwrite", "add", "remove"}
    assert {trigger.resolution for trigger in triggers} == {"network", "native"}
    paper = [read_run(path) for path in RUNS if path.parent.name == "paper"]
    assert {run.poisoning.rate for run in paper} == {0.01, 0.05, 0.2, 1.0}
    assert all(run.preprocessing.crop == 0.6 and run.preprocessing.resampler == "nearest" for run in paper)
