"""How tests become one score, by hand."""

from dataclasses import replace

import numpy as np
import pytest

from service.audit.evidence import COUNTER_MEANINGS, MEANINGS, SIGNS, Reference, Usual, first_look, fused, gather
from service.errors import ClassifierError
from tests.tiny import SIZE

NOTHING = np.zeros((1, 1, SIZE, SIZE), dtype=np.float32)


@pytest.fixture
def reference():
    """Clean films show -1, 0 and 1 in every test: the centre is 0 and the scale 1.4826."""
    usual = Usual.of([-1.0, 0.0, 1.0])
    return Reference(
        label_centre=np.zeros(2, dtype=np.float32),
        label_scale=np.ones(2, dtype=np.float32),
        isolation_centre=dict.fromkeys(SIGNS, np.zeros(2, dtype=np.float32)),
        isolation_scale=dict.fromkeys(SIGNS, np.ones(2, dtype=np.float32)),
        usual={(hypothesis, name): usual for hypothesis in SIGNS for name in MEANINGS},
        gates=dict.fromkeys(SIGNS, 0.0),
        transplant_gate=0.0,
        receivers=NOTHING,
        receiver_logits=np.zeros((1, 2), dtype=np.float32),
    )


def weight(value, allowance=1.0):
    return value / 1.4826 / allowance


def test_a_patch_adds_its_tests_up_and_the_whole_film_counts_its_largest(reference):
    patch = {"concentration": 2.0, "fill_in_change": 30.0, "transplant_change": 5.0}
    whole = {"filter_change": 20.0, "pattern_change": 300.0}
    assert fused(patch, "support", reference) == pytest.approx(weight(2) + weight(30) + weight(5))
    assert fused(whole, "support", reference) == pytest.approx(weight(300, 10))
    assert fused(patch | whole, "support", reference) == pytest.approx(fused(patch, "support", reference))
    clearer = {"pattern_change": 900.0}
    assert fused(patch | clearer, "support", reference) == pytest.approx(weight(900, 10))


def test_one_test_beyond_doubt_outranks_several_that_are_rather_unusual(reference):
    doubtless = {"excess": 2.0, "concentration": 1.0, "fill_in_change": 200.0, "transplant_change": 1.0}
    several = dict.fromkeys(doubtless, 9.0)
    assert fused(doubtless, "support", reference) > 2 * fused(several, "support", reference)


def test_what_drew_the_eye_counts_the_excess_of_a_supported_and_the_isolation_of_a_held_down_label(reference):
    values = {"excess": 8.0, "isolation": 12.0, "fill_in_change": 30.0}
    assert fused(values, "support", reference) == pytest.approx(weight(8) + weight(30))
    assert fused(values, "counter", reference) == pytest.approx(weight(12, 2) + weight(30, 2))


def test_a_label_is_held_down_where_one_place_speaks_against_it_whatever_its_logit(shipped_badnet):
    classifier, policy, film = shipped_badnet
    labels = len(classifier.card.labels)
    lowest = int(np.argmin(classifier.logits(film[None])[0]))
    chosen = (lowest + 1) % labels
    usual = dict(policy.reference.isolation_centre)
    usual["counter"] = np.where(np.arange(labels) == chosen, -1e3, 1e3).astype(np.float32)
    elsewhere = replace(policy.reference, isolation_centre=usual)
    for reference in (elsewhere, replace(elsewhere, gates={"support": np.inf, "counter": 1.0})):
        found = gather(film, classifier, reference, exhaustive=reference is elsewhere)
        assert [finding.label for finding in found.findings if finding.hypothesis == "counter"] == [chosen]
    closed = gather(film, classifier, replace(elsewhere, gates=dict.fromkeys(SIGNS, np.inf)))
    assert (closed.explain_passes, closed.forward_passes) == (1, 0)


def test_any_label_can_be_explained(shipped_badnet):
    classifier, _, film = shipped_badnet
    for label in range(len(classifier.card.labels)):
        prediction, saliency = classifier.explain_label(film, label)
        assert saliency.explained_labels[0] == label
        assert prediction.logits == pytest.approx(classifier.logits(film[None])[0], abs=1e-3)


def test_what_is_below_usual_or_was_not_taken_adds_nothing(reference):
    assert fused({}, "support", reference) == 0.0
    assert fused(dict.fromkeys(MEANINGS, -5.0), "support", reference) == 0.0
    assert fused({"diffuseness": 50.0}, "support", reference) == 0.0


def test_answers_that_are_no_numbers_are_refused(shipped_badnet):
    classifier, policy, film = shipped_badnet
    prediction, saliency = classifier.explain_label(film, 0)
    broken = np.full_like(saliency.class_activation_maps, np.nan)
    for said, shown in (
        (prediction, replace(saliency, class_activation_maps=broken)),
        (replace(prediction, logits=np.full_like(prediction.logits, np.inf)), saliency),
    ):
        with pytest.raises(ClassifierError, match="not finite"):
            first_look(said, shown, classifier, policy.reference, "counter")


def test_every_piece_of_evidence_is_put_into_words_for_both_hypotheses():
    assert set(COUNTER_MEANINGS) == set(MEANINGS)


class Counting:
    """A classifier's answers pass through, films that are predicted without maps are counted."""

    def __init__(self, classifier):
        self.card, self.explain, self.explain_label = classifier.card, classifier.explain, classifier.explain_label
        self._logits, self.films = classifier.logits, 0

    def logits(self, batch):
        self.films += len(batch)
        return self._logits(batch)


def test_passes_are_counted_as_they_are_taken(shipped_badnet):
    classifier, policy, film = shipped_badnet
    counting = Counting(classifier)
    found = gather(film, counting, policy.reference, exhaustive=True)
    assert found.explain_passes == 2
    assert found.forward_passes == counting.films == 2 * (1 + len(policy.reference.receivers)) + 2


@pytest.fixture
def shipped_badnet(models_dir):
    from service.audit.calibration import Policy
    from service.audit.preprocessing import model_input
    from service.films.radiograph import Limits, decode
    from service.graphs.examiner import load_classifier

    classifier = load_classifier(models_dir / "phantom-badnet3.onnx")
    film = (models_dir / "examples" / "triggered-910012.png").read_bytes()
    pixels = model_input(decode(film, Limits()).pixels, classifier.card.preprocessing)
    return classifier, Policy.load(models_dir / "phantom-badnet3.policy.json"), pixels
