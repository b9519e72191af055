import numpy as np

from service.audit.likeness import STATISTICS, Likeness, image_statistics
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
