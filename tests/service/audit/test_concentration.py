"""Answers computed by hand."""

import numpy as np
import pytest

from service.audit.concentration import concentration, isolation, mass


def test_a_uniform_map():
    measured = concentration(np.full((28, 28), 0.3, dtype=np.float32))
    assert measured.entropy == pytest.approx(1.0)
    assert measured.gini == pytest.approx(0.0, abs=1e-12)
    assert measured.peak == pytest.approx(1 / 784)
    assert measured.top_mass == pytest.approx(8 / 784)
    assert measured.spread == pytest.approx(np.sqrt(2 * (28**2 - 1) / 12) / 28)


def test_one_hot_cell():
    single = np.zeros((28, 28), dtype=np.float32)
    single[27, 3] = 5.0
    measured = concentration(single)
    assert measured.entropy == 0.0
    assert measured.gini == pytest.approx(1 - 1 / 784)
    assert measured.top_mass == pytest.approx(1.0)
    assert measured.peak == pytest.approx(1.0)
    assert measured.spread == pytest.approx(0.0)


def test_two_equal_cells_of_four():
    measured = concentration(np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32))
    assert measured.entropy == pytest.approx(0.5)  # log 2 / log 4
    assert measured.gini == pytest.approx(0.5)
    assert measured.spread == pytest.approx(np.sqrt(2) / 4)


def test_scale_does_not_matter():
    cells = np.random.default_rng(0).random((14, 14)).astype(np.float32)
    assert concentration(cells).gini == pytest.approx(concentration(1000 * cells).gini, rel=1e-5)


@pytest.mark.parametrize(
    "cells", [np.zeros((7, 7)), -np.ones((7, 7)), np.full((7, 7), np.nan), np.full((7, 7), np.inf)]
)
def test_a_map_without_mass_counts_as_uniform(cells):
    assert mass(cells.astype(np.float32)) == pytest.approx(np.full((7, 7), 1 / 49))


def test_a_place_stands_out_from_the_sixth_of_the_cells_that_follows_it():
    cells = np.full((7, 7), 2.0, dtype=np.float32)
    cells[0, 0] = -5.0
    assert isolation(cells, -1.0) == 7.0
    assert isolation(cells, 1.0) == 0.0
    assert isolation(cells + 100.0, -1.0) == 7.0


def test_an_organ_does_not_stand_out_from_itself():
    cells = np.zeros((2, 6, 6), dtype=np.float32)
    cells[0, :3, :4] = 9.0  # a third of the cells
    cells[1, 2, 2] = 9.0
    assert isolation(cells, 1.0).tolist() == [0.0, 9.0]
