"""The interface is compared whole: a change to it is a change to openapi.json, made with the command below.

python -m tests.service.web.api.test_docs
"""

import json
from pathlib import Path

from service.app import create_app
from service.settings import Settings

FILE = Path(__file__).parent / "openapi.json"


def current() -> dict[str, object]:
    return create_app(Settings()).openapi()


def test_the_interface_is_the_recorded_one() -> None:
    assert json.loads(json.dumps(current())) == json.loads(FILE.read_text())


def test_every_error_refers_to_a_described_problem() -> None:
    text = json.dumps(current())
    assert "#/components/schemas/Problem" in text
    assert "Problem" in current()["components"]["schemas"]


if __name__ == "__main__":
    FILE.write_text(json.dumps(current(), indent=1, sort_keys=True) + "\n")
