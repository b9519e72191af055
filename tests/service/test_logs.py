import logging
import sys
from collections.abc import Iterator

import httpx
import pytest
import structlog
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.events import Event
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from service.logs import QUIET, configure, exception_without_text
from service.pacs.results.proof import find
from service.pacs.results.report import Findings, read_source, structured_report
from service.pacs.rules import Destination
from tests.service.pacs.films import STUDY, film


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
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.NOTSET)
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


@pytest.mark.usefixtures("_logging_restored")
def test_sending_a_result_logs_no_identifier(capfd: pytest.CaptureFixture[str]) -> None:
    def found(event: Event) -> Iterator[tuple[int, Dataset]]:
        yield 0xFF00, event.identifier

    model = StudyRootQueryRetrieveInformationModelFind
    application = AE("ARCHIVE")
    application.add_supported_context(model)
    archive = application.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, found)])
    destination = Destination(
        name="archive", host="127.0.0.1", port=archive.server_address[1], ae_title="ARCHIVE", proof="find"
    )
    configure("debug")
    try:
        source = read_source(film(1))
        source.StudyID = "longer than sixteen letters: DOE^JANE"
        result = structured_report(source, Findings("suspicious", 1.0, None, "Mass", None, "c", "a" * 64, "", ()))
        find(destination, result, "TRIGGERSCOPE")
    finally:
        archive.shutdown()
    logging.getLogger("any").debug("something else")
    printed = capfd.readouterr().err
    assert "something else" in printed
    for identifier in (STUDY, source.SOPInstanceUID, result.SOPInstanceUID, "DOE"):
        assert identifier not in printed
