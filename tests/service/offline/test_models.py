import json

import pytest

from service.errors import ClassifierError
from service.offline.models import find_classifier, find_models, preferred
from tests import tiny
from tests.conftest import REPOSITORY


def test_what_reads_a_film_that_names_no_classifier():
    assert preferred(["phantom-clean", "nih-badnet3", "nih-clean"]) == "nih-clean"
    assert preferred(["phantom-clean", "nih-badnet3", "nih-clean"], "phantom-clean") == "phantom-clean"
    assert preferred(["phantom-clean", "phantom-badnet3"], "gone") == "phantom-badnet3"
    assert preferred([]) is None


def test_the_tiny_classifier_ships_with_its_policy_and_is_nobodys_default():
    found = find_models(tiny.CLASSIFIER.parent, "tiny", None)
    assert found.classifier.card.name == "tiny"
    assert found.policy is not None
    found.policy.check(found.classifier.card)
    assert find_classifier(REPOSITORY / "models", "").name == "nih-clean.onnx"
    with pytest.raises(ClassifierError):
        find_classifier(REPOSITORY / "models", "tiny")


def test_a_policy_with_warnings_is_used_only_by_name(tmp_path):
    (tmp_path / "tiny.onnx").symlink_to(tiny.CLASSIFIER)
    table = json.loads(tiny.POLICY.read_bytes()) | {"name": "warned", "warnings": ["6 films stand apart"]}
    (tmp_path / "tiny.policy.json").write_text(json.dumps(table))
    assert find_models(tmp_path, "tiny", None).policy is None
    named = find_models(tmp_path, "tiny", "warned").policy
    assert named is not None
    assert named.warnings == ("6 films stand apart",)
