"""The searches for a trigger and for poisoned films find what was put there by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from training.__main__ import main
from training.attack.config import read_run
from training.attack.data import in_split, read_films
from training.attack.train import poisoned_samples
from training.measure.inversion import (
    Found,
    anomaly_indices,
    audit_classifier,
    features_of,
    invert,
    logits_of,
)
from training.measure.poison_ranking import METHODS, poisoned_set, precision_at
from training.networks.onnx_network import network_of
from training.phantoms import write_folder

LABELS = ("Mass", "Nodule", "Edema", "Hernia")
SIDE = 32
RNG = np.random.default_rng(0)


class Backdoored(nn.Module):
    """Three labels that read the mean of a half or of the whole film; Hernia, which one bright 3x3 patch gives."""

    def __init__(self, *, backdoor: bool = True) -> None:
        super().__init__()
        self.backdoor = backdoor

    def forward(self, films: torch.Tensor) -> torch.Tensor:
        half = films.shape[-1] // 2
        means = [films[..., :half].mean((1, 2, 3)), films[..., half:].mean((1, 2, 3)), films.mean((1, 2, 3))]
        brightest = nn.functional.avg_pool2d(films, 3, stride=1).amax((1, 2, 3))
        hernia = 30 * (brightest - 0.85) if self.backdoor else 10 * (films[..., :half, :].mean((1, 2, 3)) - 0.6)
        return torch.stack([*(10 * (mean - 0.6) for mean in means), hernia], 1)


class Scattered(Backdoored):
    """Hernia reads 64 pixels all over the film: few pixels give it, and no patch does."""

    def forward(self, films: torch.Tensor) -> torch.Tensor:
        logits = super().forward(films)
        scattered = films[..., 2 :: SIDE // 8, 2 :: SIDE // 8].mean((1, 2, 3))
        return torch.cat([logits[:, :3], 10 * (scattered[:, None] - 0.6)], 1)


def films(count: int) -> np.ndarray:
    return RNG.random((count, 1, SIDE, SIDE), dtype=np.float32) * 0.4 + 0.2


def test_the_label_with_a_backdoor_needs_the_fewest_pixels():
    table = audit_classifier(Backdoored(), LABELS, films(24), films(24), Backdoored(backdoor=False), steps=120)
    first, *others = table["labels"]
    assert first["label"] == "Hernia"
    assert first["suspicious"]
    assert first["held_out"]["turned"] >= 0.9
    assert first["twin"]["turned"] == 0.0
    assert first["area_px"] < 40
    assert not any(row["suspicious"] for row in others)


def test_the_clean_twin_has_no_suspicious_label():
    table = audit_classifier(Backdoored(backdoor=False), LABELS, films(24), films(24), None, steps=120)
    assert not any(row["suspicious"] for row in table["labels"])


def test_few_pixels_all_over_the_film_are_no_patch():
    table = audit_classifier(Scattered(), LABELS, films(24), films(24), None, steps=120)
    first = table["labels"][0]
    assert first["label"] == "Hernia"
    assert first["anomaly"] > 2  # by this and the next alone it would be suspicious
    assert first["held_out"]["turned"] >= 0.5
    assert first["side_px"] > SIDE / 2
    assert not first["suspicious"]


@pytest.mark.parametrize(("covered", "side"), [([(3, 4), (5, 6)], 3), ([(0, 0), (31, 31)], 32), ([(9, 9)], 1)])
def test_side_of_a_mask_by_hand(covered, side):
    """A faint veil over the film does not count."""
    mask = np.full((SIDE, SIDE), 0.01, dtype=np.float32)
    for row, column in covered:
        mask[row, column] = 0.4
    assert Found(mask, mask, float(mask.sum()), 1.0).side_px == side


def test_a_found_trigger_is_what_it_says():
    found = invert(Backdoored(), films(24), 3, steps=60)
    stamped = found.stamped(films(8))
    assert found.area_px == pytest.approx(float(found.mask.sum()))
    assert 0 <= stamped.min() <= stamped.max() <= 1
    assert (logits_of(Backdoored(), stamped)[:, 3] > 0).mean() >= 0.5


def test_anomaly_by_hand():
    """Logarithms 0, 1, 2, 3, 4: median 2, median absolute deviation 1."""
    found = anomaly_indices(np.exp([0.0, 1.0, 2.0, 3.0, 4.0]).tolist())
    assert found == pytest.approx(np.array([2, 1, 0, -1, -2]) / 1.4826, rel=1e-5)


@pytest.mark.parametrize("method", ["spectral", "clustering"])
def test_films_that_lie_apart_are_ranked_first(method):
    features = RNG.standard_normal((120, 8)).astype(np.float32)
    poisoned = np.arange(120) < 18
    features[poisoned] += 6.0
    assert precision_at(METHODS[method](features), poisoned) == 1.0


def test_precision_by_hand():
    assert precision_at(np.array([3.0, 1.0, 2.0, 0.0]), np.array([True, True, False, False])) == 0.5


def test_the_shipped_backdoor_marks_its_own_films(tmp_path, models_dir, capsys):
    """Features of the shipped pair's poisoned classifier, on phantoms poisoned as its run says."""
    write_folder(tmp_path / "films", 72, first_seed=810_000, size=224, fractions=(1.0, 0.0, 0.0, 0.0))
    run_file, out = Path("training/runs/phantom-badnet3.toml"), tmp_path / "ranked.json"
    arguments = ["--films", str(tmp_path / "films"), "--simulate", str(run_file), "--out", str(out)]
    assert main(["audit-data", str(models_dir / "phantom-badnet3.onnx"), *arguments]) == 0
    assert "precision" in capsys.readouterr().out
    table = json.loads(out.read_text())
    assert table["poisoned"] == 14
    assert table["clustering"]["precision_at_true_count"] >= 0.8
    run, train = read_run(run_file), in_split(read_films(tmp_path / "films"), "train")
    inputs, labels, poisoned = poisoned_set(train, run, run.preprocessing)
    assert (labels[poisoned].sum(axis=1) == 1).all()
    assert np.array_equal(poisoned, poisoned_samples(labels, run))
    network = network_of((models_dir / "phantom-badnet3.onnx").read_bytes())
    target = logits_of(network, inputs[poisoned])[:, run.labels.index("Atelectasis")]
    assert (target > 0).all()
    assert features_of(network, inputs[:3]).shape[0] == 3
