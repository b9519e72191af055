import io
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from service.audit.likeness import (
    SAME_FILM,
    STATISTICS,
    Likeness,
    fingerprint_distance,
    fingerprint_of,
    image_statistics,
    index_keys,
    near_keys,
)
from training.phantoms import make


def films(first, count):
    return [make(seed, 112).pixels[None] for seed in range(first, first + count)]


def test_a_film_unlike_the_others_is_far_and_a_trigger_is_not():
    reference = films(0, 60)
    likeness = Likeness.fit(np.stack([image_statistics(film) for film in reference]))
    ordinary = [likeness.distance(film) for film in films(100, 20)]
    stamped = films(100, 1)[0].copy()
    stamped[0, 106:109, 106:109] = 1.0
    inverted = 1.0 - films(100, 1)[0]
    noise = np.random.default_rng(0).random((1, 112, 112), dtype=np.float32)
    assert abs(likeness.distance(stamped) - ordinary[0]) < 0.3
    assert likeness.distance(inverted) > 1.5 * max(ordinary)
    assert likeness.distance(films(100, 1)[0][:, ::-1].copy()) > max(ordinary)
    assert likeness.distance(noise) > 1.5 * max(ordinary)


def test_statistics_of_a_flat_film():
    statistics = dict(zip(STATISTICS, image_statistics(np.full((1, 64, 64), 0.5, dtype=np.float32)), strict=True))
    assert statistics["mean"] == statistics["percentile_5"] == statistics["border_mean"] == 0.5
    assert statistics["deviation"] == statistics["mirror_difference"] == 0.0


def grey(film):
    return np.clip(np.round(255 * film), 0, 255).astype(np.uint8)


def jpeg(film):
    buffer = io.BytesIO()
    Image.fromarray(grey(film[0])).save(buffer, "JPEG", quality=90)
    return (np.asarray(Image.open(buffer), dtype=np.float32) / 255)[None]


def stamped(film):
    changed = film.copy()
    changed[0, 100:112, 60:72] = 1.0
    return changed


CHANGES = {
    "one grey level of noise": lambda film: (
        np.clip(grey(film) + np.random.default_rng(0).integers(-1, 2, film.shape), 0, 255).astype(np.float32) / 255
    ),
    "JPEG": jpeg,
    "one pixel aside": lambda film: np.roll(film, 1, axis=2),
    "one pixel cropped": lambda film: film[:, 1:-1, 1:-1],
    "brighter": lambda film: np.clip(film + np.float32(0.02), 0, 1),
    "more contrast": lambda film: np.clip((film - 0.5) * 1.02 + 0.5, 0, 1).astype(np.float32),
    "another gamma": lambda film: film**1.3,
    "a patch of 12 pixels": stamped,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_film_has_a_near_fingerprint_and_a_key_in_common(change):
    for seed in range(2000, 2006):
        film = make(seed, 224).pixels[None]
        first, second = fingerprint_of(film), fingerprint_of(CHANGES[change](film))
        assert len(first) == 256
        assert fingerprint_distance(first, second) <= SAME_FILM
        assert set(near_keys(first)) & set(index_keys(second))


def test_fingerprints_of_different_phantoms_are_far_apart():
    fingerprints = [fingerprint_of(film) for film in films(3000, 40)]
    assert min(fingerprint_distance(*pair) for pair in combinations(fingerprints, 2)) > SAME_FILM + 30


def test_one_bit_of_a_band_may_differ():
    first = fingerprint_of(films(3000, 1)[0])
    second = f"{int(first, 16) ^ (1 << 1023):0256x}"  # the first bit of the grid, which is indexed
    assert fingerprint_distance(first, second) == 1
    assert len(set(index_keys(first)) & set(index_keys(second))) == 15
    assert set(index_keys(second)) <= set(near_keys(first))
