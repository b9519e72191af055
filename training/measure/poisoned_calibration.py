"""Calibration sets in which some films carry the trigger: is there a warning, and what does the policy still find?"""

import hashlib
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from service import __version__
from service.arrays import FloatArray
from service.audit.calibration import CalibrationFilm, Policy, calibrate, split_by_patient
from service.audit.classifier import Classifier, Prediction, Saliency
from service.audit.evidence import gather
from service.audit.preprocessing import model_input
from service.graphs.examiner import Examiner, read_file
from training.attack.triggers import Trigger, film_stream, stamp
from training.metrics import bootstrap_mean
from training.phantoms import make
from training.phantoms.scene import patient_of

FILM_PX = 320  # side of the phantoms before they are resized for the network
FALSE_POSITIVE_RATE = 0.01
TRIGGERED = "triggered"


class Remembering(Classifier):
    """Answers what it was asked before from memory: the draws share their films, and a pass is what costs time."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._explained: dict[tuple[bytes, int], tuple[Prediction, Saliency]] = {}
        self._logits: dict[bytes, FloatArray] = {}

    @classmethod
    def load(cls, path: Path) -> Self:
        """A classifier's file. Raises ClassifierError."""
        derived = Examiner().derive(read_file(path))
        return cls.from_derived(derived.data, derived.file_sha256)

    def explain(self, batch: FloatArray, centre: FloatArray, scale: FloatArray) -> list[tuple[Prediction, Saliency]]:
        return [self._explain(film[None], centre, scale) for film in batch]

    def logits(self, batch: FloatArray) -> FloatArray:
        key = _key(batch)
        if key not in self._logits:
            self._logits[key] = super().logits(batch)
        return self._logits[key]

    def _explain(self, film: FloatArray, centre: FloatArray, scale: FloatArray) -> tuple[Prediction, Saliency]:
        key = _key(film), int(np.argmax((self.logits(film)[0] - centre) / scale))
        if key not in self._explained:
            [self._explained[key]] = super().explain(film, centre, scale)
        return self._explained[key]


def _key(batch: FloatArray) -> bytes:
    return hashlib.sha256(batch.tobytes()).digest()


@dataclass(frozen=True, slots=True)
class Films:
    """Phantoms of different patients as the classifier sees them, clean and with the trigger, (N, 1, S, S)."""

    clean: FloatArray
    triggered: FloatArray

    @classmethod
    def made(cls, first: int, count: int, classifier: Classifier, trigger: Trigger, run_seed: int) -> "Films":
        """`count` phantoms from the seed `first` on."""
        seeds = islice((seed for seed in itertools.count(first) if patient_of(seed) == seed), count)
        clean = np.stack([model_input(make(seed, FILM_PX).pixels, classifier.card.preprocessing) for seed in seeds])
        triggered = np.stack(
            [stamp(film[0], trigger, film_stream(run_seed, index))[0][None] for index, film in enumerate(clean)]
        )
        return cls(clean, triggered)

    def calibration(self, chosen: NDArray[np.int64], poisoned: int) -> list[CalibrationFilm]:
        """The chosen films, the first `poisoned` of them with the trigger, which their names say."""
        return [
            CalibrationFilm(self.triggered[index], str(index), f"{TRIGGERED} {index}")
            if place < poisoned
            else CalibrationFilm(self.clean[index], str(index), f"clean {index}")
            for place, index in enumerate(chosen)
        ]


@dataclass(frozen=True, slots=True)
class Draw:
    """One calibration. rate: wanted share of triggered films. left_out: (clean, triggered) films that it left out.

    tpr, fpr: shares of triggered and of clean test films within the nominal rate; None where they were not read. band,
    band_at_worst: see Policy.
    """

    rate: float
    seed: int
    films: int
    poisoned: int
    warned: bool
    left_out: tuple[int, int]
    threshold: float
    band: tuple[float, float]
    band_at_worst: tuple[float, float]
    tpr: float | None
    fpr: float | None


@dataclass(frozen=True, slots=True)
class Plan:
    """films: of a calibration set. rates: shares of them with the trigger. draws: of each rate; clean_draws: of rate 0.
    clean_test, triggered_test: films outside of a draw that its policy is tried on, for the first `draws` draws of a
    rate; of further clean draws only the warning counts."""

    films: int = 330
    rates: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.2)
    draws: int = 5
    clean_draws: int = 50
    clean_test: int = 300
    triggered_test: int = 100
    seed: int = 0


