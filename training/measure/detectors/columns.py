"""Reading whole sets of films, kept on disk in small pieces so that a killed run loses a minute at most.

A piece is found again by the classifier, the context, the films, and the versions of the score and of the family.
"""

import functools
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from service.arrays import FloatArray
from service.audit.classifier import Classifier
from service.audit.pipeline import SCORES_VERSION
from service.audit.preprocessing import Region
from training.measure.detectors import FAMILIES
from training.measure.detectors.reading import Context, Reading, Seen

CHUNK = 16  # films a file


@dataclass(frozen=True, slots=True)
class Column:
    """One detector's readings of n films.

    parts: (n, k). passes: (n, 2) of explain passes and forwards. regions: (n, 4) x, y, width, height, -1 where there is
    none. points: (n, 2) with NaN where there is none. reach_px, cpu_ms: (n,); the time is that of the
    whole family, without the first look that all share.
    """

    parts: NDArray[np.float64]
    passes: NDArray[np.float64]
    regions: NDArray[np.int64]
    points: NDArray[np.float64]
    reach_px: NDArray[np.float64]
    cpu_ms: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.parts)

    def region(self, film: int) -> Region | None:
        x, y, width, height = (int(value) for value in self.regions[film])
        return None if x < 0 else Region(x, y, width, height)

    @classmethod
    def of(cls, readings: Sequence[Reading], cpu_ms: Sequence[float]) -> "Column":
        boxes = [(r.region.x, r.region.y, r.region.width, r.region.height) if r.region else (-1,) * 4 for r in readings]
        return cls(
            np.array([r.parts for r in readings], dtype=np.float64),
            np.array([(r.explain_passes, r.forward_passes) for r in readings], dtype=np.float64),
            np.array(boxes, dtype=np.int64),
            np.array([r.point or (np.nan, np.nan) for r in readings], dtype=np.float64),
            np.array([r.reach_px for r in readings], dtype=np.float64),
            np.array(cpu_ms, dtype=np.float64),
        )

    @classmethod
    def joined(cls, pieces: Sequence["Column"]) -> "Column":
        return cls(*(np.concatenate([getattr(piece, item.name) for piece in pieces]) for item in fields(cls)))


def read_set(
    inputs: FloatArray,
    classifier: Classifier,
    context: Context,
    cache: Path,
    *,
    families: Sequence[str],
    costly: int,
    words: str,
    threads: int = 1,
) -> dict[str, Column]:
    """Every detector of the families on (N, 1, S, S) films; costly families on the first `costly` of them."""
    pieces: dict[str, list[Column]] = {}
    folder = cache / classifier.card.sha256[:16] / context.sha256[:16]
    with ThreadPoolExecutor(threads) as pool:
        for low in tqdm(range(0, len(inputs), CHUNK), desc=words, unit=f"{CHUNK} films", mininterval=5):
            chunk = inputs[low : low + CHUNK]
            looks = _Looks(chunk, classifier, context)
            for family in families:
                count = min(len(chunk), costly - low) if FAMILIES[family].costly else len(chunk)
                if count > 0:
                    found = _chunk(family, looks, count, folder, pool)
                    for name, column in found.items():
                        pieces.setdefault(name, []).append(column)
    return {name: Column.joined(columns) for name, columns in pieces.items()}


class _Looks:
    """The first look at each film of a chunk, taken when the first family needs it."""

    def __init__(self, films: FloatArray, classifier: Classifier, context: Context) -> None:
        self.films, self.classifier, self.context = films, classifier, context

    @functools.cached_property
    def seen(self) -> list[Seen]:
        return [Seen.of(film, self.classifier, self.context) for film in self.films]


def _chunk(family: str, looks: _Looks, count: int, folder: Path, pool: ThreadPoolExecutor) -> dict[str, Column]:
    path = (
        folder
        / f"{family}-scores{SCORES_VERSION}-version{FAMILIES[family].version}"
        / f"{hashlib.sha256(looks.films[:count].tobytes()).hexdigest()[:24]}.npz"
    )
    if path.exists():
        return _load(path)

    def read(seen: Seen) -> tuple[dict[str, Reading], float]:
        started = time.thread_time()
        readings = FAMILIES[family].read(seen, looks.classifier, looks.context)
        return readings, 1000 * (time.thread_time() - started)

    rows = list(pool.map(read, looks.seen[:count]))
    cpu_ms = [ms for _, ms in rows]
    columns = {name: Column.of([readings[name] for readings, _ in rows], cpu_ms) for name in rows[0][0]}
    _save(path, columns)
    return columns


def _save(path: Path, columns: Mapping[str, Column]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {
        f"{name}/{item.name}": getattr(column, item.name) for name, column in columns.items() for item in fields(Column)
    }
    unfinished = path.with_suffix(".part.npz")
    np.savez(unfinished, **arrays)
    unfinished.replace(path)


def _load(path: Path) -> dict[str, Column]:
    with np.load(path) as arrays:
        names = dict.fromkeys(key.split("/")[0] for key in arrays.files)
        return {name: Column(*(arrays[f"{name}/{item.name}"] for item in fields(Column))) for name in names}


def explain_forwards(film: FloatArray, classifier: Classifier, context: Context, rounds: int = 9) -> float:
    """What a pass with maps costs in plain forwards of one film: median of paired ratios of CPU time."""
    reference = context.policy.reference

    def ratios() -> Iterator[float]:
        for _ in range(rounds):
            started = time.thread_time()
            classifier.explain(film[None], reference.label_centre, reference.label_scale)
            explained = time.thread_time()
            classifier.logits(film[None])
            yield (explained - started) / max(time.thread_time() - explained, 1e-9)

    return float(np.median(list(ratios())))
