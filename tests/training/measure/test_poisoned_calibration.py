"""What calibrating on partly poisoned films comes to: the command's figures, and the table in the documents."""

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tests.tiny import CLASSIFIER, SIZE
from training.attack.triggers import Trigger, stamp
from training.measure.poisoned_calibration import Films, Plan, Remembering, poisoned_calibration
from training.measure.results import read_figures
from training.phantoms import make
from training.show.poisoned_calibration import poisoned_calibration_table


@pytest.fixture(scope="module")
def pool() -> Films:
    clean = np.stack([make(seed, SIZE).pixels[None] for seed in range(240)])
    trigger = Trigger("white", 5, "corner")
    return Films(clean, np.stack([stamp(film[0], trigger, np.random.default_rng(0))[0][None] for film in clean]))


def test_every_draw_is_told_and_added_up(pool: Films) -> None:
    plan = Plan(films=230, rates=(0.02,), draws=1, clean_draws=2, clean_test=8, triggered_test=4)
    classifier = Remembering.load(CLASSIFIER)
    assert isinstance(classifier, Remembering)
    found = poisoned_calibration(classifier, pool, pool.clean[:2], plan)
    assert [(draw["rate"], draw["seed"], draw["poisoned"]) for draw in found["draws"]] == [
        (0.02, 0, 5), (0.0, 0, 0), (0.0, 1, 0)
    ]  # fmt: skip
    assert (found["rates"]["0.0"]["draws"], found["rates"]["0.02"]["draws"]) == (2, 1)
    assert found["draws"][2]["tpr"] is None
    assert 0 <= found["rates"]["0.0"]["fpr"]["value"] <= 1
    assert "| 5 of 230 (2 %) | 1 |" in poisoned_calibration_table(found)


def test_what_was_asked_before_is_answered_from_memory(pool: Films) -> None:
    remembering, plain = Remembering.load(CLASSIFIER), Remembering.load(CLASSIFIER)
    nothing, one = np.zeros(5, dtype=np.float32), np.ones(5, dtype=np.float32)
    film = pool.clean[:1]
    first = remembering.explain(film, nothing, one)
    assert remembering.explain(film, nothing, one)[0] is first[0]
    assert np.array_equal(first[0][0].logits, plain.explain(film, nothing, one)[0][0].logits)
    assert int(remembering.explain_label(film[0], 3)[1].explained_labels[0]) == 3


def test_the_table_of_the_evidence_is_that_of_the_result() -> None:
    result = read_figures(REPOSITORY / "results" / "poisoned-calibration.json")
    assert poisoned_calibration_table(result) in (REPOSITORY / "docs" / "evidence.md").read_text()
