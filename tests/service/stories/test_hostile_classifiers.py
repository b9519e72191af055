"""A file that wears out who reads it costs one process, and neither audits nor the service's start and end."""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from service.app import open_database
from service.people import keys
from service.records import queries
from service.settings import Settings
from tests.service.registry.earlier import sha256
from tests.service.serving import png, serving, start_process, wait_until_ready
from tests.service.stories.hostile import large, slow
from tests.service.stories.test_killed import free_port

NAME = "phantom-badnet3"
RAW = {"Content-Type": "application/octet-stream"}
SHUTDOWN_SECONDS = 120  # what open requests may take: the end must not wait for it
MOST_SECONDS = 45  # for the end of a service, on a busy machine
SCOPES = ["audits:write", "audits:choose", "audits:read", "admin"]


@pytest.fixture
def models(tmp_path: Path, models_dir: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    for path in models_dir.glob(f"{NAME}*"):
        shutil.copy(path, folder)
    return folder


def hand_in(client: httpx.Client, data: bytes) -> httpx.Response:
    return client.post("/v1/classifiers", files={"file": ("file.onnx", data)}, timeout=300)


def examining_children(parent: int) -> list[int]:
    """The processes that examine, of one service."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            status, command = (path / "stat").read_text(), (path / "cmdline").read_text()
        except OSError:
            continue
        if "service.graphs.examining" in command and int(status.rpartition(")")[2].split()[1]) == parent:
            found.append(int(path.name))
    return found


def wait_for_child(parent: int) -> int:
    until = time.monotonic() + 120
    while not (found := examining_children(parent)):
        assert time.monotonic() < until, "nothing is examined"
        time.sleep(0.02)
    [child] = found
    return child


@contextmanager
def service(tmp_path: Path, models: Path) -> Iterator[tuple[httpx.Client, int]]:
    """A served process, a client that may do anything, and the process's id; ended by SIGTERM, and in time."""
    settings = Settings(data_dir=tmp_path / "data")
    with open_database(settings) as database:
        token, _ = keys.create(database, "test", SCOPES, None, "test")
    given = {"data_dir": str(tmp_path / "data"), "models_dir": str(models), "decoders": "1", "poll_seconds": "0.05"}
    port = free_port()
    process = start_process(port, given | {"shutdown_seconds": str(SHUTDOWN_SECONDS)})
    try:
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60) as client:
            wait_until_ready(client)
            yield client, process.pid
            process.send_signal(signal.SIGTERM)
            process.wait(MOST_SECONDS)
    finally:
        process.kill()
        process.wait(60)


def require_audits(client: httpx.Client, seed: int) -> None:
    answer = client.post("/v1/audits", content=png(seed), headers=RAW, params={"classifier": NAME})
    assert (answer.status_code, answer.json()["state"]) == (201, "done")


def test_one_in_the_models_folder_holds_up_neither_start_nor_audits_nor_the_end(tmp_path: Path, models: Path) -> None:
    (models / "a-slow-one.onnx").write_bytes(slow())
    with service(tmp_path, models) as (client, pid):
        child = wait_for_child(pid)
        require_audits(client, 1)
        busy = hand_in(client, b"another")
        assert (busy.status_code, busy.json()["code"], "retry-after" in busy.headers) == (503, "too_busy", True)
        assert examining_children(pid) == [child]
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_one_that_is_handed_in_holds_up_neither_audits_nor_the_end(tmp_path: Path, models: Path) -> None:
    with ThreadPoolExecutor(1) as pool, service(tmp_path, models) as (client, pid):
        waiting = pool.submit(hand_in, client, slow())
        child = wait_for_child(pid)
        require_audits(client, 1)
        assert not waiting.done()
        busy = hand_in(client, b"another")
        assert (busy.status_code, busy.json()["code"], "retry-after" in busy.headers) == (503, "too_busy", True)
    answer = waiting.result()
    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    assert "stopping" in answer.json()["detail"]
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_its_memory_and_time_are_bounded_and_it_is_told_why(tmp_path: Path, models: Path) -> None:
    settings = Settings(
        data_dir=tmp_path / "data",
        models_dir=models,
        decoders=1,
        poll_seconds=0.05,
        examination_seconds=3,
        examination_memory_bytes=1 << 30,
        max_classifier_bytes=2_000_000,
    )
    with serving(settings) as client, open_database(settings) as database:
        token, _ = keys.create(database, "test", SCOPES, None, "test")
        client.headers["Authorization"] = f"Bearer {token}"
        for data, said in ((large(), "memory"), (slow(), "time")):
            refused = hand_in(client, data)
            assert (refused.status_code, refused.json()["code"]) == (422, "unusable_classifier")
            assert said in refused.json()["detail"]
            with database.read() as session:
                [event] = queries.events_about(session, sha256(data))
            assert (event.kind, event.payload["reason"]) == ("classifier.upload_refused", refused.json()["detail"])
        too_many = hand_in(client, bytes(2_100_000))
        assert (too_many.status_code, too_many.json()["code"]) == (413, "too_many_bytes")
        require_audits(client, 1)
