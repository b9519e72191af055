import functools
import json
from dataclasses import replace

import numpy as np
import pytest

from service.audit.calibration import (
    CalibrationFilm,
    calibrate,
    policy_bytes,
    read_policy,
    split_by_patient,
)
from service.audit.evidence import Usual, gather
from service.audit.pipeline import audit_radiograph
from service.errors import PolicyError
from service.films.radiograph import Radiograph
from service.graphs.examiner import load_classifier
from tests.tiny import CLASSIFIER, SIZE
from training.phantoms import make


@pytest.fixture(scope="module")
def classifier():
    return load_classifier(CLASSIFIER)


@pytest.fixture(scope="module")
def policy(classifier):
    return calibrated(classifier)


@functools.cache
def film(seed):
    return CalibrationFilm(make(seed, SIZE).pixels[None], f"patient {seed}", f"{seed}.png")


def films(first, count):
    return [film(seed) for seed in range(first, first + count)]


def calibrated(classifier, **changes):
    arguments = {
        "name": "trial",
        "source": "phantoms",
        "created_at": "2026-11-22T00:00:00+00:00",
        "code_version": "test",
        "receivers": np.stack([item.film for item in films(900, 2)]),
        "false_positive_rate": 0.05,
    }
    return calibrate(classifier, films(0, 60), films(100, 40), **(arguments | changes))


def test_ranks_by_hand(policy):
    policy = replace(policy, scores=np.arange(1, 100, dtype=np.float32))  # 1 .. 99
    assert policy.p_value(1000.0) == 1 / 100
    assert policy.p_value(99.0) == 2 / 100  # a tie counts against the film
    assert policy.p_value(98.5) == 2 / 100
    assert policy.p_value(0.0) == 1.0


def test_weights_and_ranks_of_one_number():
    usual = Usual.of([0.0, 1.0, 2.0, 3.0, 4.0])
    assert (usual.centre, usual.scale) == (2.0, pytest.approx(1.4826))
    assert usual.weight(1.0) == 0.0
    assert usual.weight(2.0 + 1.4826) == pytest.approx(1.0)
    assert usual.weight(2.0 + 1.4826, 10) == pytest.approx(0.1)
    assert usual.p_value(5.0) == pytest.approx(1 / 6)
    assert usual.p_value(4.0) == pytest.approx(2 / 6)


def test_a_policy_file_holds_everything(classifier, policy):
    again = read_policy(policy_bytes(policy))
    assert again.sha256 == policy.sha256
    assert again.classifier_sha256 == classifier.card.sha256
    assert again.preprocessing_sha256 == classifier.card.preprocessing.sha256
    assert (len(again.scores), again.reference_count, again.patients) == (40, 60, 40)
    film = films(500, 1)[0].film
    assert gather(film, classifier, again.reference).score == gather(film, classifier, policy.reference).score


def test_clean_films_are_all_kept_and_the_file_says_nothing_of_films_left_out(policy):
    assert (policy.warnings, policy.left_out) == ((), (0, 0))
    assert policy.band_at_worst == policy.band
    assert "left_out" not in json.loads(policy_bytes(policy))


def test_the_same_films_give_the_same_policy(classifier, policy):
    assert policy_bytes(calibrated(classifier)) == policy_bytes(policy)


def test_too_few_films_are_refused(classifier):
    with pytest.raises(PolicyError, match="99 are needed"):
        calibrated(classifier, false_positive_rate=0.01)


def test_a_patient_in_both_sets_is_refused(classifier, policy):
    both = films(0, 60)
    with pytest.raises(PolicyError, match="both"):
        calibrate(
            classifier, both, both, name="x", source="x", created_at="x", code_version="x",
            receivers=policy.reference.receivers, false_positive_rate=0.05,
        )  # fmt: skip


def test_a_policy_of_another_classifier_is_refused(policy, models_dir):
    with pytest.raises(PolicyError, match="another version"):
        policy.check(load_classifier(models_dir / "phantom-badnet3.onnx").card)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_policy_of_an_earlier_score_can_be_read_and_ranks_nothing(classifier, policy, version):
    table = json.loads(policy_bytes(policy)) | {"format": version}
    if version < 3:
        del table["reference"]["isolation"]
    for usual in table["reference"]["usual"].values():
        if version < 3:
            del usual["isolation"]
        if version == 1:
            del usual["pattern_change"]
    old = read_policy(json.dumps(table).encode())
    assert old.outdated
    assert not policy.outdated
    with pytest.raises(PolicyError, match="calibrate anew"):
        old.check(classifier.card)
    radiograph = Radiograph(make(500, SIZE).pixels, "0" * 64, "0" * 64, {})
    found = audit_radiograph(radiograph, classifier, old)
    assert (found.verdict, found.p_value) == ("indeterminate", None)
    assert "calibrate anew" in found.reasons[0]


def test_the_threshold_is_the_score_that_the_rate_of_clean_films_reaches(policy):
    ranked = replace(policy, scores=np.arange(1, 400, dtype=np.float32), false_positive_rate=0.01)
    assert ranked.threshold == 396.0
    assert ranked.p_value(396.0) > 0.01
    assert ranked.p_value(396.5) <= 0.01


@pytest.mark.parametrize("change", [{"format": 99}, {"scores": "many"}, {"reference": {}}, {"likeness": None}])
def test_a_damaged_policy_is_refused(policy, change):
    table = json.loads(policy_bytes(policy)) | change
    with pytest.raises(PolicyError):
        read_policy(json.dumps(table).encode())


@pytest.mark.parametrize("scale", ["label_scale", "isolation"])
def test_a_policy_whose_scales_are_not_above_zero_is_refused(policy, scale):
    table = json.loads(policy_bytes(policy))
    reference = table["reference"]
    (reference["isolation"]["counter"]["scale"] if scale == "isolation" else reference["label_scale"])[1] = 0.0
    with pytest.raises(PolicyError, match="above 0"):
        read_policy(json.dumps(table).encode())


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe"])
def test_what_is_no_policy_is_refused(data):
    with pytest.raises(PolicyError):
        read_policy(data)


def test_patients_are_never_divided():
    several = [CalibrationFilm(np.zeros((1, 4, 4), np.float32), f"p{i // 3}", str(i)) for i in range(300)]
    reference, calibration = split_by_patient(several)
    assert len(reference) + len(calibration) == 300
    assert not {several[i].patient for i in reference} & {several[i].patient for i in calibration}
    assert 60 < len(reference) < 140