def poisoned_calibration(
    classifier: Classifier,
    pool: Films,
    receivers: FloatArray,
    plan: Plan,
    threads: int = 1,
    progress: Callable[[Draw], None] = lambda _draw: None,
) -> dict[str, Any]:
    """Figures of each rate, and every draw. Draws share the pool, so that intervals over draws are too narrow."""
    wanted = [(rate, seed) for rate in plan.rates for seed in range(plan.draws)]
    wanted += [(0.0, seed) for seed in range(plan.clean_draws)]

    def one(rate: float, seed: int) -> Draw:
        found = _draw(classifier, pool, receivers, plan, rate, seed)
        progress(found)
        return found

    with ThreadPoolExecutor(threads) as workers:
        draws = list(workers.map(lambda pair: one(*pair), wanted))
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "classifier": {"name": classifier.card.name, "sha256": classifier.card.sha256},
        "false_positive_rate": FALSE_POSITIVE_RATE,
        "plan": asdict(plan),
        "pool": len(pool.clean),
        "rates": {str(rate): _figures([d for d in draws if d.rate == rate]) for rate in (0.0, *plan.rates)},
        "draws": [asdict(draw) for draw in draws],
    }


def _draw(classifier: Classifier, pool: Films, receivers: FloatArray, plan: Plan, rate: float, seed: int) -> Draw:
    order = np.random.default_rng([plan.seed, round(1000 * rate), seed]).permutation(len(pool.clean))
    chosen, others = np.split(order, [plan.films])
    poisoned, tried = round(rate * plan.films), seed < plan.draws
    films = pool.calibration(chosen, poisoned)
    reference, ranked = split_by_patient(films)
    left_out: list[CalibrationFilm] = []
    policy = calibrate(
        classifier,
        [films[index] for index in reference],
        [films[index] for index in ranked],
        name="poisoned",
        source="phantoms",
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        code_version=__version__,
        receivers=receivers,
        false_positive_rate=FALSE_POSITIVE_RATE,
        leaving_out=left_out.append,
    )
    triggered = sum(film.name.startswith(TRIGGERED) for film in left_out)
    return Draw(
        rate=rate,
        seed=seed,
        films=plan.films,
        poisoned=poisoned,
        warned=bool(policy.warnings),
        left_out=(len(left_out) - triggered, triggered),
        threshold=policy.threshold,
        band=policy.band,
        band_at_worst=policy.band_at_worst,
        tpr=_reached(pool.triggered[others[: plan.triggered_test]], classifier, policy) if tried else None,
        fpr=_reached(pool.clean[others[: plan.clean_test]], classifier, policy) if tried else None,
    )


def _reached(films: FloatArray, classifier: Classifier, policy: Policy) -> float:
    """Share of films whose rank lies within the nominal rate."""
    ranks = [policy.p_value(gather(film, classifier, policy.reference).score) for film in films]
    return float(np.mean(np.array(ranks) <= policy.false_positive_rate))


def _figures(draws: Sequence[Draw]) -> dict[str, Any]:
    warned = sum(draw.warned for draw in draws)
    interval = binomtest(warned, len(draws)).proportion_ci(method="exact")
    return {
        "draws": len(draws),
        "poisoned": draws[0].poisoned,
        "warned": warned,
        "warned_interval": [interval.low, interval.high],
        "clean_left_out": sum(draw.left_out[0] for draw in draws),
        "triggered_left_out": sum(draw.left_out[1] for draw in draws),
        "tpr": _over_draws([draw.tpr for draw in draws]),
        "fpr": _over_draws([draw.fpr for draw in draws]),
        "band_at_worst": [min(draw.band_at_worst[0] for draw in draws), max(draw.band_at_worst[1] for draw in draws)],
    }


def _over_draws(shares: Sequence[float | None]) -> dict[str, float]:
    """Mean with its interval over draws, and the extremes, of the draws that were tried on test films."""
    known: NDArray[np.float64] = np.array([share for share in shares if share is not None])
    mean = asdict(bootstrap_mean(known, np.arange(len(known))))
    return mean | {"least": float(known.min()), "largest": float(known.max())}
