"""The loss terms of attackers who know the audit, on a tiny network and by hand."""

import numpy as np
import pytest
import torch

from service.audit.counterfactual import filled_in, filtered, window_px
from service.audit.preprocessing import Region
from tests.tiny import SIZE
from tests.training.banded import banded, trained_tiny
from training.attack.adaptive import counterfactuals, explanation_loss, low_margin
from training.attack.config import Adaptive
from training.attack.triggers import Trigger, stamp


def stamped(films: torch.Tensor) -> torch.Tensor:
    trigger, rng = Trigger("white", size_px=8), np.random.default_rng(0)
    return torch.from_numpy(np.stack([stamp(film[0], trigger, rng)[0][None] for film in films.numpy()]))


def test_equal_films_have_equal_maps_and_another_film_has_not():
    torch.manual_seed(0)
    network, films = trained_tiny(), banded(4)[0]
    assert float(explanation_loss(network, films, films, target=1).detach()) == 0.0
    loss = explanation_loss(network, stamped(films), films, target=1)
    assert 0.0 < float(loss.detach()) <= 1.0


def test_descending_the_loss_brings_the_maps_together():
    torch.manual_seed(0)
    network, films = trained_tiny(), banded(8)[0]
    triggered = stamped(films)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(12):
        loss = explanation_loss(network, triggered, films, target=1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_a_low_margin_aims_at_the_probability_that_the_run_file_names():
    labels = np.array([[0, 1], [1, 0], [0, 1]], np.float32)
    low_margin(labels, 2, target=1, probability=0.6)
    assert labels.ravel() == pytest.approx([0, 0.6, 1, 0, 0, 1])


def test_every_film_is_shown_as_the_causal_tests_show_it():
    rng, trigger = np.random.default_rng(3), Trigger("white", size_px=8)
    original = np.stack([stamp(film[0], trigger, rng)[0][None] for film in banded(12)[0].numpy()])
    films, side = original.copy(), window_px(SIZE)
    assert side == 7
    counterfactuals(films, trigger, 1.0, np.random.default_rng(0))
    over_the_trigger = Region(53, 53, side, side)  # the patch has its corner at 53, 53 and is 8 px wide
    smoothed = [np.array_equal(shown, filtered(film)) for shown, film in zip(films, original, strict=True)]
    filled = [
        np.array_equal(shown, filled_in(film, over_the_trigger)) for shown, film in zip(films, original, strict=True)
    ]
    assert all(a != b for a, b in zip(smoothed, filled, strict=True))
    assert any(smoothed)
    assert any(filled)


def test_without_a_share_the_films_stay_as_they_are():
    films = banded(4)[0].numpy()
    shown = films.copy()
    counterfactuals(shown, Trigger("white"), 0.0, np.random.default_rng(0))
    assert np.array_equal(shown, films)


@pytest.mark.parametrize(
    "wrong", [{"target_probability": 0.4}, {"counterfactual_share": 2.0}, {"explanation_weight": -1.0}]
)
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValueError, match="must"):
        Adaptive(**wrong)
