"""Files that hide something: refused for what they are, or audited by maps that we derived, like the honest one."""

import dataclasses
import json
from collections.abc import Callable

import numpy as np
import onnx
import pytest

from service.audit.calibration import CalibrationFilm, Policy, calibrate
from service.audit.classifier import Classifier
from service.audit.pipeline import audit_radiograph, examine
from service.audit.preprocessing import Region
from service.errors import ClassifierError
from service.films.radiograph import Radiograph
from service.graphs.description import Description, read_description
from service.graphs.examiner import Derived, Examiner, load_classifier, opened
from tests.service.graphs import rogues
from training.phantoms import make

CPU = ["CPUExecutionProvider"]
TRIGGER = Region(218, 218, 3, 3)


def description() -> Description:
    return read_description(json.loads(onnx.load(rogues.CLEAN).metadata_props[0].value))


def examined(data: bytes, head: str = "sigmoid") -> Derived:
    return Examiner().examine(data, dataclasses.replace(description(), head=head))


def film(seed: int) -> np.ndarray:
    return make(seed, 224).pixels[None].astype(np.float32)


def films(first: int, count: int) -> np.ndarray:
    return np.stack([film(first + number) for number in range(count)])


@pytest.mark.parametrize(
    ("rogue", "reason"),
    [
        (rogues.with_a_way_to_the_logits, "a way goes around Concat block_0: the film -> Conv side_conv -> "),
        (rogues.with_a_way_into_a_dense_block, "a way goes around Concat block_0: the film -> Conv side_conv -> Add"),
        (lambda: rogues.with_mixed_places(permuted=True), r"Reshape mixed_flat .* moves or mixes places"),
        (lambda: rogues.with_mixed_places(permuted=False), r"Reshape mixed_flat .* moves or mixes places"),
        (rogues.with_shifted_places, r"Concat shifted_block have no places: of 48 disturbed windows"),
        (lambda: rogues.with_shifted_places(2), r"Concat shifted_block have no places: of 48 disturbed windows"),
        (lambda: rogues.with_shifted_places(6, 0.1, 100), r"10% of the channels of Concat shifted_block"),
        (rogues.with_spread_places, "have no places: a cell looks"),
        (rogues.with_a_choice, "Greater is_white: it chooses by the data"),
        (rogues.with_a_batchs_statistics, "BatchNormalization .* in training mode"),
    ],
    ids=[
        "a way to the logits", "a way into a dense block", "permuted", "orthogonally mixed", "shifted",
        "shifted a little",
        "a few channels shifted", "spread from one cell", "a select", "statistics of the batch",
    ],
)  # fmt: skip
def test_a_rogue_is_refused_for_what_it_is(rogue: Callable[[], bytes], reason: str) -> None:
    with pytest.raises(ClassifierError, match=reason):
        examined(rogue())


def test_the_honest_twins_go_through_the_same_door() -> None:
    for path in (rogues.CLEAN, rogues.BACKDOORED):
        report = examined(path.read_bytes()).report
        assert report is not None
        assert [found["cells"] for found in report["graph"]["explained"]] == [28, 14]
        for side in ("28", "14"):
            assert report["places"][side]["near"] >= 0.95
            assert report["places"][side]["elsewhere"] <= 0.01
            assert report["slopes"][side]["error"] <= 5e-3
        assert max(report["session_error"], report["batch_error"], report["mean_error"]) <= 1e-5


@pytest.mark.parametrize("rogue", [rogues.with_anothers_logits, rogues.with_anothers_maps])
def test_maps_that_a_file_brings_are_not_used(rogue: Callable[[], bytes]) -> None:
    """It is the backdoored network, whatever it shows: the same identity, audited in the same way."""
    honest = Examiner().derive(rogues.BACKDOORED.read_bytes(), description())
    derived = examined(rogue())
    assert derived.identity == honest.identity
    assert derived.data == honest.data
    policy = Policy.load(rogues.MODELS / "phantom-badnet3.policy.json")
    classifier = opened(derived, providers=CPU)
    for shown in rogues.triggered(films(7000, 5)):
        found = examine(shown, classifier, policy)
        assert found.verdict.word == "suspicious"
        assert holds(found.verdict.region)


