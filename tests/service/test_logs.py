import logging
import sys
from collections.abc import Iterator

import httpx
import pytest
import structlog

from service.logs import configure, exception_without_text


def test_an_exception_is_logged_by_type_and_place_only() -> None:
    try:
        raise ValueError("PatientName=DOE^JANE")
    except ValueError:
        entry = exception_without_text(None, "error", {"event": "failed", "exc_info": sys.exc_info()})
    assert entry["error"] == "ValueError"
    assert entry["at"][0].startswith("test_logs.py:")
    assert "DOE" not in str(entry)


@pytest.fixture
def _logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.usefixtures("_logging_restored")
def test_the_address_of_a_film_is_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    configure("debug")
    archive = httpx.MockTransport(lambda _request: httpx.Response(200))
    with httpx.Client(transport=archive) as client:
        client.get("http://pacs.example/studies/2.25.4711", headers={"Authorization": "Bearer planted"})
    logging.getLogger("any").debug("something else")
    printed = capsys.readouterr().err
    assert "something else" in printed
    assert "4711" not in printed
