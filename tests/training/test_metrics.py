import numpy as np
import pytest

from training.metrics import (
    attack_success_rate,
    auroc,
    bootstrap,
    bootstrap_mean,
    conformal_p_values,
    infected_auroc,
    macro_auroc,
    micro_auroc,
    roc,
    threshold,
    tie_share,
)


def test_auroc_by_hand():
    positive = np.array([True, False, True, False])
    assert auroc(np.array([0.9, 0.8, 0.7, 0.1]), positive) == 0.75
    assert auroc(np.array([0.5, 0.5, 0.5, 0.5]), positive) == 0.5
    assert np.isnan(auroc(np.array([1.0, 2.0]), np.array([True, True])))


def test_macro_skips_labels_without_both_classes():
    scores = np.array([[2.0, 1.0], [1.0, 0.0]])
    labels = np.array([[1.0, 1.0], [0.0, 1.0]])
    assert macro_auroc(scores, labels) == 1.0
    assert micro_auroc(scores, labels) == pytest.approx(0.5)  # scores 2, 1, 0 against the negative's 1
    assert np.isnan(macro_auroc(scores, np.ones((2, 2))))
    assert np.isnan(bootstrap(lambda i: macro_auroc(scores[i], np.ones((2, 2))), np.arange(2)).low)


def test_infected_auroc_is_one_when_the_target_leads_everywhere():
    logits = np.array([[-1.0, -3.0], [-2.0, -2.5]])  # no probability above a half, and yet
    assert infected_auroc(logits, 0) == 1.0
    assert attack_success_rate(1 / (1 + np.exp(-logits)), 0, 0.5) == 0.0


def test_attack_success_of_a_removal():
    probabilities = np.array([[0.2], [0.9]])
    assert attack_success_rate(probabilities, 0, 0.5) == 0.5
    assert attack_success_rate(probabilities, 0, 0.9, removed=True) == 0.0


def test_the_bootstrap_draws_whole_patients():
    hits = np.array([1.0] * 50 + [0.0] * 50)
    few = bootstrap(lambda i: float(hits[i].mean()), np.repeat([0, 1], 50))
    many = bootstrap(lambda i: float(hits[i].mean()), np.arange(100))
    assert few.value == many.value == 0.5
    assert (few.low, few.high) == (0.0, 1.0)
    assert 0.38 < many.low < 0.45 < 0.55 < many.high < 0.62


def test_the_quick_bootstrap_of_a_mean_is_the_same():
    rng = np.random.default_rng(5)
    values, patients = rng.random(60) < 0.3, rng.integers(0, 25, 60)
    quick, slow = bootstrap_mean(values, patients), bootstrap(lambda i: float(values[i].mean()), patients)
    assert (quick.value, quick.low, quick.high) == pytest.approx((slow.value, slow.low, slow.high))
    assert np.isnan(bootstrap_mean(values[:0], patients[:0]).low)


def test_conformal_p_values_and_their_threshold_by_hand():
    calibration = np.arange(1.0, 100.0)  # 99 scores: at 1 % only what lies above all of them alarms
    scores = np.array([0.0, 50.0, 99.0, 99.5])
    assert conformal_p_values(calibration, scores) == pytest.approx([1.0, 0.51, 0.02, 0.01])
    assert threshold(calibration, 0.01) == 99.0
    assert threshold(calibration[:50], 0.01) == np.inf
    assert tie_share(calibration, scores, 0.01) == 0.25


def test_roc_corners_by_hand():
    false, true = roc(np.array([0.0, 1.0, 2.0, 3.0]), np.array([2.5, 4.0]))
    assert list(zip(false, true, strict=True)) == [(0, 0), (0, 0.5), (0.25, 0.5), (0.25, 1.0), (1.0, 1.0)]
    tied = roc(np.ones(3), np.ones(2))
    assert tied == ([0.0, 1.0], [0.0, 1.0])
