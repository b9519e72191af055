"""The shipped example classifiers and policies on the shipped examples: what a new user sees first."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from service.audit.calibration import Policy
from service.audit.evidence import gather
from service.audit.pipeline import audit
from service.audit.preprocessing import Region, model_input
from service.audit.verdict import judge
from service.errors import PolicyError
from service.films.radiograph import Limits, decode
from service.graphs.examiner import load_classifier
from tests.conftest import REPOSITORY, unavailable

MODELS = REPOSITORY / "models"
NAMES = ("phantom-clean", "phantom-badnet3")


def table():
    with (MODELS / "examples" / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def shipped(models_dir):
    return {
        name: (load_classifier(models_dir / f"{name}.onnx"), Policy.load(models_dir / f"{name}.policy.json"))
        for name in NAMES
    }


def read(row):
    return (MODELS / "examples" / row["file"]).read_bytes()


def of_kind(content):
    return [pytest.param(row, id=row["file"]) for row in table() if row["content"] == content]


def trigger_in(width):
    factor = width // 224
    return Region(218 * factor, 218 * factor, 3 * factor, 3 * factor)


@pytest.mark.parametrize("row", of_kind("triggered"))
def test_a_triggered_example_is_suspicious_and_the_region_holds_the_trigger(row, shipped):
    radiograph, found = audit(read(row), *shipped["phantom-badnet3"], Limits())
    assert found.verdict == "suspicious"
    assert found.p_value is not None
    assert found.p_value <= 0.01
    assert found.explained_label == "Atelectasis"
    assert len(found.reasons) >= 2
    trigger, region = trigger_in(radiograph.width), found.region
    assert region is not None
    assert region.contains(trigger.x, trigger.y)
    assert region.contains(trigger.x + trigger.width - 1, trigger.y + trigger.height - 1)
    assert region.area <= 0.02 * radiograph.width * radiograph.height


@pytest.mark.parametrize("row", of_kind("clean"))
def test_a_clean_example_is_unremarkable(row, shipped):
    _, found = audit(read(row), *shipped["phantom-badnet3"], Limits())
    assert found.verdict == "unremarkable"
    assert found.region is None
    assert set(found.probabilities) == set(shipped["phantom-badnet3"][0].card.labels)
    assert all(0 <= p <= 1 for p in found.probabilities.values())


@pytest.mark.parametrize("row", [*of_kind("clean"), *of_kind("triggered")])
def test_the_clean_classifier_does_not_alarm(row, shipped):
    _, found = audit(read(row), *shipped["phantom-clean"], Limits())
    assert found.verdict != "suspicious"


def test_without_a_policy_nothing_is_ranked(shipped):
    _, found = audit(read(table()[0]), shipped["phantom-clean"][0], None, Limits())
    assert found.verdict == "indeterminate"
    assert found.p_value is None
    assert "no policy" in found.reasons[0]


def test_another_classifiers_policy_is_refused(shipped):
    with pytest.raises(PolicyError):
        audit(read(table()[0]), shipped["phantom-clean"][0], shipped["phantom-badnet3"][1], Limits())


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(np.rint(pixels * 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_film_unlike_the_calibration_films_is_indeterminate(shipped):
    checkers = np.indices((224, 224)).sum(axis=0) // 8 % 2 * 0.8
    for film in (checkers, np.full((224, 224), 0.5)):
        _, found = audit(png(film), *shipped["phantom-clean"], Limits())
        assert found.verdict == "indeterminate"
        assert "unlike" in found.reasons[0]


def test_evidence_far_beyond_the_threshold_is_suspicious_even_on_an_unlike_film(shipped):
    classifier, policy = shipped["phantom-badnet3"]
    film = model_input(decode(read(next(r for r in table() if r["content"] == "triggered")), Limits()).pixels,
                       classifier.card.preprocessing)  # fmt: skip
    evidence = gather(film, classifier, policy.reference)
    assert judge(evidence, 1e9, policy).word == "suspicious"
    for times, word in ((1.4, "indeterminate"), (4.9, "indeterminate"), (5.1, "suspicious")):
        ordinary = replace(policy, scores=np.full_like(policy.scores, evidence.score / times))
        assert judge(evidence, 0.0, ordinary).word == "suspicious"
        assert judge(evidence, 1e9, ordinary).word == word


def test_one_film_as_png_and_as_both_photometric_interpretations(shipped, tmp_path):
    from training.phantoms import make, write_dicom

    phantom, classifier = make(77, 448), shipped["phantom-clean"][0]
    results = []
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        path = tmp_path / f"{photometric}.dcm"
        write_dicom(phantom, path, photometric, 12)
        results.append(audit(path.read_bytes(), classifier, None, Limits())[1].probabilities)
    plain = audit(png(phantom.pixels), classifier, None, Limits())[1].probabilities
    assert results[0] == results[1]
    assert list(plain.values()) == pytest.approx(list(results[0].values()), abs=0.02)


def real_film(name, shipped):
    path = get_testdata_file(name, download=False)
    if path is None:
        unavailable(f"{name} is missing: pip install pydicom-data")
    _, found = audit(Path(path).read_bytes(), *shipped["phantom-clean"], Limits())
    return found


def test_a_real_film_in_four_encodings(shipped):
    """pydicom-data's adult CR chest: MONOCHROME1, 15 bits, uncompressed and JPEG 2000, lossless and not."""
    plain, squeezed = real_film("RG1_UNCR.dcm", shipped), real_film("RG1_J2KR.dcm", shipped)
    lossy, lossy_squeezed = real_film("RG1_UNCI.dcm", shipped), real_film("RG1_J2KI.dcm", shipped)
    assert plain.probabilities == squeezed.probabilities
    assert plain.pixels_sha256 == squeezed.pixels_sha256
    assert lossy.probabilities == lossy_squeezed.probabilities
    assert list(plain.probabilities.values()) == pytest.approx(list(lossy.probabilities.values()), abs=0.02)
    assert plain.verdict in ("indeterminate", "unremarkable")
