"""A film whose pixels are placed for a resampler that does not antialias, through the audit of one that does."""

from dataclasses import replace

import numpy as np
import pytest

from service.audit.calibration import Policy
from service.audit.evidence import RESAMPLING_BOUND
from service.audit.pipeline import audit_radiograph
from service.audit.preprocessing import Region
from service.films.radiograph import Limits, Radiograph, decode
from service.graphs.examiner import load_classifier
from tests.conftest import REPOSITORY

SIDE = 1120  # five film pixels an input pixel
READ = [5 * x + 2 for x in (218, 219, 220)]  # by bilinear without antialias, at the trigger's place


@pytest.fixture(scope="module")
def backdoored(models_dir):
    name = models_dir / "phantom-badnet3"
    return load_classifier(name.with_suffix(".onnx")), Policy.load(name.with_suffix(".policy.json"))


@pytest.fixture(scope="module")
def film():
    """A shipped clean phantom, each of its pixels 5 x 5, with a little noise of its own."""
    pixels = decode((REPOSITORY / "models" / "examples" / "clean-910004.png").read_bytes(), Limits()).pixels
    assert pixels.shape == (224, 224)
    noise = np.random.default_rng(5).normal(0, 0.02, (SIDE, SIDE))
    return np.clip(np.kron(pixels, np.ones((5, 5))) + noise, 0, 1).astype(np.float32)


def attacked(film):
    pixels = film.copy()
    pixels[np.ix_(READ, READ)] = 1.0
    return pixels


def audited(pixels, classifier, policy):
    return audit_radiograph(Radiograph(pixels, "", "", {}), classifier, policy)


def test_nine_pixels_make_it_suspicious_and_leave_its_score(film, backdoored):
    before, after = audited(film, *backdoored), audited(attacked(film), *backdoored)
    assert before.verdict == "unremarkable"
    assert "resampling" not in before.evidence
    assert before.timings_ms["resampling"] > 0
    assert after.verdict == "suspicious"
    assert after.p_value is not None
    assert after.p_value > backdoored[1].false_positive_rate
    assert after.evidence["resampling"].value >= RESAMPLING_BOUND
    assert after.evidence["resampling"].p_value is None
    assert "another resampler" in after.reasons[0]
    assert "Atelectasis rises by" in after.reasons[0]
    assert "usual for clean films" in after.reasons[1]
    assert after.region == Region(1090, 1090, 15, 15)


def test_a_policy_says_what_a_label_usually_spreads(film, backdoored):
    """Without one the change is in logits, and the verdict stays indeterminate."""
    classifier, policy = backdoored
    for given in (None, replace(policy, format=3)):
        found = audited(attacked(film), classifier, given)
        assert found.verdict == "indeterminate"
        assert found.evidence["resampling"].value >= RESAMPLING_BOUND
        assert " logits (" in found.reasons[1]
        assert audited(film, classifier, given).evidence == {}


def test_a_film_of_the_inputs_size_has_no_other_resampler(backdoored):
    pixels = np.full((224, 224), 0.4, dtype=np.float32)
    pixels[218:221, 218:221] = 1.0
    found = audited(pixels, *backdoored)
    assert "resampling" not in found.evidence


def test_of_several_places_the_one_that_moves_the_label_is_the_region(film, backdoored):
    """Single white pixels elsewhere are picked out too; the shipped trigger is at its place."""
    pixels = attacked(film)
    for y, x in ((300, 300), (500, 700), (900, 200)):
        pixels[5 * (y // 5) + 2, 5 * (x // 5) + 2] = 1.0
    assert audited(pixels, *backdoored).region == Region(1090, 1090, 15, 15)


def test_what_the_score_finds_keeps_its_region(film, backdoored):
    pixels = film.copy()
    pixels[1090:1105, 1090:1105] = 1.0
    found = audited(pixels, *backdoored)
    assert found.verdict == "suspicious"
    assert "resampling" not in found.evidence
    assert found.region is not None
    assert found.region.contains(1097, 1097)
