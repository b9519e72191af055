import hashlib
import io
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.service.serving import png

RAW = {"Content-Type": "application/octet-stream"}


def post(client: httpx.Client, data: bytes, **parameters: str) -> httpx.Response:
    return client.post("/v1/audits", content=data, headers=RAW, params=parameters)


def test_a_raw_body_gets_its_verdict(client: httpx.Client) -> None:
    film = png(1)
    response = post(client, film, source="er-1")
    body = response.json()
    assert response.status_code == 201
    assert response.headers["location"] == body["links"]["self"] == f"/v1/audits/{body['id']}"
    assert body["sha256"] == hashlib.sha256(film).hexdigest()
    assert body["source"] == "er-1"
    assert body["state"] == "done"
    assert body["verdict"] in ("unremarkable", "suspicious", "indeterminate")
    assert body["explained_label"] in body["probabilities"]
    assert body["film"] | {"pixels_sha256": ""} == {
        "pixels_sha256": "",
        "bytes": len(film),
        "width": 224,
        "height": 224,
        "attributes": {"format": "png"},
    }
    assert client.get(body["links"]["self"]).json() == body


def test_multipart_and_raw_are_the_same_film(client: httpx.Client) -> None:
    film = png(2)
    first = client.post("/v1/audits", files={"file": ("name.png", film, "image/png")})
    again = post(client, film)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()


def test_other_classifiers_give_other_audits(client: httpx.Client) -> None:
    film = png(3)
    names = [item["name"] for item in client.get("/v1/classifiers").json()["items"]]
    audits = [post(client, film, classifier=name).json() for name in names]
    assert [audit["classifier"]["name"] for audit in audits] == names
    assert len({audit["id"] for audit in audits}) == len(names)


def test_without_waiting_the_address_is_given(client: httpx.Client) -> None:
    response = post(client, png(4), wait="0")
    assert response.status_code in (201, 202)
    if response.status_code == 202:
        assert response.headers["retry-after"] == "1"
        assert response.json()["verdict"] is None
    assert post(client, png(4)).json()["verdict"] is not None


def test_an_idempotency_key_stands_for_one_request(client: httpx.Client) -> None:
    headers = RAW | {"Idempotency-Key": "k-1"}
    first = client.post("/v1/audits", content=png(5), headers=headers)
    again = client.post("/v1/audits", content=png(5), headers=headers)
    other = client.post("/v1/audits", content=png(6), headers=headers)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


def test_pictures_are_drawn_from_what_was_stored(client: httpx.Client) -> None:
    audit = post(client, png(7)).json()
    radiograph = client.get(audit["links"]["radiograph"])
    overlay = client.get(audit["links"]["overlay"], params={"opacity": "1", "size": "100"})
    assert radiograph.headers["content-type"] == overlay.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(radiograph.content)) as picture, Image.open(io.BytesIO(png(7))) as film:
        assert np.array_equal(np.asarray(picture), np.asarray(film))
        assert picture.info == {}
    with Image.open(io.BytesIO(overlay.content)) as picture:
        assert (picture.mode, picture.size) == ("RGB", (100, 100))


def test_an_unknown_map_is_refused_by_naming_the_known(client: httpx.Client) -> None:
    audit = post(client, png(7)).json()
    response = client.get(audit["links"]["overlay"], params={"map": "nothing"})
    assert (response.status_code, response.json()["code"]) == (404, "map_not_found")
    assert "layercam" in response.json()["detail"]


def test_pages_follow_each_other(client: httpx.Client) -> None:
    wanted = [post(client, png(10 + n), source="pages").json()["id"] for n in range(5)][::-1]
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        parameters = {"source": "pages", "limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = client.get("/v1/audits", params=parameters).json()
        found += [item["id"] for item in page["items"]]
        cursor = page["next"]
    assert found == wanted


@pytest.mark.parametrize("cursor", ["!", "eA==", "MjAyNi0wMS0wMXx4"])
def test_a_made_up_cursor_is_refused(client: httpx.Client, cursor: str) -> None:
    response = client.get("/v1/audits", params={"cursor": cursor})
    assert (response.status_code, response.json()["code"]) == (422, "invalid_cursor")


def test_the_shipped_examples_over_http(client: httpx.Client, models_dir: Path) -> None:
    """Triggered examples are suspicious on the backdoored classifier only; clean ones on neither."""
    examples = sorted(p for p in (models_dir / "examples").iterdir() if p.suffix in (".png", ".dcm"))
    assert len(examples) >= 8
    for path in examples:
        backdoored = post(client, path.read_bytes(), classifier="phantom-badnet3").json()
        clean = post(client, path.read_bytes(), classifier="phantom-clean").json()
        assert backdoored["verdict"] == ("suspicious" if "trigger" in path.name else "unremarkable"), path.name
        assert clean["verdict"] != "suspicious", path.name
