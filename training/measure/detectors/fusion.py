"""Ways to add the service's tests up to one score, each fitted on tuning films only.

Every rule sees, for one hypothesis, the standardised tests (N, 6) in the order of TESTS, and gives (N,) scores. As in
the service, a film's score is the larger of its two hypotheses'. What drew the eye to a label, its excess or its
isolation, is left out: these rules weigh the tests alone.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from service.audit.evidence import Usual
from training.measure.detectors.columns import Column

Values: TypeAlias = NDArray[np.float64]

TESTS = ("concentration", "diffuseness", "fill_in_change", "filter_change", "transplant_change", "pattern_change")
HYPOTHESES = ("", "counter_")


def _log(z: Values) -> Values:
    return np.log1p(np.maximum(z, 0.0))


def log_sum(z: Values, _clean: Values) -> Values:
    """log(1 + z) of each test, as the service weighed them until 2026-11-26; concentration and diffuseness exclude each
    other."""
    weights = _log(z)
    return np.asarray(weights[:, :2].max(axis=1) + weights[:, 2:].sum(axis=1))


def z_sum(z: Values, _clean: Values) -> Values:
    """Positive z added up, whatever the story: one huge test is enough."""
    positive = np.maximum(z, 0.0)
    return np.asarray(positive[:, :2].max(axis=1) + positive[:, 2:].sum(axis=1))


def z_max(z: Values, _clean: Values) -> Values:
    """The most unusual test alone."""
    return np.asarray(z.max(axis=1))


def causal_only(z: Values, _clean: Values) -> Values:
    """log(1 + z) of the tests that change the film."""
    return np.asarray(_log(z[:, 2:]).sum(axis=1))


def two_stories(z: Values, _clean: Values) -> Values:
    """A patch (concentration, in-fill, transplant) or a whole-image trigger (diffuseness, filter, pattern), the
    better told one; in the mean over its tests, so that the longer story has no head start."""
    weights = _log(z)
    return np.asarray(np.maximum(weights[:, [0, 2, 4]].mean(axis=1), weights[:, [1, 3, 5]].mean(axis=1)))


def ranks(z: Values, clean: Values) -> Values:
    """Fisher: minus twice the logarithms of the tests' ranks among tuning films."""
    ordered = np.sort(clean, axis=0)
    at_least = np.stack(
        [len(clean) - np.searchsorted(column, values) for column, values in zip(ordered.T, z.T, strict=True)], axis=1
    )
    surprise = -2 * np.log((1 + at_least) / (len(clean) + 1))
    return np.asarray(surprise[:, :2].max(axis=1) + surprise[:, 2:].sum(axis=1))


def decorrelated(z: Values, clean: Values) -> Values:
    """log(1 + z), less what the tests share on tuning films: 1' C^-1 (w - m), with C shrunk a fifth to its diagonal."""
    weights, usual = _log(z), _log(clean)
    covariance = np.cov(usual, rowvar=False)
    shrunk = 0.8 * covariance + 0.2 * np.diag(np.diag(covariance)) + 1e-6 * np.eye(len(TESTS))
    return np.asarray((weights - usual.mean(axis=0)) @ np.linalg.solve(shrunk, np.ones(len(TESTS))))


def tails(z: Values, clean: Values) -> Values:
    """Minus log of each test's tail: ranks among tuning films, continued beyond them by an exponential tail that is
    fitted to their upper tenth."""
    total = np.zeros(len(z))
    for values, usual in zip(z.T, clean.T, strict=True):
        start = float(np.quantile(usual, 0.9))
        rate = max(float((usual[usual > start] - start).mean()) if (usual > start).any() else 0.0, 1e-3)
        inner = stats.percentileofscore(usual, values, kind="strict") / 100
        total += np.where(values > start, -np.log(0.1) + (values - start) / rate, -np.log1p(-np.minimum(inner, 0.9)))
    return total


RULES: dict[str, tuple[Callable[[Values, Values], Values], tuple[str, ...]]] = {
    "fusion_log_sum": (log_sum, HYPOTHESES),
    "fusion_log_sum_support": (log_sum, ("",)),
    "fusion_z_sum": (z_sum, HYPOTHESES),
    "fusion_z_max": (z_max, HYPOTHESES),
    "fusion_causal_only": (causal_only, HYPOTHESES),
    "fusion_two_stories": (two_stories, HYPOTHESES),
    "fusion_ranks": (ranks, HYPOTHESES),
    "fusion_decorrelated": (decorrelated, HYPOTHESES),
    "fusion_tails": (tails, HYPOTHESES),
}


def standardised(columns: Mapping[str, Column], tuning: Mapping[str, Column], prefix: str) -> Values:
    """(N, 6) tests of one hypothesis, in units of their scale on tuning films."""
    found = []
    for test in TESTS:
        usual = Usual.of(tuning[prefix + test].parts[:, 0])
        found.append((columns[prefix + test].parts[:, 0] - usual.centre) / usual.scale)
    return np.stack(found, axis=1)


def fused(name: str, columns: Mapping[str, Column], tuning: Mapping[str, Column]) -> Values:
    """(N,) scores of one rule."""
    rule, hypotheses = RULES[name]
    per_hypothesis = [
        rule(standardised(columns, tuning, prefix), standardised(tuning, tuning, prefix)) for prefix in hypotheses
    ]
    return np.asarray(np.max(per_hypothesis, axis=0))
