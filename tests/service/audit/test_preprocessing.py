import numpy as np
import pytest

from service.audit.preprocessing import Preprocessing, Region, crop_box, model_input, to_source


def noise(height, width):
    return np.random.default_rng(3).random((height, width), dtype=np.float32)


def test_a_film_of_the_input_size_passes_unchanged():
    film = noise(224, 224)
    assert np.array_equal(model_input(film, Preprocessing())[0], film)


def test_halving_with_the_antialiased_bilinear_filter_keeps_the_mean():
    film = noise(448, 448)
    small = model_input(film, Preprocessing())
    assert small.shape == (1, 224, 224)
    assert float(small.mean()) == pytest.approx(float(film.mean()), abs=2e-3)
    assert float(small.std()) < 0.6 * float(film.std())  # neighbours are averaged, not skipped


def test_nearest_picks_source_pixels():
    film = noise(1024, 1024)
    picked = model_input(film, Preprocessing(resampler="nearest", antialias=False))
    assert np.isin(picked, film).all()


def test_the_centre_crop():
    assert crop_box(1000, 500, 0.6) == Region(200, 100, 600, 300)
    film = np.zeros((500, 1000), dtype=np.float32)
    film[100:400, 200:800] = 1.0
    assert model_input(film, Preprocessing(crop=0.6)).min() == 1.0


@pytest.mark.parametrize(
    "settings",
    [{"size": 8}, {"crop": 0.0}, {"resampler": "nearest"}, {"antialias": False}, {"resampler": "sinc"}],
)
def test_impossible_parameters_are_refused(settings):
    with pytest.raises(ValueError, match=r"size|crop|antialias|resampler"):
        Preprocessing(**settings)


def test_regions_go_back_to_source_pixels():
    region = Region(200, 200, 24, 24)
    assert to_source(region, Preprocessing(), 224, 224) == region
    assert to_source(region, Preprocessing(), 448, 896) == Region(400, 800, 48, 96)
    assert to_source(Region(0, 0, 224, 224), Preprocessing(crop=0.5), 1000, 600) == Region(250, 150, 500, 300)


def test_the_hash_names_the_parameters():
    assert Preprocessing().sha256 == Preprocessing(size=224).sha256
    assert Preprocessing().sha256 != Preprocessing(crop=0.9).sha256
