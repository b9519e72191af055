"""A client that a stranger generates from openapi.json, without the network, submits a film and reads its verdict."""

import importlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from tests.service.serving import png

# Raw bodies are bytes to the generator; one body type is enough for it.
CONFIG = {
    "post_hooks": [],
    "content_type_overrides": {"application/problem+json": "application/json", "image/png": "application/octet-stream"},
}


@pytest.fixture(scope="module")
def generated(server: httpx.Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    folder = tmp_path_factory.mktemp("generated")
    (folder / "openapi.json").write_text(server.get("/openapi.json").text)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    command = [
        str(Path(sys.executable).with_name("openapi-python-client")), "generate", "--path", "openapi.json",
        "--config", "config.json", "--meta", "none", "--output-path", "generated_client",
    ]  # fmt: skip
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module("generated_client")
    finally:
        sys.path.remove(str(folder))


def test_a_generated_client_submits_a_film_and_reads_its_verdict(
    generated: ModuleType, server: httpx.Client, tokens: dict[str, str], auditor: dict[str, str]
) -> None:
    create, get, many = (
        importlib.import_module(f"generated_client.api.audits.{name}")
        for name in ("create_audit", "get_audit", "list_audits")
    )
    models, types = (importlib.import_module(f"generated_client.{name}") for name in ("models", "types"))
    address = str(server.base_url)
    token = auditor["Authorization"].removeprefix("Bearer ")
    with generated.AuthenticatedClient(address, token=token, timeout=60) as client:
        film = types.File(io.BytesIO(png(771)), "film.png", "image/png")
        made = create.sync_detailed(client=client, body=models.CreateAuditFilesBody(file=film), source="generated")
        assert made.status_code == 201
        refused = create.sync_detailed(
            client=client, body=models.CreateAuditFilesBody(file=types.File(io.BytesIO(b"text"), "film.png"))
        )
        assert (refused.status_code, refused.parsed.code) == (415, "unsupported_format")
    with generated.AuthenticatedClient(address, token=tokens["audits:write"], timeout=60) as client:
        film = types.File(io.BytesIO(png(771)), "film.png", "image/png")
        receipt = create.sync(client=client, body=models.CreateAuditFilesBody(file=film), source="generated")
        assert receipt.to_dict() == {"id": made.parsed.id, "state": "done", "links": {"self": made.parsed.links.self_}}
    with generated.AuthenticatedClient(address, token=tokens["audits:read"]) as client:
        found = get.sync(made.parsed.id, client=client)
        assert found.verdict in ("unremarkable", "suspicious", "indeterminate")
        assert (found.verdict, found.score, found.sha256) == (
            made.parsed.verdict,
            made.parsed.score,
            made.parsed.sha256,
        )
        page = many.sync(client=client, source="generated")
        assert [audit.id for audit in page.items] == [made.parsed.id]


def test_every_operation_has_a_name_of_its_own_and_examples(server: httpx.Client) -> None:
    document = server.get("/openapi.json").json()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(names) == len(set(names))
    for operation in operations:
        for answer in operation["responses"].values():
            for media_type, content in answer.get("content", {}).items():
                if media_type == "application/json" and "$ref" in content["schema"]:
                    name = content["schema"]["$ref"].rpartition("/")[2]
                    assert document["components"]["schemas"][name]["examples"], name
                elif media_type == "application/problem+json":
                    assert content["examples"]
