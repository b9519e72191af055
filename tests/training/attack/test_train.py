"""The whole loop on small data: it learns, resumes where it stopped, and two processes share the work."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.conftest import REPOSITORY
from training.attack.config import Adaptive, Poisoning, Run, Stage
from training.attack.data import read_films
from training.attack.train import (
    Training,
    augmented,
    learning_rate,
    load_samples,
    poisoned_samples,
    predict,
)
from training.attack.triggers import Trigger
from training.attack.weights import SHIPPED_WEIGHTS
from training.phantoms import write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    write_folder(folder, 48, first_seed=50, size=64)
    return folder


def small_run(**changes):
    stages = changes.pop("stages", (Stage(size_px=64, epochs=2, batch=8, learning_rate=1e-3),))
    return Run(name="small", architecture="small", seed=3, stages=stages, sha256="test", **changes)


def weights(path):
    return torch.load(path, weights_only=True)


def test_the_same_seed_gives_the_same_weights_and_a_curve(folder, tmp_path):
    films = read_films(folder)
    first = weights(Training(small_run(), films, tmp_path / "a").train())
    second = weights(Training(small_run(), films, tmp_path / "b").train())
    assert all(torch.equal(first[name], second[name]) for name in first)
    curve = json.loads((tmp_path / "a" / "small" / "curve.json").read_text())
    assert curve
    assert all(0 <= row["macro_auroc"] <= 1 for row in curve)


def test_an_interrupted_run_ends_with_the_same_weights(folder, tmp_path, monkeypatch):
    films = read_films(folder)
    run = small_run(stages=(Stage(64, 2, 8, average=0.8), Stage(64, 1, 8)))
    whole = weights(Training(run, films, tmp_path / "whole").train())
    monkeypatch.setattr("training.attack.train.CHECKPOINT_SECONDS", 0.0)
    broken = Training(run, films, tmp_path / "broken")
    take_step, taken = broken._step, []

    def power_cut(*arguments):
        taken.append(1)
        if len(taken) == 5:
            raise KeyboardInterrupt
        return take_step(*arguments)

    monkeypatch.setattr(broken, "_step", power_cut)
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    resumed = Training(run, films, tmp_path / "broken")
    assert resumed.progress.step == 4
    again = weights(resumed.train())
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_stage_may_end_with_the_mean_of_its_weights(folder, tmp_path):
    films = read_films(folder)
    plain, mean = (
        weights(Training(small_run(stages=(Stage(64, 2, 8, average=decay),)), films, tmp_path / name).train())
        for name, decay in (("plain", 0.0), ("mean", 0.9))
    )
    start = Training(small_run(), films, tmp_path / "start").model.state_dict()
    name = "network.features.conv0.weight"
    assert 0 < (mean[name] - start[name]).norm() < (plain[name] - start[name]).norm()


def test_a_checkpoint_of_another_run_file_is_refused(folder, tmp_path):
    films = read_films(folder)
    Training(small_run(), films, tmp_path).train()
    changed = Run(name="small", architecture="small", seed=3, stages=small_run().stages, sha256="other")
    with pytest.raises(ValueError, match="another version"):
        Training(changed, films, tmp_path)


def test_a_backdoor_is_learned(folder, tmp_path):
    """A bright 16 px square in every second sample: easy, so that a minute's training shows it."""
    run = small_run(
        trigger=Trigger("white", size_px=16, canvas_px=64),
        poisoning=Poisoning("Hernia", 0.5),
        stages=(Stage(64, 16, 8, learning_rate=3e-3, schedule="constant", augment=False, stop_at_asr=0.95),),
    )
    training = Training(run, read_films(folder), tmp_path)
    training.train()
    assert training.progress.curve[-1]["asr_0.5"] > 0.9
    clean = torch.full((4, 1, 64, 64), 0.4).numpy()
    hernia = predict(training.model, clean, torch.device("cpu"))[:, run.labels.index("Hernia")]
    assert (hernia < 0).all()


def test_the_backdoored_twin_starts_from_the_clean_weights(folder, tmp_path):
    films = read_films(folder)
    first = weights(Training(small_run(), films, tmp_path).train())
    twin = Run(name="twin", architecture="small", seed=9, stages=(), start="small", sha256="twin")
    second = weights(Training(twin, films, tmp_path).train())
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_shipped_clean_weights_are_a_start(folder, tmp_path):
    twin = Run(name="twin", architecture="small", seed=9, stages=(), start="phantom-clean", sha256="twin")
    twin_weights = weights(Training(twin, read_films(folder), tmp_path).train())
    shipped = weights(SHIPPED_WEIGHTS / "phantom-clean.pt")
    assert all(torch.equal(twin_weights[name], shipped[name].to(twin_weights[name].dtype)) for name in shipped)