def holds(region: Region | None) -> bool:
    """Whether a region holds the trigger."""
    return region is not None and all(
        (
            region.x <= TRIGGER.x,
            region.y <= TRIGGER.y,
            region.x + region.width >= TRIGGER.x + TRIGGER.width,
            region.y + region.height >= TRIGGER.y + TRIGGER.height,
        )
    )


def calibrated(classifier: Classifier) -> Policy:
    receivers = Policy.load(rogues.MODELS / "phantom-badnet3.policy.json").reference.receivers

    def clean(first: int, count: int) -> list[CalibrationFilm]:
        return [CalibrationFilm(film(first + number), f"{first} {number}", str(number)) for number in range(count)]

    return calibrate(
        classifier, clean(20_000, 60), clean(21_000, 100), name="rogue", source="phantoms", created_at="2026-11-28",
        code_version="test", receivers=receivers,
    )  # fmt: skip


def radiograph(shown: np.ndarray) -> Radiograph:
    return Radiograph(shown[0], "0" * 64, "0" * 64, {})


def test_a_detector_without_a_gradient_is_found_and_its_place_too() -> None:
    """Proof and differences hold for it: nothing is hidden from the graph, but no map points at the trigger."""
    classifier = opened(examined(rogues.with_a_saturating_detector()), providers=CPU)
    policy = calibrated(classifier)
    shown = rogues.triggered(films(7000, 6))
    assert (classifier.logits(shown)[:, rogues.TARGET] > 5).all()  # the attack works on all of them
    audits = [audit_radiograph(radiograph(pixels), classifier, policy) for pixels in shown]
    assert [audit.verdict for audit in audits] == ["suspicious"] * 6
    assert sum(holds(audit.region) for audit in audits) >= 5
    assert any("part of the film after another" in reason for reason in audits[0].reasons)


def test_what_a_softmax_adds_to_all_logits_changes_nothing() -> None:
    """Its logits are log-odds: the same answers, maps and isolation, although the raw logits are others."""
    plain, disguised = (opened(examined(rogues.as_softmax(weight), "softmax"), providers=CPU) for weight in (0.0, 3.0))
    assert plain.card.sha256 != disguised.card.sha256
    shown = np.concatenate([films(7000, 3), rogues.triggered(films(7000, 3))])
    centre, scale = np.zeros(14, np.float32), np.ones(14, np.float32)
    for one, other in zip(plain.explain(shown, centre, scale), disguised.explain(shown, centre, scale), strict=True):
        np.testing.assert_allclose(one[0].logits, other[0].logits, atol=2e-3)
        np.testing.assert_allclose(one[0].probabilities.sum(), 1.0, atol=1e-3)
        assert one[1].explained_labels.tolist() == other[1].explained_labels.tolist()
        for name in ("layercam_28", "layercam_14"):
            apart = np.abs(one[1].maps[name] - other[1].maps[name]).sum()
            assert apart <= 0.02 * one[1].maps[name].sum()
        scale_of = np.abs(one[1].class_activation_maps).max()
        apart = np.abs(one[1].class_activation_maps - other[1].class_activation_maps).max()
        assert apart <= 0.01 * scale_of


def test_a_shipped_file_gives_the_maps_that_it_brought() -> None:
    """They were made by the same rules; policies calibrated with them go on."""
    earlier = rogues.BACKDOORED.read_bytes()
    derived = Examiner().derive(earlier)
    assert Examiner().difference(earlier, derived.data, films(7000, 2)) <= 1e-4
    rogue = rogues.with_anothers_logits()
    assert Examiner().difference(rogue, Examiner().derive(rogue).data, films(7000, 2)) > 0.1
    assert load_classifier(rogues.BACKDOORED, providers=CPU).card.derived_sha256 == derived.sha256
