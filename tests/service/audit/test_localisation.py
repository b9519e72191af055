"""The region that an alarm reports: as small as the trigger allows, and the whole of it."""

from pathlib import Path

import numpy as np
import pytest

from service.audit.calibration import Policy
from service.audit.localisation import trimmed
from service.audit.pipeline import examine
from service.audit.preprocessing import Region
from service.graphs.examiner import load_classifier
from tests.conftest import REPOSITORY
from training.phantoms import make

MODELS: Path = REPOSITORY / "models"


def test_each_side_is_trimmed_by_itself():
    whole = Region(10, 20, 24, 16)
    assert trimmed(whole, "left", 4) == Region(14, 20, 20, 16)
    assert trimmed(whole, "right", 4) == Region(10, 20, 20, 16)
    assert trimmed(whole, "top", 4) == Region(10, 24, 24, 12)
    assert trimmed(whole, "bottom", 4) == Region(10, 20, 24, 12)


@pytest.mark.parametrize("seed", range(4))
def test_an_alarms_region_holds_the_3x3_trigger_and_little_else(seed):
    classifier = load_classifier(MODELS / "phantom-badnet3.onnx")
    policy = Policy.load(MODELS / "phantom-badnet3.policy.json")
    film = make(seed, 224).pixels[None].astype(np.float32)
    film[0, 218:221, 218:221] = 1.0
    found = examine(film, classifier, policy)
    region = found.verdict.region
    assert found.verdict.word == "suspicious"
    assert region is not None
    assert region.x <= 218
    assert region.y <= 218
    assert region.x + region.width >= 221
    assert region.y + region.height >= 221
    assert region.area <= 49
    assert found.timings_ms["localisation"] > 0
