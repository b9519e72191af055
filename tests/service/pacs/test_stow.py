"""The STOW-RS receiver, over HTTP."""

from collections.abc import Iterator

import httpx
import pytest

from service.audit.radiograph import Limits
from service.pacs.instance import read_instance
from tests.service.pacs.films import STUDY, film

BOUNDARY = "a-boundary"
TYPE = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'


def body(*parts: bytes) -> bytes:
    head = f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    return b"".join(head + part + b"\r\n" for part in parts) + f"--{BOUNDARY}--\r\n".encode()


def stow(client: httpx.Client, content: bytes | Iterator[bytes], path: str = "") -> httpx.Response:
    return client.post(f"/dicom-web/studies{path}", content=content, headers={"Content-Type": TYPE})


def chunks(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def reasons(response: httpx.Response) -> list[int]:
    return [item["00081197"]["Value"][0] for item in response.json()["00081198"]["Value"]]


def test_films_are_queued_and_referenced(client: httpx.Client) -> None:
    films = [film(101), film(102)]
    response = stow(client, body(*films))
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/dicom+json"
    stored = [item["00081155"]["Value"][0] for item in response.json()["00081199"]["Value"]]
    assert stored == [read_instance(data, Limits()).sop_instance_uid for data in films]
    assert "00081198" not in response.json()


def test_again_is_a_success_and_the_same_audit(client: httpx.Client) -> None:
    assert [stow(client, body(film(103))).status_code for _ in range(2)] == [200, 200]
    sources = [item["sha256"] for item in client.get("/v1/audits", params={"source": "stow"}).json()["items"]]
    assert len(sources) == len(set(sources))


@pytest.mark.parametrize("size", [1, 17, 4096])
def test_a_chunked_body_may_be_cut_anywhere(client: httpx.Client, size: int) -> None:
    response = stow(client, chunks(body(film(104, side=16), film(105, side=16)), size))
    assert response.status_code == 200
    assert len(response.json()["00081199"]["Value"]) == 2


def test_some_and_none_accepted(client: httpx.Client) -> None:
    some = stow(client, body(film(106), b"no DICOM at all"))
    assert some.status_code == 202
    assert reasons(some) == [0xC000]
    none = stow(client, body(b"no DICOM at all", film(107, SOPClassUID="1.2.840.10008.5.1.4.1.1.7")))
    assert none.status_code == 409
    assert reasons(none) == [0xC000, 0x0122]


def test_the_study_in_the_address_is_held_to(client: httpx.Client) -> None:
    assert stow(client, body(film(108)), f"/{STUDY}").status_code == 200
    other = stow(client, body(film(109)), "/1.2.3")
    assert other.status_code == 409
    assert reasons(other) == [0xA900]


def test_a_film_that_is_too_large_fails_alone(client: httpx.Client) -> None:
    response = stow(client, body(film(110, side=1100), film(111)))
    assert response.status_code == 202
    assert reasons(response) == [0xA700]


@pytest.mark.parametrize(
    ("content_type", "content", "status"),
    [
        ("application/dicom", film(112), 415),
        ("multipart/related; type=application/dicom+json; boundary=a-boundary", body(film(112)), 415),
        (TYPE, body(film(112))[:-20], 400),
        (TYPE, b"nothing of the kind", 400),
        (TYPE, b"", 400),
    ],
)
def test_what_is_no_such_body_is_refused(client: httpx.Client, content_type: str, content: bytes, status: int) -> None:
    response = client.post("/dicom-web/studies", content=content, headers={"Content-Type": content_type})
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
