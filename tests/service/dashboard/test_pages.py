import re

import httpx

from tests.service.serving import png

ADDRESS = re.compile(r'(?:src|href)="([^"]*)"')


def submit(client: httpx.Client, seed: int) -> dict[str, object]:
    found: dict[str, object] = client.post(
        "/v1/audits", content=png(seed), headers={"Content-Type": "image/png"}
    ).json()
    return found


def addresses(page: str) -> list[str]:
    return ADDRESS.findall(page.replace("&amp;", "&"))


def test_the_list_names_verdict_and_label_and_leads_to_the_audit(client: httpx.Client) -> None:
    audit = submit(client, 200)
    page = client.get("/").text
    assert f'href="/audits/{audit["id"]}"' in page
    assert str(audit["explained_label"]) in page
    assert f'class="badge {audit["verdict"]}"' in page


def test_an_audit_shows_evidence_reasons_and_pictures(client: httpx.Client) -> None:
    audit = submit(client, 200)
    page = client.get(f"/audits/{audit['id']}").text
    for name in audit["evidence"]:  # type: ignore[attr-defined]
        assert name.replace("_", " ") in page
    assert audit["links"]["overlay"] in page  # type: ignore[index]
    assert str(audit["sha256"]) in page


def test_everything_on_a_page_is_ours_and_there(client: httpx.Client) -> None:
    audit = submit(client, 200)
    for page in ("/", "/?verdict=suspicious", f"/audits/{audit['id']}"):
        text = client.get(page).text
        assert "<script" not in text
        assert "style=" not in text
        for address in addresses(text):
            assert address.startswith("/"), address
            assert client.get(address).status_code == 200, address


def test_older_audits_are_a_link_away(client: httpx.Client) -> None:
    for seed in range(300, 352):
        submit(client, seed)
    [older] = [address for address in addresses(client.get("/").text) if "cursor=" in address]
    assert "/audits/" in client.get(older).text
