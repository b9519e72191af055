"""SIGKILL in the middle of uploads: what was acknowledged has exactly one verdict after the restart."""

import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from sqlalchemy import func, select

from service.app import open_database
from service.people import keys
from service.records.session import Database
from service.records.tables import AuditRow, FilmRow, JobRow
from service.settings import Settings
from tests.service.serving import png, start_process, wait_until_ready

UPLOADS = 20
KILL_AFTER = 6  # acknowledgements
RAW = {"Content-Type": "application/octet-stream"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def upload(client: httpx.Client, seed: int, acknowledged: list[str]) -> None:
    try:
        response = client.post("/v1/audits", content=png(seed, 512), headers=RAW, params={"wait": "0"})
    except httpx.TransportError:  # the server died first: nothing was promised
        return
    if response.status_code in (200, 201, 202):
        acknowledged.append(response.json()["id"])


def test_every_acknowledged_film_has_exactly_one_verdict(
    tmp_path: Path, models_dir: Path, empty_database_url: str
) -> None:
    given = {
        "data_dir": str(tmp_path / "data"),
        "models_dir": str(models_dir),
        "database_url": empty_database_url,
        "auto_upgrade": "true",
        "lease_seconds": "1",
        "poll_seconds": "0.05",
        "decoders": "1",
    }
    settings = Settings(
        data_dir=tmp_path / "data", models_dir=models_dir, database_url=empty_database_url, auto_upgrade=True
    )
    port = free_port()
    with open_database(settings) as database:
        token, _ = keys.create(database, "test", ["audits:write", "audits:read"], None, "test")
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60) as client:
            ids = upload_and_kill(client, port, given)
            assert KILL_AFTER <= len(ids) < UPLOADS
            restarted = start_process(port, given)
            try:
                wait_until_ready(client)
                wait_for_verdicts(database)
                audits = [client.get(f"/v1/audits/{job_id}").json() for job_id in ids]
            finally:
                restarted.send_signal(signal.SIGTERM)
                restarted.wait(60)
        assert all(audit["verdict"] for audit in audits)
        with database.read() as session:
            jobs, films, rows = (
                session.scalar(select(func.count()).select_from(table)) or 0 for table in (JobRow, FilmRow, AuditRow)
            )
        assert len(ids) <= jobs == films == rows


def upload_and_kill(client: httpx.Client, port: int, given: dict[str, str]) -> list[str]:
    process = start_process(port, given)
    acknowledged: list[str] = []
    try:
        wait_until_ready(client)
        with ThreadPoolExecutor(4) as pool:
            for seed in range(UPLOADS):
                pool.submit(upload, client, seed, acknowledged)
            while len(acknowledged) < KILL_AFTER:
                time.sleep(0.005)
            os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait(60)
    return acknowledged


def wait_for_verdicts(database: Database) -> None:
    until = time.monotonic() + 120
    open_jobs = select(func.count()).select_from(JobRow).where(JobRow.state != "done")
    while time.monotonic() < until:
        with database.read() as session:
            if session.scalar(open_jobs) == 0:
                return
        time.sleep(0.1)
    pytest.fail("jobs are still open")
