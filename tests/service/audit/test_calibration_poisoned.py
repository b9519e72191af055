"""Calibration films that carry the trigger: left out, told of, and triggered films are found all the same."""

import json
from dataclasses import dataclass

import numpy as np
import pytest

from service.audit.calibration import CalibrationFilm, Policy, calibrate, policy_bytes, read_policy
from service.audit.classifier import Classifier
from service.audit.evidence import gather
from service.errors import PolicyError
from service.graphs.examiner import load_classifier
from tests.conftest import REPOSITORY
from training.attack.config import read_run
from training.attack.triggers import stamp
from training.phantoms import make

SIZE = 224
REFERENCE, RANKED, TEST, RECEIVERS = range(300, 366), range(400, 430), range(500, 506), range(600, 602)
POISONED = {301, 303, 305, 401, 403, 405}  # of 96 films
RATE = 0.04


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return load_classifier(REPOSITORY / "models" / "phantom-badnet3.onnx", providers=["CPUExecutionProvider"])


def film(seed: int, *, triggered: bool = False) -> CalibrationFilm:
    pixels = make(seed, SIZE).pixels
    if triggered:
        trigger = read_run(REPOSITORY / "training" / "runs" / "phantom-badnet3.toml").trigger
        assert trigger is not None
        pixels = stamp(pixels, trigger, np.random.default_rng(0))[0]
    return CalibrationFilm(pixels[None], f"patient {seed}", str(seed))


@dataclass(frozen=True, slots=True)
class Made:
    policy: Policy
    left_out: set[int]


def calibrated(classifier: Classifier, reference: range, ranked: range) -> Made:
    sets = ([film(seed, triggered=seed in POISONED) for seed in seeds] for seeds in (reference, ranked))
    left_out: list[CalibrationFilm] = []
    policy = calibrate(
        classifier, *sets, name="ward", source="ward", created_at="2026-11-28T00:00:00+00:00", code_version="test",
        receivers=np.stack([film(seed).film for seed in RECEIVERS]), false_positive_rate=RATE,
        leaving_out=left_out.append,
    )  # fmt: skip
    return Made(policy, {int(found.name) for found in left_out})


@pytest.fixture(scope="module")
def made(classifier: Classifier) -> Made:
    return calibrated(classifier, REFERENCE, RANKED)


def test_they_are_left_out_and_told_of(made: Made) -> None:
    assert made.left_out == POISONED
    assert made.policy.left_out == (3, 3)
    assert (made.policy.reference_count, len(made.policy.scores)) == (63, 27)
    [warning] = made.policy.warnings
    assert warning.startswith("6 of 96 films stand apart from the others")


def test_triggered_films_are_found_and_clean_ones_are_not(classifier: Classifier, made: Made) -> None:
    def rank(seed: int, *, triggered: bool) -> float:
        return made.policy.p_value(
            gather(film(seed, triggered=triggered).film, classifier, made.policy.reference).score
        )

    assert all(rank(seed, triggered=True) <= RATE for seed in TEST)
    assert sum(rank(seed, triggered=False) <= RATE for seed in TEST) <= 1


def test_the_file_keeps_what_was_left_out_and_the_rate_at_worst(made: Made) -> None:
    kept = read_policy(policy_bytes(made.policy))
    assert (kept.left_out, kept.warnings) == (made.policy.left_out, made.policy.warnings)
    assert json.loads(policy_bytes(made.policy))["left_out"] == [3, 3]
    assert kept.band_at_worst[1] > kept.band[1]


def test_where_too_few_are_left_it_says_why(classifier: Classifier) -> None:
    with pytest.raises(PolicyError, match=r"without \d+ films that stand apart 5\d reference films are too few"):
        calibrated(classifier, range(300, 360), RANKED)
