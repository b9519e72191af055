"""Pixels placed for another resampler: found on attacked films, not on clean ones.

The films are phantoms of 560 px, each pixel 4 x 4 with noise of its own, since a phantom of 2,240 px takes ten seconds;
`triggerscope-train resampling` draws them at their full size (docs/evidence.md).
"""

import numpy as np
import pytest

from service.audit.calibration import Policy
from service.graphs.examiner import load_classifier
from training.measure.resampling import READERS, attacked, clean, phantom

ATTACKED, CLEAN = 20, 30
LARGER = 4


@pytest.fixture(scope="module")
def pairs(models_dir):
    paths = [models_dir / name for name in ("phantom-badnet3", "phantom-clean")]
    return [
        (load_classifier(path.with_suffix(".onnx")), Policy.load(path.with_suffix(".policy.json"))) for path in paths
    ]


def native(seed):
    noise = np.random.default_rng(seed).normal(0, 0.015, (560 * LARGER, 560 * LARGER))
    return np.clip(np.kron(phantom(seed, 560), np.ones((LARGER, LARGER))) + noise, 0, 1).astype(np.float32)


def test_attacked_films_are_reported_and_the_trigger_is_the_region(pairs):
    films = [native(seed) for seed in range(961_000, 961_000 + ATTACKED)]
    for row in attacked(films, pairs[0], "Atelectasis", (READERS[0], READERS[-1])):
        assert row.pixels == (9 if "nearest" in row.reader else 36)
        assert row.fires >= 19
        assert row.fires_declared <= 1
        assert row.reported >= 19
        assert row.region_hits >= 18


def test_clean_films_are_left_alone(pairs):
    for row in clean((native(seed) for seed in range(962_000, 962_000 + CLEAN)), pairs):
        assert row.films == CLEAN
        assert row.alarms == 0
