"""Which real films count as unlike those of a shipped policy: what docs/evidence.md says of negatives and turns."""

import numpy as np
import pytest

from service.audit.calibration import Policy
from service.audit.preprocessing import Preprocessing
from tests.conftest import REPOSITORY
from training.attack.data import in_split, model_inputs, read_films

CHANGES = {
    "as it is": (lambda film: film, 0.0, 0.01),
    "negative": (lambda film: 1.0 - film, 0.99, 1.0),
    "on its side": (lambda film: np.rot90(film, axes=(1, 2)), 0.8, 0.9),
    "upside down": (lambda film: film[:, ::-1], 0.6, 0.7),
}


@pytest.fixture(scope="module")
def films(real_films):
    return model_inputs(in_split(read_films(real_films), "calibration"), Preprocessing())


@pytest.mark.parametrize("change", CHANGES)
def test_negatives_and_turned_films_are_unlike(films, change):
    policy = Policy.load(REPOSITORY / "models" / "nih-clean.policy.json")
    changed, least, most = CHANGES[change]
    distances = [policy.likeness.distance(np.ascontiguousarray(changed(film))) for film in films]
    unlike = np.mean([policy.likeness_p_value(distance) <= policy.likeness_level for distance in distances])
    assert least <= unlike <= most
