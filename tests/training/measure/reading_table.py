"""What every detector says of four films under the backdoored phantom pair, as rows of the recorded table."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from service.audit.preprocessing import model_input
from tests.recorded import Row
from tests.service.audit.score_films import BASES, INPUT, base, films
from tests.service.audit.score_table import Pair, decoded, shipped
from training.measure.detectors import FAMILIES, Context, Reading, Seen

TABLE = Path(__file__).with_name("readings.json")
PAIR = "phantom-badnet3"
FILMS = ("clean-910001", "triggered-910012", "blend on 900001", "low8 on 910004")


def context(pair: Pair) -> Context:
    """The shipped clean phantoms as what is laid over a film."""
    return Context.of(pair[1], np.stack([model_input(base(name), INPUT) for name in BASES]))


def seen(pair: Pair, known: Context) -> dict[str, Seen]:
    chosen = decoded({name: data for name, data in films().items() if name in FILMS})
    return {name: Seen.of(model_input(film.pixels, INPUT), pair[0], known) for name, film in chosen.items()}


def rows(family: str, pair: Pair, known: Context, looks: dict[str, Seen]) -> Iterator[Row]:
    for film, look in looks.items():
        for detector, reading in FAMILIES[family].read(look, pair[0], known).items():
            yield {"family": family, "detector": detector, "film": film, **_told(reading)}


def _told(reading: Reading) -> Row:
    region = reading.region
    return {
        "parts": list(reading.parts),
        "passes": [reading.explain_passes, reading.forward_passes],
        "region": [region.x, region.y, region.width, region.height] if region else None,
        "point": [float(place) for place in reading.point] if reading.point else None,
        "reach_px": float(reading.reach_px),
    }


def recorded_pair() -> tuple[Pair, Context, dict[str, Seen]]:
    pair = shipped(PAIR)
    known = context(pair)
    return pair, known, seen(pair, known)
