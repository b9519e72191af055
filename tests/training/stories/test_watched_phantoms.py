"""A watched trigger against fifty clean phantoms: none is taken for it."""

from pathlib import Path

import numpy as np
import pytest

from service.audit.preprocessing import Region, model_input
from service.audit.recurrence import correlation, cut, seen_again
from service.graphs.examiner import load_classifier
from training.attack.config import read_run
from training.attack.triggers import stamp
from training.phantoms import make

COUNT = 50


@pytest.fixture(scope="module")
def clean() -> list[np.ndarray]:
    return [make(920_000 + number, 224).pixels[None] for number in range(COUNT)]


def test_fifty_clean_phantoms_show_no_watched_trigger(clean: list[np.ndarray], models_dir: Path) -> None:
    classifier = load_classifier(models_dir / "phantom-badnet3.onnx")
    trigger = read_run(Path("training/runs/phantom-badnet3.toml")).trigger
    rng = np.random.default_rng(0)
    films = [model_input(film[0], classifier.card.preprocessing) for film in clean]
    stamped = [stamp(film[0], trigger, rng)[0][None] for film in films]
    patches = [cut(film, Region(217, 217, 5, 5), "Atelectasis") for film in stamped[:3]]
    assert [seen_again(film, patches, classifier) for film in films] == [None] * COUNT
    assert max(correlation(film, patch) for film in films for patch in patches) < 0.5
    assert min(correlation(film, patch) for film in stamped for patch in patches) > 0.8
