"""What is refused gets a stable code, leaves nothing behind and does no harm."""

import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from service.app import open_database
from service.people import keys
from service.records import queries
from service.settings import Settings
from tests.service.serving import png, serving

RAW = {"Content-Type": "application/octet-stream"}


def picture(mode: str, size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, "PNG")
    return buffer.getvalue()


def pydicom_file(name: str) -> bytes:
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str)
    return Path(path).read_bytes()


FILMS = {
    "empty": (b"", 400, "empty_body"),
    "text": (b"not a film", 415, "unsupported_format"),
    "truncated": (png(100)[:5000], 422, "truncated"),
    "too many bytes": (b"\x89PNG" + bytes(2_000_001), 413, "too_many_bytes"),
    "too many pixels": (picture("L", (2000, 1001)), 413, "too_many_pixels"),
    "several frames": (pydicom_file("examples_rgb_color.dcm"), 422, None),
    "deflated": (pydicom_file("image_dfl.dcm"), 415, "unsupported_transfer_syntax"),
    "no pixels": (pydicom_file("rtplan.dcm"), 422, "unsupported_radiograph"),
}


def stored(settings: Settings) -> set[str]:
    return {path.name for path in (settings.data_dir / "originals").rglob("*") if path.is_file()}


def waiting(settings: Settings) -> int:
    with open_database(settings) as database, database.read() as session:
        return queries.queue_depth(session)


@pytest.mark.parametrize("name", FILMS)
def test_a_bad_film_is_refused_and_nothing_is_stored(
    client: httpx.Client, shared_settings: Settings, name: str
) -> None:
    data, status, code = FILMS[name]
    before = stored(shared_settings), waiting(shared_settings)
    response = client.post("/v1/audits", content=data, headers=RAW)
    body = response.json()
    assert response.status_code == body["status"] == status
    assert response.headers["content-type"] == "application/problem+json"
    assert code is None or body["code"] == code
    assert (stored(shared_settings), waiting(shared_settings)) == before
    assert client.get("/readyz").status_code == 200


def test_a_body_without_an_announced_length_is_cut_off(client: httpx.Client) -> None:
    response = client.post("/v1/audits", content=iter([bytes(1_000_000)] * 3), headers=RAW)
    assert (response.status_code, response.json()["code"]) == (413, "too_many_bytes")


def test_a_large_multipart_body_is_cut_off(client: httpx.Client) -> None:
    response = client.post("/v1/audits", files={"file": ("f", bytes(3_000_000))})
    assert (response.status_code, response.json()["code"]) == (413, "too_many_bytes")


@pytest.mark.parametrize(
    ("request_parts", "status", "code"),
    [
        ({"content": b"x", "headers": {"Content-Type": "text/html"}}, 415, "unsupported_media_type"),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400, "malformed_multipart"),
        ({"files": {"other": b"x"}}, 422, "missing_file"),
        ({"files": [("file", b"x"), ("file", b"y")]}, 400, "malformed_multipart"),
        ({"content": b"x", "headers": RAW, "params": {"classifier": "nobody"}}, 404, "unknown_classifier"),
        ({"content": b"x", "headers": RAW, "params": {"policy": "none"}}, 404, "unknown_policy"),
        ({"content": b"x", "headers": RAW, "params": {"wait": "-1"}}, 422, "invalid_request"),
        ({"content": b"x", "headers": RAW, "params": {"source": "a b"}}, 422, "invalid_request"),
    ],
)
def test_a_bad_request_is_refused(
    client: httpx.Client, request_parts: dict[str, object], status: int, code: str
) -> None:
    response = client.post("/v1/audits", **request_parts)
    assert (response.status_code, response.json()["code"]) == (status, code)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("DELETE", "/v1/audits", 405, "method_not_allowed"),
        ("GET", f"/v1/audits/{'0' * 32}", 404, "audit_not_found"),
        ("GET", "/v1/audits/x", 422, "invalid_request"),
        ("GET", "/v1/classifiers/nobody", 404, "unknown_classifier"),
        ("GET", f"/audits/{'0' * 32}", 404, "audit_not_found"),
    ],
)
def test_every_error_is_a_problem(client: httpx.Client, method: str, path: str, status: int, code: str) -> None:
    response = client.request(method, path)
    assert response.headers["content-type"] == "application/problem+json"
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.json()["instance"] == path


