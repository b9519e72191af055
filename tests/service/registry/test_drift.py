"""Whether a policy still fits the films that come: on simulated streams, and kept in the database."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import select

from service.audit.calibration import Policy
from service.graphs.examiner import Examiner
from service.records import drift_queries
from service.records.session import Database
from service.records.tables import EventRow
from service.registry.blocks import watch
from service.registry.drift import BLOCK, Alarm, Fit, compare, usual_ranks, usual_reached
from service.registry.examinations import Examinations
from service.registry.registry import Registry, classifier_slot, in_force
from tests.service.records.rows import START, add_audit, add_job

Values = NDArray[np.float64]


@pytest.fixture(scope="module")
def shipped(models_dir: Path) -> Policy:
    return Policy.load(models_dir / "phantom-badnet3.policy.json")


def films(rng: np.random.Generator, count: int, shift: float = 0.0) -> tuple[Values, Values]:
    """Scores, a tenth of them 0 as real ones are, and distances."""
    scores = np.maximum(0.0, rng.gamma(1.5, 0.8, count) - 0.1 + shift)
    return scores, rng.normal(2.5 + shift, 0.6, count)


def calibrated(rng: np.random.Generator, policy: Policy, count: int = 300) -> Policy:
    scores, distances = (np.sort(values).astype(np.float32) for values in films(rng, count))
    return replace(policy, scores=scores, distances=distances)


def test_blocks_of_films_that_fit_alarm_as_seldom_as_stated(shipped: Policy) -> None:
    rng, count = np.random.default_rng(1), 800
    fits = [compare(*films(rng, BLOCK), calibrated(rng, shipped)) for _ in range(count)]
    for name in fits[0].p_values:
        chance = np.mean([fit.p_values[name] <= 0.05 for fit in fits])
        assert chance < 0.05 + 3 * np.sqrt(0.05 * 0.95 / count), name
    assert sum(bool(fit.alarms) for fit in fits) <= 4  # 0.8 expected; 5 or more in 1 of 700 such runs
    assert np.mean([fit.score_rank for fit in fits]) == pytest.approx(0.5, abs=0.005)
    low, high = usual_ranks(BLOCK, shipped)
    assert sum(not low <= fit.likeness_rank <= high for fit in fits) <= 4
    least, most = usual_reached(BLOCK, calibrated(rng, shipped))
    assert np.mean([least <= fit.reached <= most for fit in fits]) > 0.93


@pytest.mark.parametrize(
    ("change", "alarm"),
    [
        (lambda scores, distances: (scores + 1.0, distances), "scores"),
        (lambda scores, distances: (scores, distances + 0.5), "likeness"),
        (lambda scores, distances: (np.where(np.arange(BLOCK) < 15, 30.0, scores), distances), "reached"),
    ],
)
def test_films_that_do_not_fit_are_noticed(
    shipped: Policy, change: Callable[[Values, Values], tuple[Values, Values]], alarm: Alarm
) -> None:
    rng = np.random.default_rng(2)
    fits = [compare(*change(*films(rng, BLOCK)), calibrated(rng, shipped)) for _ in range(40)]
    assert sum(alarm in fit.alarms for fit in fits) >= 38


def test_the_three_tests_share_one_false_alarm_rate() -> None:
    assert Fit(1, 0, 0.5, 0.5, {"reached": 0.0003, "scores": 0.5, "likeness": 0.5}).alarms == ("reached",)
    assert Fit(1, 0, 0.5, 0.5, {"reached": 0.0004, "scores": 0.5, "likeness": 0.5}).alarms == ()


def test_each_source_is_watched_and_the_beginning_of_an_alarm_is_an_event(
    database: Database, models_dir: Path, tmp_path: Path, shipped: Policy
) -> None:
    registry = Registry(database, models_dir, Examinations(tmp_path / "kept", Examiner()))
    registry.synchronise("phantom-badnet3")
    with database.read() as session:
        registered = in_force(session, classifier_slot("phantom-badnet3"))
    rng, number = np.random.default_rng(4), 0

    def come(source: str, count: int, further: float = 0.0) -> None:
        nonlocal number
        with database.write() as unit:
            for _ in range(count):
                number += 1
                job = add_job(
                    unit.session, number, seconds=number, source=source, policy_sha256=shipped.sha256,
                    classifier_sha256=registered, classifier_name=shipped.classifier_name,
                )  # fmt: skip
                distance = float(rng.choice(shipped.distances)) + further
                add_audit(
                    unit.session, job, score=float(rng.choice(shipped.scores)),
                    evidence={"likeness": {"value": distance, "p_value": None}},
                    completed_at=START + timedelta(seconds=number),
                )  # fmt: skip
        watch(database, registry)

    def alarms() -> dict[str, list[list[str]]]:
        with database.read() as session:
            return {
                source: [block.alarms for block in drift_queries.blocks(session, shipped.sha256, source, 10)]
                for source in ("er", "ward")
            }

    come("er", BLOCK)
    come("ward", BLOCK + 20, further=1.0)
    assert alarms() == {"er": [[]], "ward": [["likeness"], []]}
    come("ward", BLOCK, further=1.0)
    come("ward", BLOCK)
    come("er", 10)
    watch(database, registry)
    assert alarms() == {"er": [[], []], "ward": [["likeness"], ["likeness"], [], []]}
    with database.read() as session:
        [event] = session.scalars(select(EventRow).where(EventRow.kind == "policy.no_longer_fits")).all()
        assert (event.subject, event.payload["source"], event.payload["block"]) == (shipped.sha256, "ward", 1)
        latest = drift_queries.latest_blocks(session, shipped.sha256)
        assert {source: len(block.scores) for source, block in latest.items()} == {"er": 10, "ward": 20}
