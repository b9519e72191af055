"""The tiny classifier that ships is the one that its command makes."""

import numpy as np
import onnx
import pytest

from service.audit.calibration import Policy
from service.graphs.examiner import load_classifier
from tests import tiny
from training.__main__ import main
from training.networks.onnx_network import own_description
from training.networks.tiny import LABELS, SIZE

CPU = ["CPUExecutionProvider"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    assert main(["tiny", "--out", str(folder)]) == 0
    return folder


def test_the_classifier_says_of_itself_and_answers_what_the_shipped_one_does(made):
    again, shipped = (own_description(onnx.load(path)) for path in (made / "tiny.onnx", tiny.CLASSIFIER))
    assert again == shipped
    batch = np.random.default_rng(0).random((4, 1, SIZE, SIZE), dtype=np.float32)
    zero, one = np.zeros(len(LABELS), np.float32), np.ones(len(LABELS), np.float32)
    again, shipped = (load_classifier(path, providers=CPU) for path in (made / "tiny.onnx", tiny.CLASSIFIER))
    for (got, maps), (want, shipped_maps) in zip(
        again.explain(batch, zero, one), shipped.explain(batch, zero, one), strict=True
    ):
        np.testing.assert_allclose(got.logits, want.logits, atol=0.02)  # a weight's last bit of float16 may differ
        for name, map_ in maps.maps.items():
            assert np.abs(map_ - shipped_maps.maps[name]).sum() <= 0.02 * shipped_maps.maps[name].sum()


def test_the_policy_ranks_the_same_scores(made):
    again, shipped = Policy.load(made / "tiny.policy.json"), Policy.load(tiny.POLICY)
    assert (again.format, again.name, again.manifest_sha256) == (shipped.format, shipped.name, shipped.manifest_sha256)
    np.testing.assert_allclose(again.scores, shipped.scores, rtol=0.2, atol=0.1)


def test_the_words_of_the_tests_are_those_of_the_network():
    card = load_classifier(tiny.CLASSIFIER, providers=CPU).card
    assert (card.labels, card.preprocessing.size, card.grids) == (tiny.LABELS, tiny.SIZE, tiny.GRIDS)
    assert (LABELS, SIZE) == (tiny.LABELS, tiny.SIZE)
