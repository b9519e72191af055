import io

import numpy as np
from PIL import Image

from service.audit.overlay import REGION_COLOUR, render
from service.audit.preprocessing import Preprocessing, Region


def drawn(**arguments):
    pixels = np.full((100, 200), 0.5, dtype=np.float32)
    return np.asarray(Image.open(io.BytesIO(render(pixels, preprocessing=Preprocessing(), **arguments))))


def test_a_film_alone_is_grey():
    picture = drawn(saliency_map=None, region=None)
    assert picture.shape == (100, 200, 3)
    assert np.unique(picture).tolist() == [128]


def test_heat_lies_where_the_map_is_hot():
    hot = np.zeros((28, 28), dtype=np.float32)
    hot[27, 27] = 3.0
    picture = drawn(saliency_map=hot, region=None).astype(int)
    colour = picture.max(axis=2) - picture.min(axis=2)
    assert colour[90:, 190:].max() > 60
    assert colour[:50, :100].max() == 0


def test_the_region_is_outlined():
    picture = drawn(saliency_map=None, region=Region(20, 30, 10, 12))
    assert tuple(picture[29, 25]) == REGION_COLOUR
    assert tuple(picture[36, 25]) == (128, 128, 128)


def test_large_films_are_reduced():
    pixels = np.zeros((3000, 1500), dtype=np.float32)
    image = Image.open(io.BytesIO(render(pixels, None, None, Preprocessing(), longest_px=512)))
    assert image.size == (256, 512)
