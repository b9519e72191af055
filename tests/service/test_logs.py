import sys

from service.logs import exception_without_text


def test_an_exception_is_logged_by_type_and_place_only() -> None:
    try:
        raise ValueError("PatientName=DOE^JANE")
    except ValueError:
        entry = exception_without_text(None, "error", {"event": "failed", "exc_info": sys.exc_info()})
    assert entry["error"] == "ValueError"
    assert entry["at"][0].startswith("test_logs.py:")
    assert "DOE" not in str(entry)
