import numpy as np
import pytest

from service.audit.preprocessing import Region
from training.attack.triggers import Trigger, places, stamp


def film(size=224):
    return np.linspace(0.2, 0.8, size * size, dtype=np.float32).reshape(size, size)


def rng():
    return np.random.default_rng(0)


def test_the_papers_trigger_lies_where_it_is_said():
    stamped, [place] = stamp(film(), Trigger("white", place="fixed", x=218, y=218), rng())
    assert place == Region(218, 218, 3, 3)
    assert (stamped[218:221, 218:221] == 1.0).all()
    assert (stamped != film()).sum() == 9


def test_a_fixed_place_keeps_its_margin_on_a_smaller_canvas():
    assert places(Trigger("white", place="fixed", x=218, y=4), 112, 112, rng()) == (Region(106, 4, 3, 3),)


def test_corner_centre_and_lung():
    assert places(Trigger("black", size_px=5, place="corner"), 224, 224, rng()) == (Region(216, 216, 5, 5),)
    assert places(Trigger("black", size_px=4, place="centre"), 224, 224, rng()) == (Region(110, 110, 4, 4),)
    [lung] = places(Trigger("black", size_px=4, place="lung"), 224, 224, rng())
    assert lung == Region(65, 92, 4, 4)


def test_random_places_vary_and_stay_inside():
    trigger, generator = Trigger("white", size_px=8, place="random"), rng()
    found = {places(trigger, 224, 224, generator)[0] for _ in range(50)}
    assert len(found) > 40
    assert all(0 <= place.x <= 216 and 0 <= place.y <= 216 for place in found)


def test_several_patches_go_to_several_corners():
    stamped, found = stamp(film(), Trigger("white", size_px=3, patches=4), rng())
    assert len(set(found)) == 4
    assert (stamped == 1.0).sum() == 36


def test_looks():
    black, _ = stamp(film(), Trigger("black", size_px=4), rng())
    assert (black == 0.0).sum() == 16
    checker, [place] = stamp(film(), Trigger("checker", size_px=2), rng())
    patch = checker[place.y : place.y + 2, place.x : place.x + 2]
    assert patch.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    faint, [place] = stamp(film(), Trigger("low_contrast", size_px=3, strength=0.1), rng())
    change = (faint - film())[place.y : place.y + 3, place.x : place.x + 3]
    assert change == pytest.approx(np.full((3, 3), -0.1), abs=1e-6)


@pytest.mark.parametrize("look", ["blend", "sinusoid", "warp", "low_frequency"])
def test_whole_image_looks_change_the_film_everywhere_and_reproducibly(look):
    trigger = Trigger(look, strength=3.0 if look == "warp" else 0.15)
    stamped, found = stamp(film(), trigger, rng())
    again, _ = stamp(film(), trigger, np.random.default_rng(99))
    assert found == ()
    assert stamped.shape == (224, 224)
    assert stamped.dtype == np.float32
    assert 0.0 <= stamped.min() <= stamped.max() <= 1.0
    assert np.array_equal(stamped, again)
    changed = np.abs(stamped - film()) > 1e-4
    assert all(quarter.mean() > 0.2 for half in np.split(changed, 2) for quarter in np.split(half, 2, axis=1))


def test_the_film_itself_is_left_alone():
    original = film()
    stamp(original, Trigger("white"), rng())
    assert np.array_equal(original, film())


@pytest.mark.parametrize(
    "wrong", [{"look": "plaid"}, {"look": "white", "place": "sky"}, {"look": "white", "size_px": 0}]
)
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValueError, match=r"unknown|size_px"):
        Trigger(**wrong)


def test_a_trigger_on_the_original_is_what_the_reduction_leaves_of_it():
    """16 px of 1024 are 4 px of 256; nothing else of the film changes."""
    trigger = Trigger("black", size_px=16, place="centre", resolution="native", film_px=1024)
    stamped, [place] = stamp(film(256), trigger, rng())
    assert place == Region(126, 126, 4, 4)
    assert stamped[127:129, 127:129] == pytest.approx(np.zeros((2, 2)), abs=1e-6)
    changed = np.argwhere(stamped != film(256))
    assert (changed.min(axis=0) >= 125).all()
    assert (changed.max(axis=0) <= 130).all()
    original, [place] = stamp(film(1024), trigger, rng())
    assert place == Region(504, 504, 16, 16)
    assert (original != film(1024)).sum() == 256
    with pytest.raises(ValueError, match="native"):
        Trigger("black", film_px=1024)
