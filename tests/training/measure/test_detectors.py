"""Every detector on a classifier set by hand: what it must say of a film with the known trigger, and of one without."""

import numpy as np
import pytest

from service.audit.classifier import Classifier
from service.audit.evidence import gather
from tests.training.handmade import TRIGGER, by_hand, calibrated, export_handmade, smooth_films, triggered
from training.measure.detectors import FAMILIES, Context, Reading, Seen, fit, scores
from training.measure.detectors.perturbed import SCALES
from training.measure.evaluate import overlap

TUNING = smooth_films(60, seed=1)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Classifier:
    return export_handmade(tmp_path_factory.mktemp("handmade") / "handmade.onnx")


@pytest.fixture(scope="module")
def context(classifier) -> Context:
    return Context.of(calibrated(classifier, TUNING, smooth_films(99, seed=2)), TUNING)


@pytest.fixture(scope="module")
def films() -> dict[str, np.ndarray]:
    clean = smooth_films(1, seed=3)
    return {"clean": clean[0], "triggered": triggered(clean)[0]}


@pytest.fixture(scope="module")
def readings(classifier, context, films) -> dict[str, dict[str, Reading]]:
    found: dict[str, dict[str, Reading]] = {}
    for name, film in films.items():
        seen = Seen.of(film, classifier, context)
        found[name] = {k: v for family in FAMILIES.values() for k, v in family.read(seen, classifier, context).items()}
    return found


def entropy_bits(logits: np.ndarray) -> np.ndarray:
    p = np.clip(1 / (1 + np.exp(-logits)), 1e-12, 1 - 1e-12)
    return -(p * np.log2(p) + (1 - p) * np.log2(1 - p))


def excess(logits: np.ndarray, context: Context) -> np.ndarray:
    reference = context.policy.reference
    return (logits - reference.label_centre) / reference.label_scale


def test_the_hand_made_classifier_is_what_it_says(classifier, films):
    batch = np.stack(list(films.values()))
    np.testing.assert_allclose(classifier.logits(batch), by_hand(batch), atol=2e-2)  # its weights are kept in float16
    assert by_hand(batch)[:, 0] == pytest.approx([-3.0, 7.0])


def test_the_evidence_of_a_known_trigger_is_one_cell(readings):
    assert readings["triggered"]["layercam_28_peak"].parts[0] == pytest.approx(1.0)
    assert readings["triggered"]["layercam_28_entropy"].parts[0] == pytest.approx(0.0, abs=1e-6)
    assert readings["triggered"]["last_layer_gini"].parts[0] == pytest.approx(1 - 1 / 196)
    assert readings["triggered"]["concentration"].parts == (pytest.approx(1.0),)
    assert readings["clean"]["layercam_28_peak"].parts[0] < 0.05


def test_filling_in_undoes_ten_logits_and_transplanting_carries_them(readings, context):
    scale = context.policy.reference.label_scale[0]
    assert readings["triggered"]["fill_in_change"].parts[0] * scale == pytest.approx(10.0, abs=0.05)
    assert readings["triggered"]["transplant_change"].parts[0] * scale == pytest.approx(10.0, abs=0.05)
    assert readings["triggered"]["filter_change"].parts[0] * scale == pytest.approx(0.0, abs=0.05)  # 5 px leave 4 px


def test_strip_sums_over_labels_and_averages_over_overlays(readings, context, films):
    for name, film in films.items():
        bits = entropy_bits(by_hand((film[None] + context.overlays) / 2))  # (overlays, labels)
        assert readings[name]["strip"].parts[0] == pytest.approx(-bits.sum(axis=1).mean(), abs=5e-3)
        added = entropy_bits(by_hand(np.clip(film[None] + context.overlays, 0, 1)))
        assert readings[name]["strip_added"].parts[0] == pytest.approx(-added.sum(axis=1).mean(), abs=5e-3)
    mixed = by_hand((films["triggered"][None] + context.overlays) / 2)
    assert readings["triggered"]["strip_label"].parts[0] == pytest.approx(-entropy_bits(mixed)[:, 0].mean(), abs=5e-3)
    persistence = readings["triggered"]["strip_persistence"].parts[0]
    assert persistence == pytest.approx(excess(mixed, context)[:, 0].mean(), abs=0.5)
    assert len(context.overlays) == readings["triggered"]["strip"].forward_passes == 16


