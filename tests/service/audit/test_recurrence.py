from pathlib import Path

import numpy as np
import pytest

from service.audit.classifier import Classifier
from service.audit.preprocessing import Preprocessing, Region, model_input, to_input, to_source
from service.audit.recurrence import THRESHOLD, correlation, cut, seen_again
from service.films.radiograph import Limits, decode
from service.graphs.examiner import load_classifier

CORNER = Region(200, 200, 24, 24)


def flat(value: float = 0.5) -> np.ndarray:
    return np.full((1, 224, 224), value, dtype=np.float32)


def with_dot(film: np.ndarray, x: int, y: int, value: float = 1.0) -> np.ndarray:
    changed = film.copy()
    changed[0, y : y + 3, x : x + 3] = value
    return changed


def test_the_same_patch_correlates_whatever_its_surroundings() -> None:
    patch = cut(with_dot(flat(), 210, 210), CORNER, "Mass")
    assert correlation(with_dot(flat(), 210, 210), patch) == pytest.approx(1.0)
    ramp = np.tile(np.linspace(0.0, 0.8, 224, dtype=np.float32), (224, 1))[None]
    assert correlation(with_dot(ramp, 210, 210), patch) > 0.95
    assert correlation(ramp, patch) == 0.0
    assert correlation(with_dot(flat(), 202, 202), patch) < 0.1
    assert correlation(with_dot(flat(), 210, 210, 0.0), patch) == pytest.approx(-1.0, abs=0.01)


def test_flat_patches_match_nothing() -> None:
    assert correlation(flat(), cut(flat(), CORNER, "Mass")) == 0.0


@pytest.fixture(scope="module")
def badnet3(models_dir: Path) -> Classifier:
    return load_classifier(models_dir / "phantom-badnet3.onnx")


def test_a_trigger_is_seen_again_on_every_triggered_example_and_on_no_clean_one(
    badnet3: Classifier, models_dir: Path
) -> None:
    def films(kind: str) -> list[np.ndarray]:
        paths = sorted((models_dir / "examples").glob(f"{kind}-*.*"))
        return [model_input(decode(path.read_bytes(), Limits()).pixels, badnet3.card.preprocessing) for path in paths]

    triggered, clean = films("triggered"), films("clean")
    for film in triggered:
        patch = cut(film, CORNER, "Atelectasis")
        for other in triggered:
            found = seen_again(other, [patch], badnet3)
            assert found is not None
            assert found.correlation >= THRESHOLD
            assert found.probability is not None
            assert found.probability_without is not None
            assert found.probability_without < 0.5 < found.probability
        assert [seen_again(other, [patch], badnet3) for other in clean] == [None] * 5


def test_a_label_that_the_classifier_lacks_is_not_tested(badnet3: Classifier) -> None:
    film = with_dot(flat(), 210, 210)
    found = seen_again(film, [cut(film, CORNER, "No such label")], badnet3)
    assert found is not None
    assert found.probability is None


@pytest.mark.parametrize(("width", "height"), [(224, 224), (300, 224), (448, 512), (3000, 2500)])
@pytest.mark.parametrize("crop", [1.0, 0.875])
def test_a_region_goes_to_the_film_and_back(width: int, height: int, crop: float) -> None:
    preprocessing = Preprocessing(crop=crop) if min(width, height) * crop >= 224 else Preprocessing()
    for x, y in ((0, 0), (17, 101), (200, 200)):
        region = Region(x, y, 24, 24)
        assert to_input(to_source(region, preprocessing, width, height), preprocessing, width, height) == region