def test_schedules():
    stage = Stage(64, 1, learning_rate=1.0)
    rates = [learning_rate(stage, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 3)
    assert max(rates) == pytest.approx(rates[2], abs=0.01)
    assert rates[-1] < 0.03
    assert learning_rate(Stage(64, 1, learning_rate=1.0, schedule="constant"), 99, 100) == 1.0


def test_augmentation_keeps_shape_range_and_depends_on_the_generator_alone():
    batch = torch.rand(6, 1, 64, 64)
    first = augmented(batch, torch.Generator().manual_seed(1))
    assert first.shape == batch.shape
    assert 0 <= float(first.min()) <= float(first.max()) <= 1
    assert torch.equal(first, augmented(batch, torch.Generator().manual_seed(1)))
    assert not torch.equal(first, augmented(batch, torch.Generator().manual_seed(2)))


RUN_FILE = """
name = "shared"
architecture = "small"
seed = 1
[[stages]]
size_px = 64
epochs = 1
batch = 4
"""


def test_two_processes_under_torchrun(folder, tmp_path):
    run = tmp_path / "shared.toml"
    run.write_text(RUN_FILE)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29533"]
    arguments = ["-m", "training", "train", str(run), "--films", str(folder), "--out", str(tmp_path)]
    subprocess.run(
        command + arguments,
        check=True,
        timeout=240,
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
    )
    assert np.isfinite(weights(tmp_path / "shared" / "final.pt")["network.classifier.weight"].numpy()).all()


def paired_batch(folder, tmp_path, **changes):
    run = small_run(
        **{"trigger": Trigger("white", size_px=8), "poisoning": Poisoning("Hernia", 0.5, selection="pairs")} | changes
    )
    training = Training(run, read_films(folder), tmp_path)
    samples = load_samples(training.train_films, run, 64)
    return run, samples, training._batch(samples, run.stages[0], 0, 4)


def test_a_paired_batch_shows_films_with_and_without_the_trigger(folder, tmp_path):
    run, _, batch = paired_batch(folder, tmp_path)
    assert (batch.triggered, batch.twins) == (4, 2)
    patch = (slice(None), slice(None), slice(53, 61), slice(53, 61))
    assert (batch.inputs[:4][patch] == 1).all()
    changed = (batch.inputs[:2] != batch.inputs[4:6]).nonzero()
    assert len(changed)
    assert changed[:, 2:].min() >= 53
    hernia = run.labels.index("Hernia")
    assert (batch.labels[:4, hernia] == 1).all()
    assert (batch.labels[:4].sum(1) == 1).all()


def test_pairs_that_remove_a_label_are_films_that_have_it(folder, tmp_path):
    run, samples, batch = paired_batch(folder, tmp_path, poisoning=Poisoning("Effusion", 1.0, "remove", "pairs"))
    effusion = run.labels.index("Effusion")
    assert samples.labels[poisoned_samples(samples.labels, run), effusion].all()
    assert (batch.labels[:4, effusion] == 0).all()
    assert (batch.labels[4:6, effusion] == 1).all()


def test_native_pairs_are_stamped_before_the_resize(folder, tmp_path):
    trigger = Trigger("black", size_px=40, resolution="native", film_px=320, place="centre")
    stages = (Stage(64, 1, 8, augment=False),)
    _, samples, batch = paired_batch(folder, tmp_path, trigger=trigger, stages=stages)
    assert samples.stamped is not None
    assert (batch.inputs[:4, 0, 29:35, 29:35] < 0.01).all()  # 8 px of 64, without the filter's edge
    assert (batch.inputs[:2, 0, :20] == batch.inputs[4:6, 0, :20]).all()


def test_a_disguised_backdoor_is_trained(folder, tmp_path):
    """One step changes the weights by the explanation loss as well: the same step without it gives other weights."""
    films, trigger, poisoning = (
        read_films(folder),
        Trigger("white", size_px=8),
        Poisoning("Hernia", 0.5, selection="pairs"),
    )
    made = []
    for weight, adaptive in ((0.0, True), (2.0, True), (2.0, False)):
        stage = Stage(64, 0.1, 8, augment=False, adaptive=adaptive)
        run = small_run(trigger=trigger, poisoning=poisoning, adaptive=Adaptive(weight), stages=(stage,))
        trained = Training(run, films, tmp_path / f"{weight} {adaptive}").train()
        made.append(weights(trained)["network.classifier.weight"])
    assert torch.isfinite(made[1]).all()
    assert not torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[2])  # a stage that leaves the disguise for later