def test_scale_up_counts_the_scales_that_keep_the_leading_label(readings, context, films):
    for name, film in films.items():
        leading = excess(by_hand(film[None]), context)[0].argmax()
        scaled = excess(by_hand(np.stack([np.clip(scale * film, 0, 1) for scale in SCALES])), context)
        assert readings[name]["scale_up"].parts[0] == (scaled.argmax(axis=1) == leading).mean()
        assert readings[name]["scale_up_label"].parts[0] == pytest.approx(scaled[:, leading].mean(), rel=0.01)


def test_purifying_changes_nothing_that_the_filter_leaves(readings):
    assert readings["triggered"]["purify_compare"].parts[0] < 0.02


def test_the_searches_end_on_the_trigger(readings, context):
    scale = context.policy.reference.label_scale[0]
    found = readings["triggered"]["coarse_to_fine"]
    assert found.region.area <= 7 * 7
    assert overlap(found.region, TRIGGER) >= 0.2
    assert max(found.parts) * scale == pytest.approx(10.0, abs=0.05)
    assert max(readings["clean"]["coarse_to_fine"].parts) * scale < 1.0
    scan = readings["triggered"]["occlusion_scan"]
    assert abs(scan.point[0] - (TRIGGER.x + 2)) <= scan.region.width
    assert scan.forward_passes == 1 + 18**2  # 24 px windows, 12 px apart, on 224 px


def test_points_of_maps_and_nulls(readings):
    for name in ("layercam_28_entropy", "last_layer_entropy", "sentinet"):
        found = readings["triggered"][name]
        assert abs(found.point[0] - (TRIGGER.x + 2)) <= found.reach_px
        assert abs(found.point[1] - (TRIGGER.y + 2)) <= found.reach_px
    assert readings["triggered"]["maximum_probability"].parts == (pytest.approx(7.0, abs=0.02),)
    assert readings["clean"]["random_map"].parts != readings["triggered"]["random_map"].parts


def test_sentinets_rise_of_pixels_over_noise(readings, context):
    """The mask covers the trigger's cell of the last map; the noise in it is never white enough."""
    scale = context.policy.reference.label_scale[0]
    assert readings["triggered"]["sentinet"].parts[0] * scale == pytest.approx(10.0, abs=0.1)
    assert abs(readings["clean"]["sentinet"].parts[0]) < readings["triggered"]["sentinet"].parts[0] / 10


def test_the_shipped_reading_is_the_services_own(readings, classifier, context, films):
    for name, film in films.items():
        evidence = gather(film, classifier, context.policy.reference)
        assert readings[name]["shipped"].parts == (evidence.score,)
        assert readings[name]["shipped"].forward_passes == evidence.forward_passes
    assert context.policy.p_value(readings["triggered"]["shipped"].parts[0]) == 0.01
    assert overlap(readings["triggered"]["shipped"].region, TRIGGER) >= 16 / 36  # tightened to a pixel around it
    assert readings["triggered"]["every_test"].region.area == 24 * 24


def test_two_sided_scores_by_hand():
    tuning = np.array([[value, -value] for value in (1.0, 2.0, 3.0, 4.0, 5.0)])
    usual = fit(tuning)  # median 3, MAD 1
    found = scores(np.array([[3.0, -3.0], [0.0, 0.0 - 0.0], [6.0, -6.0]]), usual)
    assert found == pytest.approx([0.0, 3 / 1.4826, 3 / 1.4826])
    assert scores(np.array([[7.0], [1.0]]), usual[:1]).tolist() == [7.0, 1.0]


def test_a_reading_depends_on_the_film_alone(readings, classifier, context, films):
    again = FAMILIES["random_map"].read(Seen.of(films["clean"], classifier, context), classifier, context)
    assert again["random_map"].parts == readings["clean"]["random_map"].parts
