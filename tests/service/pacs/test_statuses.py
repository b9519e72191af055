"""One table says what an error is called in DICOM, whichever way the film came."""

import re

from service.errors import RadiographError
from service.pacs.statuses import OUT_OF_RESOURCES, STATUSES, status_of
from service.queue.intake import QueueFull
from service.registry.registry import NoActiveClassifier, UnknownClassifier, UnknownPolicy
from tests.conftest import REPOSITORY
from tests.service.web.test_errors import codes_of

MAY_PASS = {error.code for error in (QueueFull, NoActiveClassifier, UnknownClassifier, UnknownPolicy)}
ROW = re.compile(r"^\| 0x([0-9A-F]{4}) [^|]*\| ([^|]*) \|$", re.MULTILINE)


def test_every_error_that_a_film_can_meet_has_its_row() -> None:
    codes = codes_of(RadiographError) - {RadiographError.code}
    assert codes | MAY_PASS == set(STATUSES)


def test_only_what_may_pass_later_asks_the_sender_to_try_again() -> None:
    assert {code for code, status in STATUSES.items() if status == OUT_OF_RESOURCES} == MAY_PASS
    assert status_of("internal") == OUT_OF_RESOURCES


def test_the_table_is_documented() -> None:
    rows = ROW.findall((REPOSITORY / "docs" / "pacs.md").read_text())
    documented = {code: int(status, 16) for status, words in rows for code in re.findall(r"`(\w+)`", words)}
    assert documented == STATUSES
