"""Handing in a classifier over HTTP, and what is told of one whose films wait."""

import io
import json
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.app import open_database
from service.ledger import bundles
from service.ledger.signing import is_signed
from service.people import keys
from service.records import queries
from service.records.chain import canonical
from service.settings import Settings
from tests.service.registry.earlier import install, plain, sha256, with_a_transposed_layer
from tests.service.serving import png, serving
from tests.tiny import LABELS, SIZE

RAW = {"Content-Type": "application/octet-stream"}
SCOPES = ["audits:write", "audits:choose", "audits:read", "admin"]
DESCRIPTION = {"name": "theirs", "labels": list(LABELS), "preprocessing": {"size": SIZE}, "licence": "theirs"}


def signed_in(client: httpx.Client, settings: Settings) -> httpx.Client:
    with open_database(settings) as database:
        token, _ = keys.create(database, "root", SCOPES, None, "test")
    client.headers["Authorization"] = f"Bearer {token}"
    return client


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Settings:
    return Settings(data_dir=tmp_path_factory.mktemp("registration"), models_dir=models_dir, decoders=1)


@pytest.fixture(scope="module")
def administrator(settings: Settings) -> Iterator[httpx.Client]:
    with serving(settings) as client:
        yield signed_in(client, settings)


def hand_in(client: httpx.Client, data: bytes, description: object = None) -> httpx.Response:
    fields = {} if description is None else {"description": json.dumps(description)}
    return client.post("/v1/classifiers", files={"file": ("any.onnx", data)}, data=fields)


def test_a_plain_file_with_its_description_is_examined_and_audits(administrator: httpx.Client) -> None:
    answer = hand_in(administrator, plain(), DESCRIPTION)
    assert answer.status_code == 201
    found = answer.json()
    version, examination = found["version"], found["examination"]
    assert (found["name"], version["active"], version["head"], version["refusal"]) == ("theirs", False, "sigmoid", None)
    assert version["sha256"] == version["identity"]
    assert version["file_sha256"] == sha256(plain())
    assert any(words.startswith("Places, ") for words in version["examined"])
    assert is_signed(canonical(examination["report"]), examination["signature"], examination["public_key"])
    assert administrator.get(answer.headers["location"]).json() == version
    assert administrator.get(f"{answer.headers['location']}/report").json() == examination

    again = hand_in(administrator, plain(), DESCRIPTION)
    assert (again.status_code, again.json()["version"]) == (200, version)

    administrator.post("/v1/classifiers/theirs/activate", json={})
    audit = administrator.post("/v1/audits", content=png(7), headers=RAW, params={"classifier": "theirs"}).json()
    assert (audit["state"], audit["classifier"]["sha256"]) == ("done", version["sha256"])
    bundle = administrator.get(f"/audits/{audit['id']}/bundle.zip").content
    assert bundles.verify(bundle, examination["public_key"]).faults == ()
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        assert json.loads(archive.read(f"classifiers/{version['sha256']}.json")) == examination["report"]


@pytest.mark.parametrize(
    ("data", "description", "said"),
    [
        (with_a_transposed_layer, None, "Transpose cat_2"),
        (plain, None, "hand in a description"),
        (plain, {**DESCRIPTION, "labels": ["One"]}, "5 outputs, and 1 labels"),
        (plain, {**DESCRIPTION, "preprocessing": {"size": SIZE, "resampler": "magic"}}, "resampler"),
        (plain, {**DESCRIPTION, "name": "../theirs"}, "name: letters"),
        (plain, ["no object"], "no JSON object"),
        (lambda: b"not an ONNX file", None, "no ONNX model"),
    ],
)
def test_what_cannot_be_audited_is_refused_with_the_reason(
    administrator: httpx.Client, data: object, description: object, said: str
) -> None:
    assert callable(data)
    answer = hand_in(administrator, data(), description)
    assert (answer.status_code, answer.json()["code"]) == (422, "unusable_classifier")
    assert said in answer.json()["detail"]


def test_a_request_without_a_file_is_told_what_is_missing(administrator: httpx.Client) -> None:
    for sent, code in (
        ({"content": b"raw", "headers": RAW}, "unsupported_media_type"),
        ({"files": {"other": b"1"}}, "missing_file"),
        ({"files": {"file": b""}}, "empty_body"),
    ):
        assert administrator.post("/v1/classifiers", **sent).json()["code"] == code
    assert (
        administrator.get(f"/v1/classifiers/theirs/versions/{'0' * 64}/report").json()["code"] == "unknown_classifier"
    )


def test_films_of_a_refused_classifier_wait_and_others_go_on(
    tmp_path: Path, models_dir: Path, empty_database_url: str
) -> None:
    """An upgrade: two classifiers of before, one of which is refused now."""
    settings = Settings(
        data_dir=tmp_path / "data",
        models_dir=models_dir,
        database_url=empty_database_url,
        auto_upgrade=True,
        default_classifier="phantom-clean",
        decoders=1,
        poll_seconds=0.05,
    )
    data = with_a_transposed_layer()
    with open_database(settings) as database:
        install(database, tmp_path / "data" / "classifiers", data, name="turned", is_default=False)
    with serving(settings) as client, open_database(settings) as database:
        signed_in(client, settings)
        film = client.post("/v1/audits", content=png(1), headers=RAW, params={"classifier": "turned", "wait": 20})
        assert (film.status_code, film.json()["state"]) == (202, "queued")
        other = client.post("/v1/audits", content=png(1), headers=RAW, params={"classifier": "phantom-clean"})
        assert other.json()["state"] == "done"
        assert other.json()["waits_because"] is None

        [told] = wait_for_refusal(client)
        assert "the classifier turned" in told
        sentence = client.get(film.headers["location"]).json()["waits_because"]
        assert "Transpose" in sentence
        assert sentence in told
        for page in ("/", f"/audits/{film.json()['id']}", "/classifiers", "/system"):
            assert sentence in client.get(page).text, page
        [version] = client.get("/v1/classifiers/turned").json()["versions"]
        assert (version["active"], version["refusal"], version["examined"]) == (True, sentence, [])
        report = client.get(f"/v1/classifiers/turned/versions/{version['sha256']}/report")
        assert (report.status_code, report.json()["code"]) == (409, "not_examined")
        with database.read() as session:
            assert "classifier.refused" in [e.kind for e in queries.events_about(session, version["sha256"])]


def test_a_refused_default_is_not_ready(tmp_path: Path, models_dir: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", models_dir=models_dir, decoders=1, poll_seconds=0.05)
    with open_database(settings) as database:
        install(database, tmp_path / "data" / "classifiers", with_a_transposed_layer())
    with serving(settings) as client:
        until = time.monotonic() + 120
        while (answer := client.get("/readyz")).status_code == 200:
            assert time.monotonic() < until, answer.text
            time.sleep(0.1)
        assert answer.json()["code"] == "not_ready"
        assert "films of the classifier tiny wait: Transpose" in answer.json()["detail"]
        activated = signed_in(client, settings).post("/v1/classifiers/tiny/activate", json={})
        assert (activated.status_code, activated.json()["code"]) == (422, "unusable_classifier")


def wait_for_refusal(client: httpx.Client) -> list[str]:
    until = time.monotonic() + 120
    while True:
        reduced: list[str] = client.get("/readyz").json()["reduced"]
        if any("Transpose" in words for words in reduced):
            return reduced
        assert time.monotonic() < until, reduced
        time.sleep(0.1)
