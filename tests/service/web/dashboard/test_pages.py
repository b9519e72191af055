import csv
import io
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pyarrow import parquet

from service.ledger import bundles
from tests.service.serving import png

ADDRESS = re.compile(r'(?:src|href|action)="([^"]*)"')
ROW = re.compile(r'data-href="/audits/([0-9a-f]{32})')
Audit = dict[str, Any]


def submit(client: httpx.Client, seed: int, **parameters: str) -> Audit:
    headers = {"Content-Type": "image/png"}
    found: Audit = client.post("/v1/audits", content=png(seed), headers=headers, params=parameters).json()
    return found


def addresses(page: str) -> list[str]:
    return ADDRESS.findall(page.replace("&amp;", "&"))


@pytest.fixture
def reviewer(server: httpx.Client, tokens: dict[str, str]) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {tokens['audits:review']}"}
    with httpx.Client(base_url=server.base_url, timeout=60, headers=headers) as client:
        yield client


def test_the_queue_names_verdict_and_label_and_leads_to_the_audit(client: httpx.Client) -> None:
    audit = submit(client, 200)
    page = client.get("/", params={"show": "all"}).text
    assert f'href="/audits/{audit["id"]}?show=all"' in page
    assert audit["explained_label"].replace("_", " ") in page
    assert f'class="badge {audit["verdict"]}"' in page


def test_filters_choose_what_is_shown(client: httpx.Client) -> None:
    audit = submit(client, 201, source="filtered")
    shown = {"show": "all", "source": "filtered"}
    assert ROW.findall(client.get("/", params=shown).text) == [audit["id"]]
    assert ROW.findall(client.get("/", params=shown | {"verdict": audit["verdict"]}).text) == [audit["id"]]
    assert ROW.findall(client.get("/", params=shown | {"classifier": "nobody"}).text) == []


def test_an_audit_shows_evidence_reasons_pictures_and_history(client: httpx.Client) -> None:
    audit = submit(client, 200)
    page = client.get(f"/audits/{audit['id']}").text
    for wanted in ("Score of the film", audit["links"]["overlay"], audit["sha256"], "audit completed", "film received"):
        assert wanted in page
    assert audit["classifier"]["sha256"] in page
    assert page.count('<svg class="chart"') == 1 + len(audit["evidence"])


def test_everything_on_a_page_is_ours_and_there(client: httpx.Client) -> None:
    audit = submit(client, 200)
    pages = ("/", "/?show=all", f"/audits/{audit['id']}", "/groups", "/classifiers", "/system", "/login")
    for page in pages:
        answer = client.get(page)
        assert answer.status_code == 200, page
        assert " style=" not in answer.text
        assert "<script>" not in answer.text
        for address in addresses(answer.text):
            assert address.startswith(("/", "#")), address
            if "bundle" not in address and address not in ("/reviews", "/upload"):
                assert client.get(address).status_code == 200, address


def test_later_pages_are_a_link_away(client: httpx.Client) -> None:
    submitted = {submit(client, seed, source="paged")["id"] for seed in range(300, 352)}
    first = client.get("/", params={"show": "all", "source": "paged"}).text
    [following] = {address for address in addresses(first) if "cursor=" in address}
    second = client.get(following).text
    assert len(ROW.findall(first)) == 50
    assert set(ROW.findall(first) + ROW.findall(second)) == submitted


@pytest.mark.parametrize("cursor", ["!", "eA==", "MXwyMDI2LTAxLTAxfHg="])
def test_a_made_up_cursor_is_refused(client: httpx.Client, cursor: str) -> None:
    assert client.get("/", params={"cursor": cursor}).json()["code"] == "invalid_cursor"


def test_a_decision_is_kept_with_its_comment(client: httpx.Client, reviewer: httpx.Client) -> None:
    audit = submit(client, 202)
    form = {"id": audit["id"], "decision": "dismiss", "comment": "a <b>marker</b>", "then": f"/audits/{audit['id']}"}
    answer = reviewer.post("/reviews", data=form)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/audits/{audit['id']}")
    page = client.get(f"/audits/{audit['id']}").text
    assert "a &lt;b&gt;marker&lt;/b&gt;" in page
    assert "review dismiss" in page
    assert audit["id"] in ROW.findall(client.get("/", params={"show": "dismissed"}).text)


