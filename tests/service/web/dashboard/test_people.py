"""Logging in as a browser does: a cookie, a token in each form, and what a role may see."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from service.app import open_database
from service.people import accounts
from service.people.roles import ROLES
from service.settings import Settings
from tests.service.serving import png

PASSWORD = "correct horse battery"
CSRF = re.compile(r'name="csrf" value="([^"]+)"')
PAGE = {"Accept": "text/html"}


@pytest.fixture(scope="module")
def people(shared_settings: Settings, server: httpx.Client) -> httpx.Client:
    with open_database(shared_settings) as database:
        for role in ROLES:
            accounts.create(database, f"{role}-1", role, PASSWORD, "test")
    return server


@contextmanager
def log_in(people: httpx.Client, name: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=people.base_url, timeout=60, headers=PAGE) as browser:
        answer = browser.post("/login", data={"name": name, "password": PASSWORD, "then": "/upload"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/upload")
        yield browser


@pytest.fixture
def reviewer(people: httpx.Client) -> Iterator[httpx.Client]:
    with log_in(people, "reviewer-1") as browser:
        yield browser


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(people: httpx.Client) -> None:
    answer = people.post("/login", data={"name": "auditor-1", "password": PASSWORD})
    cookie = answer.headers["set-cookie"].lower()
    people.cookies.clear()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie


@pytest.mark.parametrize(
    ("role", "seen"),
    [
        ("uploader", {"/upload"}),
        ("auditor", {"/upload", "/", "/system"}),
        ("reviewer", {"/upload", "/", "/system"}),
        ("administrator", {"/upload", "/", "/system", "/accounts"}),
    ],
)
def test_a_role_opens_its_pages_and_no_others(people: httpx.Client, role: str, seen: set[str]) -> None:
    with log_in(people, f"{role}-1") as browser:
        answers = {page: browser.get(page).status_code for page in ("/upload", "/", "/system", "/accounts")}
    assert answers == {page: 200 if page in seen else 403 for page in answers}


def test_a_change_needs_the_token_of_its_page(reviewer: httpx.Client) -> None:
    film = {"content": png(210), "headers": {"Content-Type": "image/png"}}
    assert "csrf_failed" in reviewer.post("/v1/audits", **film).text
    [token] = set(CSRF.findall(reviewer.get("/").text))
    film["headers"] = {"Content-Type": "image/png", "X-CSRF-Token": token}
    audit = reviewer.post("/v1/audits", **film).json()
    form = {"id": audit["id"], "decision": "comment", "comment": "seen"}
    assert "csrf_failed" in reviewer.post("/reviews", data=form).text
    assert reviewer.post("/reviews", data=form | {"csrf": token}).status_code == 303
    page = reviewer.get(f"/audits/{audit['id']}").text
    assert "reviewer-1" in page
    assert "seen" in page


def test_a_finding_is_taken_shown_as_mine_and_given_to_somebody(reviewer: httpx.Client) -> None:
    [token] = set(CSRF.findall(reviewer.get("/").text))
    headers = {"Content-Type": "image/png", "X-CSRF-Token": token}
    ids = [reviewer.post("/v1/audits", content=png(seed), headers=headers).json()["id"] for seed in (211, 212)]
    form = {"csrf": token, "id": ids, "comment": ""}
    assert reviewer.post("/reviews", data=form | {"decision": "take"}).status_code == 303
    mine = reviewer.get("/", params={"show": "all", "assignee": "account:reviewer-1"}).text
    assert all(f"/audits/{audit_id}" in mine for audit_id in ids)
    assert "For <b>me</b>" in reviewer.get(f"/audits/{ids[0]}").text
    given = {"decision": "assign", "assignee": "account:administrator-1", "id": ids[0]}
    assert reviewer.post("/reviews", data=form | given).status_code == 303
    page = reviewer.get(f"/audits/{ids[0]}").text
    assert "For <b>administrator-1</b>" in page
    assert "to administrator-1" in page
    refused = reviewer.post("/reviews", data=form | {"decision": "assign", "assignee": "account:auditor-1"})
    assert (refused.status_code, "unsuitable_reader" in refused.text) == (422, True)
    assert reviewer.post("/reviews", data=form | {"decision": "release"}).status_code == 303
    nobodys = reviewer.get("/", params={"show": "all", "assignee": "nobody"}).text
    assert all(f"/audits/{audit_id}" in nobodys for audit_id in ids)


def test_logging_out_ends_the_session(people: httpx.Client) -> None:
    with log_in(people, "auditor-1") as browser:
        [token] = set(CSRF.findall(browser.get("/").text))
        assert browser.post("/logout", data={}).status_code == 403
        assert browser.post("/logout", data={"csrf": token}).status_code == 303
        assert browser.get("/").headers["location"].startswith("/login")


def test_a_wrong_password_is_said_and_no_more(people: httpx.Client) -> None:
    answer = people.post("/login", data={"name": "auditor-1", "password": "wrong"})
    assert answer.status_code == 422
    assert "name or password are wrong" in answer.text
    assert "set-cookie" not in answer.headers


def test_another_site_cannot_log_somebody_in(people: httpx.Client) -> None:
    form = {"name": "auditor-1", "password": PASSWORD}
    answer = people.post("/login", data=form, headers={"Sec-Fetch-Site": "cross-site"})
    assert (answer.status_code, answer.json()["code"]) == (403, "csrf_failed")


def test_an_administrator_makes_changes_and_disables_accounts(people: httpx.Client) -> None:
    with log_in(people, "administrator-1") as browser:
        csrf = {"csrf": CSRF.findall(browser.get("/accounts").text)[0]}
        made = browser.post("/accounts", data=csrf | {"name": "new", "role": "uploader", "password": PASSWORD})
        changed = browser.post("/accounts/new", data=csrf | {"change": "role", "role": "auditor"})
        disabled = browser.post("/accounts/new", data=csrf | {"change": "disable"})
        assert [answer.status_code for answer in (made, changed, disabled)] == [303, 303, 303]
        set_anew = browser.post("/accounts/new", data=csrf | {"change": "password", "password": PASSWORD + "!"})
        assert set_anew.status_code == 303
        assert "disabled" in browser.get("/accounts").text
    refused = people.post("/login", data={"name": "new", "password": PASSWORD})
    assert refused.status_code == 422


def test_ones_own_password_is_changed_with_the_present_one(people: httpx.Client, shared_settings: Settings) -> None:
    new = "another horse battery"
    with open_database(shared_settings) as database:
        accounts.create(database, "own", "uploader", PASSWORD, "test")
    with log_in(people, "own") as browser:
        csrf = {"csrf": CSRF.findall(browser.get("/account").text)[0]}
        wrong = browser.post("/account/password", data=csrf | {"current": "wrong", "new": new})
        short = browser.post("/account/password", data=csrf | {"current": PASSWORD, "new": "short"})
        assert [(answer.status_code, 'role="alert"' in answer.text) for answer in (wrong, short)] == [(422, True)] * 2
        assert browser.post("/account/password", data=csrf | {"current": PASSWORD, "new": new}).status_code == 303
        assert browser.get("/account").headers["location"].startswith("/login")
    assert people.post("/login", data={"name": "own", "password": PASSWORD}).status_code == 422
    assert people.post("/login", data={"name": "own", "password": new}).status_code == 303
    people.cookies.clear()


def test_a_key_is_made_shown_once_used_and_revoked(people: httpx.Client) -> None:
    with log_in(people, "administrator-1") as browser:
        csrf = {"csrf": CSRF.findall(browser.get("/keys").text)[0]}
        form = csrf | {"name": "er.1", "scope": ["audits:read", "audits:write"], "expires": "2099-12-31"}
        made = browser.post("/keys", data=form)
        [token] = re.findall(r"<code>(ts_[^<]+)</code>", made.text)
        assert people.get("/v1/audits", headers={"Authorization": f"Bearer {token}"}).status_code == 200
        page = browser.get("/keys").text
        assert token not in page
        assert "2100-01-01 00:00:00" in page
        assert "audits:read, audits:write" in page
        for wrong in (
            {"scope": []},
            {"scope": ["all"]},
            {"name": "a b"},
            {"expires": "soon"},
            {"expires": "9999-12-31"},
        ):
            assert browser.post("/keys", data=form | wrong).status_code == 422
        assert browser.post("/keys", data=form).status_code == 409
        assert browser.post("/keys/er.1", data=csrf).status_code == 303
        assert people.get("/v1/audits", headers={"Authorization": f"Bearer {token}"}).status_code == 401
        assert "revoked" in browser.get("/keys").text


def test_the_setup_page_takes_no_made_up_token(people: httpx.Client) -> None:
    form = {"token": "made-up", "name": "root", "password": PASSWORD}
    answer = people.post("/setup", data=form)
    assert answer.status_code == 422
    assert "start the service again" in answer.text
