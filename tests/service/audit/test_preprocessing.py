import hashlib

import numpy as np
import pytest

from service.audit.preprocessing import (
    Preprocessing,
    Region,
    alternatives,
    crop_box,
    model_input,
    resize_weights,
    shown,
    to_input,
    to_source,
)

TORCHVISION = Preprocessing(antialias=False, library="torch", shorter_side=256)  # Resize(256), CenterCrop(224)


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
    [
        {"size": 8},
        {"size": 224.5},
        {"crop": 0.0},
        {"resampler": "nearest"},
        {"antialias": False},
        {"resampler": "sinc"},
        {"library": "opencv"},  # which antialiases no bilinear
        {"library": "torch", "resampler": "lanczos"},
        {"library": "matlab"},
        {"shorter_side": 200},
        {"dtype": "int16"},
    ],
)
def test_impossible_parameters_are_refused(settings):
    with pytest.raises(ValueError, match=r"size|crop|antialias|resampler|shorter_side|dtype"):
        Preprocessing(**settings)


def test_regions_go_back_to_source_pixels():
    region = Region(200, 200, 24, 24)
    assert to_source(region, Preprocessing(), 224, 224) == region
    assert to_source(region, Preprocessing(), 448, 896) == Region(400, 800, 48, 96)
    assert to_source(Region(0, 0, 224, 224), Preprocessing(crop=0.5), 1000, 600) == Region(250, 150, 500, 300)


def test_regions_go_through_a_centre_crop_and_back():
    """1200 x 900 becomes 341 x 256, of which 224 x 224 are cut out at (58, 16)."""
    assert shown(1200, 900, TORCHVISION) == Region(204, 56, 789, 788)
    assert shown(1000, 600, Preprocessing(crop=0.5)) == crop_box(1000, 600, 0.5)
    for region in (Region(0, 0, 224, 224), Region(218, 218, 3, 3), Region(100, 7, 24, 30)):
        assert to_input(to_source(region, TORCHVISION, 1200, 900), TORCHVISION, 1200, 900) == region


def test_a_region_covers_the_pixels_that_its_input_was_made_from():
    film = noise(1200, 900)
    region = to_source(Region(60, 90, 20, 10), TORCHVISION, 900, 1200)
    changed = film.copy()
    changed[region.y : region.y + region.height, region.x : region.x + region.width] = 0.5
    moved = np.nonzero(model_input(film, TORCHVISION)[0] != model_input(changed, TORCHVISION)[0])
    assert (moved[0].min(), moved[0].max(), moved[1].min(), moved[1].max()) == (90, 99, 60, 79)


def test_without_antialias_only_the_nearest_pixels_weigh():
    bilinear = Preprocessing(antialias=False, library="opencv")
    weights = resize_weights(2240, 224, bilinear, shrinks=True).toarray()[218]
    assert np.nonzero(weights)[0].tolist() == [2184, 2185]
    for other in (bilinear, *alternatives(bilinear)[:3], Preprocessing(resampler="area", library="opencv")):
        sums = resize_weights(1000, 224, other, shrinks=True).sum(axis=1)
        assert sums == pytest.approx(np.ones(224), abs=1e-6)


def test_the_alternatives_leave_out_the_resampler_itself():
    assert len(alternatives(Preprocessing())) == 4
    assert not any(other.antialias for other in alternatives(Preprocessing()))
    for other in alternatives(Preprocessing(crop=0.6)):
        assert other not in alternatives(other)
        assert any(further.antialias for further in alternatives(other))
        assert other.crop == 0.6


def test_eight_bits_round_before_and_after():
    film = noise(1024, 1024)
    found = model_input(film, Preprocessing(antialias=False, library="opencv", dtype="uint8")) * 255
    assert found == pytest.approx(np.rint(found), abs=1e-4)


def test_the_same_at_another_size():
    assert Preprocessing(crop=0.6).at(112) == Preprocessing(size=112, crop=0.6)
    assert TORCHVISION.at(112).shorter_side == 128


def test_one_sentence_for_people():
    assert Preprocessing().words == (
        "The whole film is stretched to 224 by 224 px; bilinear, antialiased, as Pillow does it."
    )
    assert TORCHVISION.words == (
        "The whole film is resized to 256 px on its shorter side, the central 224 px cut out; "
        "bilinear, not antialiased, as torch does it."
    )
    assert "central 60 %" in Preprocessing(crop=0.6, dtype="uint8").words
    assert "8 bits" in Preprocessing(crop=0.6, dtype="uint8").words


def test_a_card_of_four_fields_reads_and_hashes_as_it_always_did():
    described = {"size": 224, "resampler": "bilinear", "antialias": True, "crop": 1.0}
    assert Preprocessing(**described).described == described
    canonical = b'{"antialias": true, "crop": 1.0, "resampler": "bilinear", "size": 224}'
    assert Preprocessing().sha256 == hashlib.sha256(canonical).hexdigest()
    assert Preprocessing(**TORCHVISION.described) == TORCHVISION
    assert TORCHVISION.sha256 != Preprocessing(antialias=False, library="torch").sha256


def test_the_hash_names_the_parameters():
    assert Preprocessing().sha256 == Preprocessing(size=224).sha256
    assert Preprocessing().sha256 != Preprocessing(crop=0.9).sha256
