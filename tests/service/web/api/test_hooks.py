"""Hooks that hasten the watchers: who may call them, and what a call from a real Orthanc does."""

import base64
import json
import time
from pathlib import Path

import httpx
import pytest

from service.app import open_database
from service.pacs.results.webhook_signature import UnusableSecret, read_secret, signed_headers
from service.pacs.watching import ANNOUNCED
from service.people import keys
from service.records import pacs_queries
from service.records.session import Database
from service.records.tables import AuditRow
from service.settings import Settings
from tests.conftest import REPOSITORY
from tests.service.pacs.conftest import count, watching
from tests.service.pacs.films import film
from tests.service.pacs.peers import on_loopback_only, orthanc_in, wait_until
from tests.service.serving import serving

SECRET = b"0123456789abcdef01234567"
INTERVAL_SECONDS = 240


def announced(database: Database) -> int:
    with database.read() as session:
        return pacs_queries.cursor(session, ANNOUNCED)


def call(client: httpx.Client, body: bytes, at: float, **changes: str) -> httpx.Response:
    headers = signed_headers(SECRET, "message-1", int(at), b"the body")
    return client.post("/v1/hooks/films/signed", content=body, headers=headers | changes)


def test_only_a_right_and_recent_signature_wakes(tmp_path: Path, models_dir: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(base64.b64encode(SECRET) + b"\n")
    settings = Settings(data_dir=tmp_path / "data", models_dir=models_dir, hook_secret_file=secret, decoders=1)
    now = time.time()
    with serving(settings) as client, open_database(settings) as database:
        refused = [
            call(client, b"another body", now),
            call(client, b"the body", now - 600),
            call(client, b"the body", now + 600),
            call(client, b"the body", now, **{"webhook-timestamp": "soon"}),
            call(client, b"the body", now, **{"webhook-signature": "v1,00"}),
            call(client, b"the body", now, **{"webhook-id": "message-2"}),
            client.post("/v1/hooks/films/signed", content=b"the body"),
        ]
        assert [(answer.status_code, answer.json()["code"]) for answer in refused] == [(401, "bad_signature")] * len(
            refused
        )
        assert call(client, bytes(100_000), now).json()["code"] == "too_many_bytes"
        assert announced(database) == 0
        assert call(client, b"the body", now).status_code == 202
        wait_until(lambda: announced(database) > 0)


def test_a_secret_has_a_length(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    for content in (None, b"dG9vIHNob3J0\n", b"no Base64!"):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UnusableSecret):
            read_secret(path)


@on_loopback_only
def test_a_film_in_orthanc_is_audited_long_before_the_next_poll(
    tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(data_dir=tmp_path / "data", models_dir=models_dir, decoders=1)
    shipped = json.loads((REPOSITORY / "deploy/orthanc/orthanc.json").read_text())
    here = {"LuaScripts": [str(REPOSITORY / "deploy/orthanc/announce.lua")], "RemoteAccessAllowed": False}
    orthanc = orthanc_in(tmp_path / "orthanc", **(shipped | here))
    password = tmp_path / "password"
    password.write_text("secret\n")
    monkeypatch.setenv("ORTHANC_PASSWORD", "secret")
    with serving(settings) as client, open_database(settings) as database:
        key = tmp_path / "key"
        key.write_text(keys.create(database, "orthanc", ["films:announce"], None, "test")[0] + "\n")
        monkeypatch.setenv("TRIGGERSCOPE_HOOK_URL", f"{client.base_url}/v1/hooks/films")
        monkeypatch.setenv("TRIGGERSCOPE_HOOK_KEY_FILE", str(key))
        watched = settings.model_copy(
            update={
                "orthanc_url": orthanc.url,
                "orthanc_username": "triggerscope",
                "orthanc_password_file": password,
                "watch_seconds": INTERVAL_SECONDS,
            }
        )
        with orthanc.running(("triggerscope", "secret")) as archive:
            assert archive.get("/modalities/triggerscope", auth=("triggerscope", "")).status_code == 401
            assert archive.get("/modalities/triggerscope").status_code == 200
            archive.post("/instances", content=film(1)).raise_for_status()
            with watching(watched):
                wait_until(lambda: count(database, AuditRow) == 1)  # by the first poll; the next is in four minutes
                archive.post("/instances", content=film(2)).raise_for_status()
                wait_until(lambda: count(database, AuditRow) == 2, seconds=INTERVAL_SECONDS / 4)
