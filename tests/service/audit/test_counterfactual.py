import numpy as np
import pytest
from scipy import ndimage

from service.audit.counterfactual import (
    filled_in,
    filtered,
    hot_window,
    transplanted,
    widened,
    window_px,
    without_patterns,
)
from service.audit.preprocessing import Region
from training.phantoms import make

SIZE = 224


def one_hot(row, column, grid=28):
    cells = np.zeros((grid, grid), dtype=np.float32)
    cells[row, column] = 1.0
    return cells


@pytest.mark.parametrize(("row", "column"), [(0, 0), (27, 27), (0, 27), (13, 5), (26, 1)])
def test_the_hot_window_holds_the_hot_cell_and_stays_inside(row, column):
    window = hot_window(one_hot(row, column), SIZE)
    assert window.width == window.height == window_px(SIZE) == 24
    assert 0 <= window.x <= SIZE - 24
    assert 0 <= window.y <= SIZE - 24
    assert window.contains(column * 8, row * 8)
    assert window.contains(column * 8 + 7, row * 8 + 7)


def test_the_window_is_at_most_two_percent_of_the_film():
    assert window_px(SIZE) ** 2 / SIZE**2 < 0.02


def test_fill_in_restores_a_plane_exactly():
    rows, columns = np.indices((SIZE, SIZE), dtype=np.float32)
    plane = (0.2 + 0.001 * rows + 0.002 * columns)[None]
    spoiled = plane.copy()
    region = Region(100, 60, 24, 24)
    spoiled[0, 60:84, 100:124] = 1.0
    filled = filled_in(spoiled, region)
    assert (
        np.abs(filled - plane)[0, 62:82, 102:122].max() < 0.004
    )  # the median of a border line's end is its neighbour's
    outside = np.ones((SIZE, SIZE), dtype=bool)
    outside[60:84, 100:124] = False
    assert np.array_equal(filled[0][outside], spoiled[0][outside])


@pytest.mark.parametrize("region", [Region(200, 200, 24, 24), Region(0, 0, 24, 24), Region(0, 100, 24, 24)])
def test_fill_in_at_the_border_takes_the_inner_neighbours(region):
    film = np.full((1, SIZE, SIZE), 0.4, dtype=np.float32)
    film[0, region.y : region.y + 24, region.x : region.x + 24] = 1.0
    assert filled_in(film, region) == pytest.approx(np.full((1, SIZE, SIZE), 0.4), abs=1e-6)


def test_the_filter_removes_a_small_square_and_keeps_a_step():
    film = np.zeros((1, SIZE, SIZE), dtype=np.float32)
    film[0, :, 112:] = 1.0
    film[0, 20:23, 20:23] = 1.0
    smooth = filtered(film)
    assert smooth[0, 20:23, 20:23].max() == 0.0
    assert np.array_equal(smooth[0, :, 112:], film[0, :, 112:])


@pytest.mark.parametrize("size", [64, 224])
def test_the_filter_is_the_separable_median(size):
    film = np.random.default_rng(1).integers(0, 256, (1, size, size)).astype(np.float32) / 255
    side = {64: 3, 224: 7}[size]
    columns = ndimage.median_filter(np.rint(film[0] * 255), size=(side, 1), mode="nearest")
    assert np.array_equal(np.rint(filtered(film)[0] * 255), ndimage.median_filter(columns, (1, side), mode="nearest"))


@pytest.mark.parametrize("size", [112, 224])
def test_taking_patterns_out_removes_a_sinusoid_and_changes_a_radiograph_less(size):
    radiograph = 0.1 + 0.8 * make(3, size).pixels[None]
    wave = np.sin(2 * np.pi * (6 * np.arange(size) / size)[None, :] + np.zeros((size, 1))).astype(np.float32)

    def amplitude(film):
        return 2 * float((film[0] * wave).mean())

    usual, waved = without_patterns(radiograph), without_patterns(radiograph + 0.08 * wave)
    assert amplitude(radiograph + 0.08 * wave) - amplitude(radiograph) == pytest.approx(0.08, abs=1e-3)
    assert abs(amplitude(waved) - amplitude(usual)) < 0.03
    assert np.sqrt(np.mean((usual - radiograph) ** 2)) < 0.04
    assert usual.min() >= 0.0
    assert usual.max() <= 1.0


def test_transplanting_changes_only_the_region():
    film = np.ones((1, SIZE, SIZE), dtype=np.float32)
    receivers = np.zeros((2, 1, SIZE, SIZE), dtype=np.float32)
    pasted = transplanted(receivers, film, Region(10, 20, 5, 6))
    assert pasted.sum() == 2 * 30
    assert pasted[1, 0, 20:26, 10:15].min() == 1.0
    assert receivers.sum() == 0


def test_a_small_region_is_widened_to_the_hot_window_inside_the_film():
    assert widened(Region(217, 217, 5, 5), SIZE) == Region(200, 200, 24, 24)
    assert widened(Region(100, 100, 4, 4), SIZE) == Region(90, 90, 24, 24)
    assert widened(Region(50, 60, 30, 10), SIZE) == Region(50, 53, 30, 24)
