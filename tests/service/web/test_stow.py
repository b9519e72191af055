"""The STOW-RS receiver, over HTTP."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pydicom.uid import SecondaryCaptureImageStorage
from sqlalchemy import select

from service.app import open_database
from service.films.radiograph import Limits
from service.pacs.instance import read_instance
from service.people import keys
from service.records.tables import FilmRow
from service.settings import Settings
from tests.service.pacs.films import STUDY, film
from tests.service.pacs.peers import on_loopback_only, orthanc_in, small_disk, wait_until
from tests.service.serving import serving

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
    assert reasons(response) == [0xC000]


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


def test_a_full_disk_leaves_films_with_their_sender(tmp_path: Path, models_dir: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", models_dir=models_dir, decoders=1)
    large, small = film(113, side=300), film(114, side=32)
    with small_disk(settings.data_dir / "originals"), serving(settings) as client, open_database(settings) as database:
        token, _ = keys.create(database, "any", ["audits:write"], None, "test")
        client.headers["Authorization"] = f"Bearer {token}"
        for refused in (stow(client, body(large)), client.post("/v1/audits", content=large)):
            assert (refused.status_code, refused.json()["code"]) == (507, "storage_full")
        some = stow(client, body(large, small))
        assert (some.status_code, reasons(some)) == (202, [0xA700])
        with database.read() as session:
            kept = session.scalars(select(FilmRow.sha256)).all()
        assert kept == [hashlib.sha256(small).hexdigest()]


@on_loopback_only
def test_orthanc_stores_here_and_its_job_fails_where_we_refuse(tmp_path: Path, models_dir: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", models_dir=models_dir, decoders=1)
    with serving(settings) as client, open_database(settings) as database:
        token, _ = keys.create(database, "orthanc", ["audits:write"], None, "test")
        server = {"Url": f"{client.base_url}/dicom-web/", "HttpHeaders": {"Authorization": f"Bearer {token}"}}
        dicomweb = {"Enable": True, "Root": "/dicom-web/", "Servers": {"triggerscope": server}}
        with orthanc_in(tmp_path / "orthanc", DicomWeb=dicomweb).running() as archive:
            films = [archive.post("/instances", content=film(number)).json()["ID"] for number in (115, 116)]
            other = archive.post("/instances", content=film(117, SOPClassUID=SecondaryCaptureImageStorage)).json()["ID"]
            assert outcome_of_stow(archive, films) == "Success"
            assert outcome_of_stow(archive, [other]) == "Failure"
        with database.read() as session:
            assert len(session.scalars(select(FilmRow.sha256)).all()) == 2


def outcome_of_stow(archive: httpx.Client, instances: list[str]) -> str:
    order = {"Resources": instances, "Synchronous": False}
    job = archive.post("/dicom-web/servers/triggerscope/stow", json=order).json()["ID"]
    wait_until(lambda: archive.get(f"/jobs/{job}").json()["State"] in ("Success", "Failure"))
    return str(archive.get(f"/jobs/{job}").json()["State"])
