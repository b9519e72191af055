"""How well a policy fits the films of each source, in words and plots, from the blocks that registry.blocks keeps."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from service.audit.calibration import Policy
from service.records import drift_queries
from service.registry.drift import BLOCK, at_threshold, mean_rank, usual_ranks, usual_reached
from service.web.dashboard.plots import MOST_DOTS, Track, track

ALARM_WORDS = {
    "reached": "more of its films reach the threshold than clean films would",
    "scores": "its scores are not distributed as those of the calibration films",
    "likeness": "its films do not look like the calibration films",
}


@dataclass(frozen=True, slots=True)
class SourceFit:
    """films, reached: of the blocks shown. usual: between which numbers of so many clean films would reach it.

    alarms: in words, of the latest full block. missing: films until the next block is full.
    """

    source: str
    films: int
    reached: int
    usual: tuple[int, int]
    alarms: tuple[str, ...]
    missing: int
    since: datetime
    scores: Track
    likeness: Track


def fits(session: Session, policy: Policy) -> list[SourceFit]:
    return [_fit(session, policy, source) for source in sorted(drift_queries.latest_blocks(session, policy.sha256))]


def _fit(session: Session, policy: Policy, source: str) -> SourceFit:
    blocks = drift_queries.blocks(session, policy.sha256, source, MOST_DOTS + 1)
    full = [block for block in blocks if block.p_values is not None]
    films = sum(len(block.scores) for block in blocks)
    score_ranks = [mean_rank(block.scores, policy.scores) for block in full]
    likeness_ranks = [mean_rank(block.distances, policy.distances) for block in full]
    band = usual_ranks(BLOCK, policy)
    return SourceFit(
        source=source,
        films=films,
        reached=sum(at_threshold(block.scores, policy) for block in blocks),
        usual=usual_reached(films, policy),
        alarms=tuple(ALARM_WORDS[alarm] for alarm in full[-1].alarms) if full else (),
        missing=BLOCK - len(blocks[-1].scores),
        since=blocks[0].from_at,
        scores=track(score_ranks, ["scores" in block.alarms for block in full], band, "scores"),
        likeness=track(likeness_ranks, ["likeness" in block.alarms for block in full], band, "distances"),
    )
