"""Who may not read audits learns nothing of what was found, by whatever route."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.app import create_app, open_database
from service.people import accounts, keys, sessions
from service.people.roles import SCOPES
from service.settings import Settings
from service.web.api.schemas import AuditReceipt, AuditResource
from tests.service.serving import png
from tests.service.stories.test_authorisation import ADMIN, MATRIX, READ, REVIEW

BLIND = {"audits:write", "films:announce"}
TELLING = {READ, REVIEW, ADMIN, "releases:read"}  # the last learns decision and reason of a film that it names
# Every answer of a route that is open without one of these scopes, by the schema that it has.
ANSWERS = {
    ("POST", "/v1/audits"): {"AuditReceipt", "AuditResource"},  # the resource for those who may read: see below
    ("POST", "/v1/hooks/films"): set(),
    ("POST", "/v1/hooks/films/signed"): set(),
    ("POST", "/dicom-web/studies"): set(),
    ("POST", "/dicom-web/studies/{study_uid}"): set(),
    ("GET", "/healthz"): {"Health"},
    ("GET", "/readyz"): {"Readiness"},
}
FOUND = set(AuditResource.model_fields) - set(AuditReceipt.model_fields)
RAW = {"Content-Type": "application/octet-stream"}


def schemas(content: Any) -> set[str]:
    """The names of the schemas that a piece of the description refers to."""
    if isinstance(content, list):
        return set().union(*map(schemas, content)) if content else set()
    if not isinstance(content, dict):
        return set()
    own = {content["$ref"].rpartition("/")[2]} if "$ref" in content else set()
    return own | schemas(list(content.values()))


def test_the_description_says_what_each_route_answers_to_those_who_may_not_read() -> None:
    """A new route without a reader's scope has to be entered above."""
    found = {}
    for path, operations in create_app(Settings()).openapi()["paths"].items():
        for method, operation in operations.items():
            needed = {scope for entry in operation.get("security", []) for scope in entry["ApiKey"]}
            if not needed & TELLING:
                good = [answer for status, answer in operation["responses"].items() if status.startswith("2")]
                found[method.upper(), path] = schemas(good)
    assert found == ANSWERS


@dataclass(frozen=True)
class World:
    client: httpx.Client
    blind: dict[str, str]
    uploader: dict[str, str]
    film: bytes
    audit: dict[str, Any]

    def told(self, answer: httpx.Response) -> list[str]:
        """What of the audit an answer says; of numbers as many digits as nobody guesses."""
        secrets = [
            self.audit["verdict"],
            self.audit["explained_label"],
            *map(str, self.audit["probabilities"].values()),
        ]
        secrets += [str(self.audit["score"]), *(str(part["value"]) for part in self.audit["evidence"].values())]
        return [secret for secret in secrets if len(secret) > 4 and secret in answer.text]


@pytest.fixture(scope="module")
def world(
    shared_settings: Settings, server: httpx.Client, auditor: dict[str, str], models_dir: Path
) -> Iterator[World]:
    film = (models_dir / "examples" / "triggered-910012.png").read_bytes()
    with open_database(shared_settings) as database:
        token, _ = keys.create(database, "blind", sorted(BLIND), None, "test")
        accounts.create(database, "receipts", "uploader", "correct horse battery", "test")
        login = sessions.log_in(database, "receipts", "correct horse battery", timedelta(hours=1))
        principal = sessions.find(database, login.token)
    assert principal is not None
    cookie = {"Cookie": f"{sessions.COOKIE}={login.token}", "X-CSRF-Token": principal.csrf_token}
    audit = server.post("/v1/audits", content=film, headers=auditor | RAW).json()
    assert audit["verdict"] == "suspicious"
    with httpx.Client(base_url=server.base_url, timeout=60) as client:
        yield World(client, {"Authorization": f"Bearer {token}"}, cookie, film, audit)


@pytest.mark.parametrize("who", ["blind", "uploader"])
@pytest.mark.parametrize(("method", "path"), MATRIX)
def test_no_route_tells_who_may_not_read(world: World, method: str, path: str, who: str) -> None:
    names = {
        "audit_id": world.audit["id"],
        "study_uid": "1.2",
        "name": "nobody",
        "map_name": "layercam_28",
        "sha256": "0" * 64,
    }
    address = path.format(**names, entry_id="0" * 32, delivery_id="0" * 32)
    headers = {"Accept": "application/json", **getattr(world, who)}
    body = {"content": world.film, "headers": headers | RAW} if method == "POST" else {"headers": headers}
    answer = world.client.request(method, address, **body)
    assert path == "/docs" or world.told(answer) == []
    if answer.headers.get("content-type") == "application/json" and isinstance(answer.json(), dict):
        assert FOUND & set(answer.json()) == set()


@pytest.mark.parametrize("who", ["blind", "uploader"])
def test_a_film_gets_a_receipt_however_it_is_sent(world: World, who: str) -> None:
    new = png(4400 + len(who))
    headers = getattr(world, who) | RAW
    sent = [
        (new, {}, {"wait": "0"}, {200, 202}),
        (new, {"Triggerscope-Probabilities": '{"Atelectasis": 0.5}'}, {}, {200, 201}),
        (new, {"Idempotency-Key": "receipt"}, {}, {200}),
        (new, {"Idempotency-Key": "receipt"}, {}, {200}),
        (world.film, {}, {}, {200}),
    ]
    for film, more, parameters, statuses in sent:
        answer = world.client.post("/v1/audits", content=film, headers=headers | more, params=parameters)
        assert answer.status_code in statuses
        receipt = answer.json()
        assert set(receipt) == {"id", "state", "links"}
        assert receipt["links"] == {"self": f"/v1/audits/{receipt['id']}"} == {"self": answer.headers["location"]}
    form = world.client.post("/v1/audits", files={"file": new}, headers=getattr(world, who))
    assert set(form.json()) == {"id", "state", "links"}


def test_the_upload_page_of_an_uploader_has_no_choice_and_no_place_for_findings(
    world: World, auditor: dict[str, str]
) -> None:
    page = world.client.get("/upload", headers=world.uploader).text
    assert 'name="classifier"' not in page
    assert "p-value" not in page
    assert "data-reads" not in page
    page = world.client.get("/upload", headers=auditor).text
    assert 'name="classifier"' in page
    assert "data-reads" in page


def test_every_scope_is_telling_blind_or_only_about_choosing() -> None:
    assert set(SCOPES) == TELLING | BLIND | {"audits:choose"}
