"""The box is not believed more than it has to be: what it answers may be a stranger's."""

import json

import pytest

from service.errors import ClassifierError
from service.graphs.examiner import LONGEST_SENTENCE, Examiner, _believed, _require_not_refused
from tests.tiny import CLASSIFIER

DESCRIPTION = {"name": "theirs", "labels": ["Mass"], "preprocessing": {"size": 64}}
SOUND = {"identity": "0" * 64, "description": DESCRIPTION}


def test_a_sound_answer_is_taken() -> None:
    assert _believed(SOUND, b"derived", "1" * 64).identity == "0" * 64


@pytest.mark.parametrize(
    "changes",
    [
        {"identity": "../../elsewhere"},
        {"identity": None},
        {"description": {}},
        {"description": {**DESCRIPTION, "labels": []}},
        {"report": {"graph": 1}},
        {"report": ["no report"]},
    ],
    ids=json.dumps,
)
def test_an_answer_of_another_form_is_not(changes: dict[str, object]) -> None:
    with pytest.raises(ClassifierError):
        _believed(SOUND | changes, b"derived", "1" * 64)


def test_its_sentence_is_short_and_printable() -> None:
    with pytest.raises(ClassifierError) as refused:
        _require_not_refused({"refused": "\x1b[31m" + "a" * 10_000})
    assert len(refused.value.detail) <= LONGEST_SENTENCE
    assert refused.value.detail.isprintable()


def test_each_box_ends_with_its_call() -> None:
    examiner = Examiner()
    examiner.derive(CLASSIFIER.read_bytes())
    assert examiner._running == set()
