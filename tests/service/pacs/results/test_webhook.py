"""Signed JSON out: what a receiver gets, and that the documented snippet tells true from false."""

import base64
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from service.pacs.results.outbox import Outbox
from service.pacs.rules import Destination, Result, Rule, Rules
from service.records.session import Database
from service.settings import Settings
from tests.conftest import REPOSITORY
from tests.dicom_files import PLANTED_ID, PLANTED_NAME
from tests.service.pacs.conftest import make_acceptance
from tests.service.pacs.films import STUDY
from tests.service.pacs.receiver import receiving
from tests.service.pacs.results.test_outbox import audited, drain, rows
from tests.service.pacs.results.test_proof import make_due

SECRET = bytes(range(32))


def documented() -> Any:
    """The function `verified` as docs/pacs.md shows it."""
    [code] = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs" / "pacs.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    return names["verified"]


def outbox_to(url: str, secret: Path, opened: Database, settings: Settings) -> Outbox:
    destination = Destination(name="desk", webhook_url=f"{url}/hook", secret_file=secret)
    rule = Rule(name="all", results=(Result(kinds=("json",), destination="desk"),))
    acceptance = make_acceptance(opened, settings, Rules(rule=(rule,), destination=(destination,)))
    outbox = Outbox(opened, acceptance.storage, acceptance.rules, "TRIGGERSCOPE")
    audited(acceptance, outbox)
    return outbox


def test_a_verdict_goes_out_signed_and_again_under_the_same_id(
    opened: Database, settings: Settings, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("whsec_" + base64.b64encode(SECRET).decode() + "\n")
    with receiving() as receiver:
        receiver.post_status = 503
        outbox = outbox_to(receiver.url, secret, opened, settings)
        drain(outbox)
        assert [(row.state, row.error_code) for row in rows(opened)] == [("pending", "delivery_failed")]
        receiver.post_status = 204
        make_due(opened)
        drain(outbox)
    assert [(row.state, row.proof) for row in rows(opened)] == [("delivered", None)]
    (first, first_body), (second, second_body) = receiver.posts
    assert first["webhook-id"] == second["webhook-id"] == rows(opened)[0].id
    assert first_body == second_body
    verified = documented()
    assert verified(SECRET, second, second_body)
    assert not verified(SECRET, second, second_body.replace(b"suspicious", b"unremarkable"))
    assert not verified(bytes(32), second, second_body)
    assert not verified(SECRET, second | {"webhook-id": "another"}, second_body)
    assert not verified(SECRET, second | {"webhook-timestamp": str(int(time.time()) - 3600)}, second_body)


def test_it_says_what_was_found_and_not_about_whom(opened: Database, settings: Settings, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(base64.b64encode(SECRET).decode())
    with receiving() as receiver:
        drain(outbox_to(receiver.url, secret, opened, settings))
    [(_, body)] = receiver.posts
    content = json.loads(body)
    assert (content["type"], content["data"]["verdict"]) == ("audit.completed", "suspicious")
    assert content["data"]["address"] == f"/v1/audits/{rows(opened)[0].job_id}"
    for identifier in (PLANTED_NAME, PLANTED_ID, "PLANTED-ACC", STUDY, "2.25.1000001"):
        assert identifier not in body.decode()


@pytest.mark.parametrize("text", [None, "whsec_c2hvcnQ=", "not base64!"])
def test_an_unusable_secret_sends_nothing(
    opened: Database, settings: Settings, tmp_path: Path, text: str | None
) -> None:
    secret = tmp_path / "secret"
    if text is not None:
        secret.write_text(text)
    with receiving() as receiver:
        drain(outbox_to(receiver.url, secret, opened, settings))
        assert receiver.posts == []
    assert [(row.state, row.error_code) for row in rows(opened)] == [("pending", "delivery_failed")]
