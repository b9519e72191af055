import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.addresses import is_loopback
from service.settings import Settings
from tests.conftest import REPOSITORY

ROW = re.compile(r"^\| `(\w+)` \| (?:`([^`]*)`|empty) \|", re.MULTILINE)


def test_every_setting_is_documented_with_its_default() -> None:
    documented = dict(ROW.findall((REPOSITORY / "docs" / "settings.md").read_text()))
    defaults = {name: str(field.default) for name, field in Settings.model_fields.items()}
    assert documented == defaults


def test_variables_have_the_prefix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRIGGERSCOPE_PORT", "9000")
    monkeypatch.setenv("TRIGGERSCOPE_DATA_DIR", str(tmp_path))
    settings = Settings()
    assert settings.port == 9000
    assert settings.resolved_database_url == f"sqlite:///{tmp_path}/triggerscope.sqlite3"


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("localhost.example", False)],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_anonymous_use_needs_loopback() -> None:
    assert Settings(allow_anonymous=True, host="::1").allow_anonymous
    with pytest.raises(ValidationError, match="loopback"):
        Settings(allow_anonymous=True, host="0.0.0.0")
