import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from service.app import open_database
from service.records.session import Database
from service.settings import Settings
from tests.service.serving import png, serving


def test_health_and_readiness(server: httpx.Client) -> None:
    assert server.get("/healthz").json() == {"status": "ok"}
    assert server.get("/readyz").json() == {"status": "ok", "reduced": []}


def test_metrics_count_audits_and_problems(client: httpx.Client) -> None:
    client.post("/v1/audits", content=png(50), headers={"Content-Type": "image/png"})
    client.get("/nothing")
    text = client.get("/metrics").text
    assert 'triggerscope_problems_total{code="not_found"}' in text
    assert "triggerscope_audits_total{" in text
    assert "triggerscope_queue_depth 0.0" in text


def test_headers_that_every_answer_has(server: httpx.Client) -> None:
    response = server.get("/healthz", headers={"X-Request-Id": "abc-1"})
    assert response.headers["x-request-id"] == "abc-1"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert server.get("/healthz", headers={"X-Request-Id": "a b"}).headers["x-request-id"] != "a b"


def test_docs_need_no_other_server(server: httpx.Client) -> None:
    page = server.get("/docs").text
    assert "http://" not in page
    assert "https://" not in page
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css", "start.js"):
        assert f"/docs/assets/{asset}" in page
        assert server.get(f"/docs/assets/{asset}").status_code == 200


@contextmanager
def table_away(database: Database, name: str) -> Iterator[None]:
    """A fault that each turn of a loop meets and that nobody foresaw."""
    with database.engine.begin() as connection:
        connection.execute(text(f"ALTER TABLE {name} RENAME TO away"))
    try:
        yield
    finally:
        with database.engine.begin() as connection:
            connection.execute(text(f"ALTER TABLE away RENAME TO {name}"))


@pytest.mark.parametrize(("table", "loop"), [("deliveries", "outbox"), ("jobs", "worker")])
def test_a_loop_that_fails_is_not_ready_until_it_runs_again(
    tmp_path: Path, models_dir: Path, table: str, loop: str
) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text('[[destination]]\nname = "archive"\nstow_url = "http://127.0.0.1:9/studies"\n')
    settings = Settings(
        data_dir=tmp_path / "data",
        models_dir=models_dir,
        rules_file=rules,
        allow_anonymous=True,
        poll_seconds=0.05,
        decoders=1,
    )
    with serving(settings) as client, open_database(settings) as database:
        assert client.get("/readyz").status_code == 200
        with table_away(database, table):
            problem = answer_of(client, 503)
            assert problem["code"] == "not_ready"
            assert f"the loop {loop} fails" in problem["detail"]
        answer_of(client, 200)
        metrics = client.get("/metrics").text
        assert f'triggerscope_loop_healthy{{loop="{loop}"}} 1.0' in metrics
        assert f'triggerscope_loop_failures_total{{loop="{loop}"}} 0.0' not in metrics
        audited = client.post("/v1/audits", content=png(1), headers={"Content-Type": "image/png"})
        assert audited.json()["state"] == "done"


def answer_of(client: httpx.Client, status: int) -> dict[str, str]:
    """What /readyz says once it answers so."""
    until = time.monotonic() + 60
    while (answer := client.get("/readyz")).status_code != status:
        assert time.monotonic() < until, answer.text
        time.sleep(0.02)
    found: dict[str, str] = answer.json()
    return found
