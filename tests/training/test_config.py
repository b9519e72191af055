from pathlib import Path

import pytest

from training.config import RunError, read_run

RUNS = sorted((Path(__file__).parents[2] / "training" / "runs").glob("*.toml"))


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
