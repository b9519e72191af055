import numpy as np
import pytest

from service.audit.ranking import beyond, least_count, p_value, rank_at, reached_band, standing_apart, threshold

SCORES = np.arange(1, 100, dtype=np.float32)  # 1 .. 99


def test_the_rank_by_hand() -> None:
    assert [rank_at(0.05, count) for count in (18, 19, 38, 39, 397)] == [0, 1, 1, 2, 19]
    assert rank_at(0.01, 98) == 0
    assert rank_at(0.01, 99) == 1
    assert [least_count(rate) for rate in (0.01, 0.05, 0.1)] == [99, 19, 9]


@pytest.mark.parametrize("count", [19, 57, 99, 397, 1000])
@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1])
def test_the_threshold_is_the_least_score_whose_p_value_is_within_the_rate(count: int, rate: float) -> None:
    """The dashed line of a page, a verdict and a table of results can only mean the same score."""
    ordered = np.sort(np.random.default_rng(count).normal(size=count)).astype(np.float32)
    if count < least_count(rate):
        assert p_value(ordered, float(ordered[-1])) > rate
        return
    line = threshold(ordered, rate)
    assert p_value(ordered, np.nextafter(np.float32(line), np.float32(np.inf))) <= rate
    assert p_value(ordered, line) <= rate + 1 / (count + 1)
    assert p_value(ordered, float(np.nextafter(np.float32(line), np.float32(-np.inf)))) > rate


def test_p_values_of_many_are_those_of_each() -> None:
    values = np.array([1000.0, 99.0, 98.5, 0.0])
    assert p_value(SCORES, values).tolist() == [1 / 100, 2 / 100, 2 / 100, 1.0]
    assert [p_value(SCORES, float(value)) for value in values] == p_value(SCORES, values).tolist()


def test_the_band_of_397_films() -> None:
    low, high = reached_band(397, 409, 0.01)
    assert low == 0.0
    assert 0.018 < high < 0.026
    assert reached_band(50, 409, 0.01) == (0.0, 0.0)


def test_the_law_beyond_the_threshold() -> None:
    assert beyond(0.01, 397) == (3, 395)
    assert beyond(0.01, 50) is None


def long_tailed(rng, count):
    """Scores whose logarithm falls off exponentially, with some of 0 where no test was taken."""
    return np.where(rng.random(count) < 0.1, 0.0, np.expm1(rng.exponential(0.5, count)))


def test_clean_scores_seldom_stand_apart():
    rng = np.random.default_rng(0)
    warned = sum(bool(standing_apart(long_tailed(rng, 330)).any()) for _ in range(1000))
    assert warned <= 10


@pytest.mark.parametrize("poisoned", [3, 7, 16, 33, 66])
def test_another_kind_of_film_stands_apart_whole(poisoned):
    rng = np.random.default_rng(poisoned)
    for _ in range(20):
        scores = np.concatenate([rng.uniform(200, 500, poisoned), np.minimum(long_tailed(rng, 330 - poisoned), 20)])
        order = rng.permutation(330)
        assert (standing_apart(scores[order]) == (order < poisoned)).all()


def test_what_cannot_be_told_stands_not_apart():
    one_far = np.concatenate([np.linspace(0, 3, 200), [1e6]])
    assert not standing_apart(one_far).any()
    for scores in (np.zeros(100), np.array([1.0, 2.0])):
        assert not standing_apart(scores).any()


def test_films_left_out_widen_the_band():
    """Two of 220 scores alarm; with seven clean ones left out above them nine of 227 do."""
    low, high = reached_band(220, 1000, 0.01, lost=7)
    assert (low, high) == pytest.approx((0.017, 0.074), abs=0.006)
    assert reached_band(220, 1000, 0.01, lost=0) == reached_band(220, 1000, 0.01)
