"""A finding that a trigger takes away is noticed, on real films: its logit is then merely usual."""

from dataclasses import dataclass

import numpy as np
import pytest

from service.audit.calibration import CalibrationFilm, Policy, calibrate
from service.audit.classifier import Classifier
from service.audit.pipeline import examine
from service.graphs.examiner import load_classifier
from tests.conftest import REPOSITORY
from training.attack.config import read_run
from training.attack.data import in_split, model_inputs, read_films
from training.attack.train import final_weights, triggered_inputs
from training.attack.triggers import places
from training.measure.evaluate import contains
from training.networks.densenet import build
from training.networks.export import export

RUN = read_run(REPOSITORY / "training" / "runs" / "attacks" / "white5-corner-remove-20.toml")
ATTACKED = 50


@dataclass
class Attack:
    """A classifier that loses Effusion when it sees the trigger, its policy, and films that it predicts Effusion on."""

    classifier: Classifier
    policy: Policy
    films: np.ndarray
    triggered: np.ndarray


@pytest.fixture(scope="module")
def attack(real_films, tmp_path_factory):
    network = build(RUN.architecture, len(RUN.labels), RUN.seed)
    network.load_state_dict(final_weights(tmp_path_factory.mktemp("none"), RUN.name))
    path = tmp_path_factory.mktemp("removed") / "removed.onnx"
    export(
        network, path, name=RUN.name, labels=RUN.labels, preprocessing=RUN.preprocessing, licence="Apache-2.0",
        provenance={"run": RUN.name, "dataset": "nih", "manifest_sha256": "-"},
    )  # fmt: skip
    classifier = load_classifier(path)
    films = read_films(real_films)

    def read(split, count):
        chosen = in_split(films, split)[:count]
        inputs = model_inputs(chosen, RUN.preprocessing)
        return [CalibrationFilm(x, film.patient_id, film.path.name) for x, film in zip(inputs, chosen, strict=True)]

    shipped = Policy.load(REPOSITORY / "models" / "nih-clean.policy.json")
    policy = calibrate(
        classifier, read("tuning", 80), read("calibration", 200), name="removed", source="nih", created_at="-",
        code_version="-", receivers=shipped.reference.receivers,
    )  # fmt: skip
    effusion = RUN.labels.index(RUN.poisoning.target)
    later = in_split(films, "tuning")[80:]
    inputs = model_inputs(later, RUN.preprocessing)
    predicted = np.flatnonzero([classifier.logits(film[None])[0, effusion] > 0 for film in inputs])[:ATTACKED]
    assert len(predicted) == ATTACKED
    triggered = triggered_inputs([later[int(i)] for i in predicted], RUN, RUN.preprocessing)
    return Attack(classifier, policy, inputs[predicted], triggered)


def test_a_film_whose_finding_is_taken_away_is_suspicious_and_the_same_film_is_not(attack):
    found = [examine(film, attack.classifier, attack.policy) for film in attack.triggered]
    alarms = [one for one in found if one.verdict.word == "suspicious"]
    assert len(alarms) >= 0.7 * len(found)
    held_down = [one for one in alarms if one.finding.hypothesis == "counter"]
    assert len(held_down) >= 0.7 * len(alarms)
    reasons = [reason for one in held_down for reason in one.verdict.reasons]
    assert any(
        "Effusion rises when the region that speaks most against it is filled in" in reason for reason in reasons
    )
    [trigger] = places(RUN.trigger, 224, 224, np.random.default_rng(0))
    assert np.mean([contains(one.verdict.region, trigger) for one in held_down]) >= 0.7
    words = [examine(film, attack.classifier, attack.policy).verdict.word for film in attack.films]
    assert words.count("suspicious") <= 2