@pytest.mark.parametrize("path", ["/v1/releases", "/v1/classifiers/x/activate", "/v1/classifiers/x/policy/activate"])
@pytest.mark.parametrize("body", [b" " * 100_000, 20 * [b" " * 65536]])
def test_a_large_question_is_not_read_to_its_end(server: httpx.Client, path: str, body: bytes | list[bytes]) -> None:
    """Nor before anybody knows who asks."""
    content = body if isinstance(body, bytes) else iter(body)
    answer = server.post(path, content=content, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_many_bytes")


def test_a_refused_value_is_not_repeated(client: httpx.Client) -> None:
    response = client.get("/v1/audits", params={"verdict": "DOE^JANE"})
    assert response.status_code == 422
    assert "DOE" not in response.text


def test_slow_and_surplus_uploads_are_refused(shared_settings: Settings, tmp_path: Path) -> None:
    settings = shared_settings.model_copy(
        update={"data_dir": tmp_path, "allow_anonymous": True, "max_uploads": 1, "upload_seconds": 1.0}
    )

    def slow_body() -> Iterator[bytes]:
        yield b"x"
        arriving.set()
        time.sleep(1.5)
        yield b"x"

    arriving = threading.Event()
    with serving(settings) as client, ThreadPoolExecutor(1) as pool:
        slow = pool.submit(client.post, "/v1/audits", content=slow_body(), headers=RAW)
        arriving.wait()
        time.sleep(0.2)
        surplus = client.post("/v1/audits", content=png(1), headers=RAW)
        assert (surplus.status_code, surplus.json()["code"]) == (503, "too_busy")
        assert int(surplus.headers["retry-after"]) > 0
        assert (slow.result().status_code, slow.result().json()["code"]) == (408, "upload_timeout")
        assert client.post("/v1/audits", content=png(1), headers=RAW).status_code == 201


def test_a_key_that_asks_too_often_waits(shared_settings: Settings, tmp_path: Path) -> None:
    settings = shared_settings.model_copy(
        update={"data_dir": tmp_path, "key_requests_per_second": 0.5, "key_burst": 2, "embedded_worker": False}
    )
    with serving(settings) as client, open_database(settings) as database:
        token, _ = keys.create(database, "one", ["audits:read"], None, "test")
        other, _ = keys.create(database, "other", ["audits:read"], None, "test")

        def ask(key: str) -> httpx.Response:
            return client.get("/v1/audits", headers={"Authorization": f"Bearer {key}"})

        answers = [ask(token) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[2].json()["code"] == "rate_limited"
        assert answers[2].headers["content-type"] == "application/problem+json"
        assert 1 <= int(answers[2].headers["retry-after"]) <= 2
        assert ask(other).status_code == 200


def test_one_request_too_many_is_told_so(shared_settings: Settings, tmp_path: Path) -> None:
    settings = shared_settings.model_copy(
        update={"data_dir": tmp_path, "allow_anonymous": True, "max_requests": 1, "embedded_worker": False}
    )

    def slow_body() -> Iterator[bytes]:
        yield b"x"
        arriving.set()
        answered.wait(30)

    arriving, answered = threading.Event(), threading.Event()
    with serving(settings) as client, ThreadPoolExecutor(1) as pool:
        slow = pool.submit(client.post, "/v1/audits", content=slow_body(), headers=RAW)
        arriving.wait()
        surplus = client.get("/healthz")
        while surplus.status_code == 200:  # the slow request is not there yet
            surplus = client.get("/healthz")
        answered.set()
        assert (surplus.status_code, surplus.json()["code"]) == (503, "overloaded")
        assert int(surplus.headers["retry-after"]) > 0
        assert surplus.headers["x-content-type-options"] == "nosniff"
        assert slow.result().status_code == 415
        assert client.get("/healthz").status_code == 200


def test_bytes_that_are_not_http_get_a_problem_too(server: httpx.Client) -> None:
    address = (server.base_url.host, server.base_url.port)
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in head
    assert json.loads(body)["code"] == "bad_request"
