"""Does a policy still fit the films that come? Blocks of one source's films beside the calibration films.

If the films that come are like those of calibration (exchangeable with them), then the number that reach the policy's
threshold follows a beta-binomial law, and their scores and distances are distributed as the calibration's are: a
two-sample Kolmogorov-Smirnov test each, which allows for the calibration films being few. A block is tested once, when
it is full, and the three tests share one false-alarm rate (Bonferroni): of a thousand blocks of films that fit, at most
one is expected to alarm. Films with a trigger are not like those of calibration: many of them alarm too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import betabinom, ks_2samp

from service.audit import ranking
from service.audit.calibration import Policy

BLOCK = 100  # films
FALSE_ALARM_RATE = 0.001  # of one block
RANK_SPREADS = 3.3  # of the middle rank; 1 in 1,000 blocks lies outside by chance
Alarm = Literal["reached", "scores", "likeness"]


@dataclass(frozen=True, slots=True)
class Fit:
    """How one block lies beside its calibration.

    reached: films at or above the threshold. score_rank, likeness_rank: mean rank among the calibration films in
    [0, 1]; 0.5 where the policy fits, more where scores or distances are larger. p_values: of the three tests.
    """

    films: int
    reached: int
    score_rank: float
    likeness_rank: float
    p_values: dict[Alarm, float]

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        return tuple(name for name, p in self.p_values.items() if p <= FALSE_ALARM_RATE / len(self.p_values))


def compare(scores: Sequence[float], distances: Sequence[float], policy: Policy) -> Fit:
    """scores, distances: (n,) of the same films, n > 0."""
    reached = at_threshold(scores, policy)
    return Fit(
        films=len(scores),
        reached=reached,
        score_rank=mean_rank(scores, policy.scores),
        likeness_rank=mean_rank(distances, policy.distances),
        p_values={
            "reached": _reached_p_value(reached, len(scores), policy),
            "scores": _same_distribution(scores, policy.scores),
            "likeness": _same_distribution(distances, policy.distances),
        },
    )


def at_threshold(scores: Sequence[float], policy: Policy) -> int:
    """How many films reach the policy's threshold."""
    return sum(policy.p_value(score) <= policy.false_positive_rate for score in scores)


def mean_rank(values: Sequence[float], calibration: NDArray[np.float32]) -> float:
    """Ties count half, so that it is 0.5 for the calibration films themselves."""
    wanted = np.asarray(values, dtype=np.float32)
    below = np.searchsorted(calibration, wanted, side="left") + np.searchsorted(calibration, wanted, side="right")
    return float(below.mean()) / (2 * len(calibration))


def usual_reached(films: int, policy: Policy) -> tuple[int, int]:
    """Between which numbers of so many clean films reach the threshold, in 95 of 100 cases."""
    beyond = ranking.beyond(policy.false_positive_rate, len(policy.scores))
    if beyond is None:
        return 0, 0
    low, high = betabinom.ppf((0.025, 0.975), films, *beyond)
    return int(low), int(high)


def usual_ranks(films: int, policy: Policy) -> tuple[float, float]:
    """Between which values the mean rank of a block that fits lies, but for 1 in 1,000."""
    spread = RANK_SPREADS * float(np.sqrt((1 / films + 1 / len(policy.scores)) / 12))
    return 0.5 - spread, 0.5 + spread


def _reached_p_value(reached: int, films: int, policy: Policy) -> float:
    beyond = ranking.beyond(policy.false_positive_rate, len(policy.scores))
    return float(betabinom.sf(reached - 1, films, *beyond)) if beyond else 1.0


def _same_distribution(values: Sequence[float], calibration: NDArray[np.float32]) -> float:
    return float(ks_2samp(np.asarray(values, dtype=np.float32), calibration).pvalue)