@pytest.mark.parametrize(
    "form",
    [
        {"id": "0" * 32, "decision": "burn"},
        {"decision": "confirm"},
        {"id": "0" * 32, "decision": "comment", "comment": "x" * 2001},
        {"id": "0" * 32, "decision": "comment", "comment": "a\0b"},
    ],
)
def test_a_form_that_makes_no_sense_is_refused(reviewer: httpx.Client, form: dict[str, str]) -> None:
    assert reviewer.post("/reviews", data=form).json()["code"] == "invalid_request"


@pytest.mark.parametrize("then", ["https://evil.example", "//evil.example", "/\\evil.example", ""])
def test_a_form_leads_back_to_our_own_pages_only(client: httpx.Client, reviewer: httpx.Client, then: str) -> None:
    audit = submit(client, 202)
    answer = reviewer.post("/reviews", data={"id": audit["id"], "decision": "comment", "comment": "x", "then": then})
    assert answer.headers["location"] == "/"


def test_a_person_is_told_of_problems_in_words(server: httpx.Client, client: httpx.Client) -> None:
    headers = {"Accept": "text/html,*/*"}
    missing = client.get(f"/audits/{'0' * 32}", headers=headers)
    assert (missing.status_code, missing.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert "There is no audit of this id" in missing.text
    asked = server.get("/?show=all", headers=headers)
    assert (asked.status_code, asked.headers["location"]) == (303, "/login?next=%2F%3Fshow%3Dall")


def test_a_map_is_given_raw_on_its_own_grid(client: httpx.Client) -> None:
    audit = submit(client, 200)
    found = client.get(f"/v1/audits/{audit['id']}/maps/layercam_28").json()
    assert [len(row) for row in found["values"]] == [28] * 28
    assert found["covers"] == {"x": 0, "y": 0, "width": 224, "height": 224}
    missing = client.get(f"/v1/audits/{audit['id']}/maps/nothing")
    assert (missing.status_code, missing.json()["code"]) == (404, "map_not_found")


def test_exports_hold_what_the_queue_shows(client: httpx.Client) -> None:
    audit = submit(client, 203, source="-exported")
    address = {"show": "all", "source": "-exported"}
    [row] = csv.DictReader(io.StringIO(client.get("/exports/audits.csv", params=address).text))
    assert (row["id"], row["verdict"], float(row["score"])) == (audit["id"], audit["verdict"], audit["score"])
    assert row["source"] == "'-exported"  # a spreadsheet would compute what starts with a dash
    [line] = client.get("/exports/audits.jsonl", params=address).text.splitlines()
    assert json.loads(line)["evidence"] == audit["evidence"]
    table = parquet.read_table(io.BytesIO(client.get("/exports/audits.parquet", params=address).content)).to_pylist()
    assert [(found["id"], found["score"], found["source"]) for found in table] == [
        (audit["id"], audit["score"], "-exported")
    ]


def test_chosen_audits_become_one_bundle(client: httpx.Client, tokens: dict[str, str]) -> None:
    headers = {"Authorization": f"Bearer {tokens['audits:read']}"}

    def take_out(ids: list[str]) -> httpx.Response:
        return httpx.post(client.base_url.join("/exports/bundle.zip"), data={"id": ids}, headers=headers, timeout=60)

    chosen = [submit(client, seed)["id"] for seed in (200, 202)]
    report = bundles.verify(take_out(chosen).content)
    assert (report.audits, report.faults) == (tuple(chosen), ())
    for ids, code in (([], "invalid_request"), (["0" * 32], "audit_not_found")):
        assert take_out(ids).json()["code"] == code


def test_a_bundle_of_one_audit_verifies(client: httpx.Client) -> None:
    audit = submit(client, 200)
    answer = client.get(f"/audits/{audit['id']}/bundle.zip")
    report = bundles.verify(answer.content)
    assert (report.audits, report.faults) == ((audit["id"],), ())
    assert "audit exported" in client.get(f"/audits/{audit['id']}").text
