"""Logging in by OpenID Connect, as a browser does, against a strict provider of ours and an independent one."""

import base64
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

from service.app import open_database
from service.people import accounts, sessions
from service.people.oidc import Client, Provider, ProviderUnavailable, new_attempt
from service.records import account_queries
from service.settings import Settings
from tests.service.people.openid import CLIENT_ID, SECRET, Claims, OpenIdProvider, open_id_provider, sign
from tests.service.serving import serving

PAGE = {"Accept": "text/html"}
CSRF = re.compile(r'name="csrf" value="([^"]+)"')
PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def provider() -> Iterator[OpenIdProvider]:
    with open_id_provider() as provider:
        yield provider


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, models_dir: Path, provider: OpenIdProvider) -> Settings:
    folder = tmp_path_factory.mktemp("sso")
    (folder / "secret").write_text(f"{SECRET}\n")
    return Settings(
        data_dir=folder / "data",
        models_dir=models_dir,
        embedded_worker=False,
        decoders=1,
        public_url="http://127.0.0.1:9",
        oidc_issuer=provider.issuer,
        oidc_client_id=CLIENT_ID,
        oidc_client_secret_file=folder / "secret",
        oidc_role_claim="realm_access.roles",
        oidc_roles="readers=auditor, radiology/backdoors=reviewer, it=administrator",
    )


@pytest.fixture(scope="module")
def service(settings: Settings) -> Iterator[httpx.Client]:
    with serving(settings) as client:
        yield client


@pytest.fixture
def browser(service: httpx.Client, settings: Settings, provider: OpenIdProvider) -> Iterator[httpx.Client]:
    """A browser without cookies; the provider tells the truth again, and nobody waits for failures of other tests."""
    provider.claims, provider.sign = person("ada", "readers"), sign
    with open_database(settings) as database, database.write() as unit:
        account_queries.forget_failures(unit.session, "sso 127.0.0.1")
    with httpx.Client(base_url=service.base_url, timeout=60, headers=PAGE) as client:
        yield client


def person(name: str, *roles: str) -> Claims:
    return {"sub": f"subject-of-{name}", "preferred_username": name, "realm_access": {"roles": list(roles)}}


def leave(browser: httpx.Client, then: str = "/") -> str:
    answer = browser.get("/login/sso", params={"next": then})
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


def come_back(browser: httpx.Client, parameters: dict[str, str]) -> httpx.Response:
    return browser.get("/login/sso/return", params=parameters)


def log_in(browser: httpx.Client, provider: OpenIdProvider, then: str = "/") -> httpx.Response:
    return come_back(browser, provider.authorise(leave(browser, then)))


def test_a_first_login_makes_an_account_with_the_mapped_role(browser: httpx.Client, provider: OpenIdProvider) -> None:
    assert "Log in with your organisation" in browser.get("/login").text
    provider.claims = person("grace", "something", "readers", "radiology/backdoors")
    answer = log_in(browser, provider, "/groups")
    assert (answer.status_code, answer.headers["location"]) == (303, "/groups")
    page = browser.get("/account").text
    assert "grace" in page
    assert "reviewer" in page


def test_a_second_login_is_the_same_account_with_the_role_of_today(
    browser: httpx.Client, provider: OpenIdProvider, settings: Settings
) -> None:
    for claims in (person("heidi", "it"), person("heidi", "readers") | {"preferred_username": "renamed"}):
        provider.claims = claims
        assert log_in(browser, provider).status_code == 303
    with open_database(settings) as database, database.read() as session:
        found = {row.name: row.role for row in account_queries.accounts(session)}
    assert found["heidi"] == "auditor"
    assert "renamed" not in found


def test_a_name_that_is_taken_is_not_taken_over(
    browser: httpx.Client, provider: OpenIdProvider, settings: Settings
) -> None:
    with open_database(settings) as database:
        accounts.create(database, "root", "administrator", PASSWORD, "test")
        accounts.create(database, "old.name", "auditor", PASSWORD, "test")
        accounts.link(database, "old.name", provider.issuer, "subject-of-ivan", "test")
        with pytest.raises(accounts.AccountExists):
            accounts.link(database, "root", provider.issuer, "subject-of-ivan", "test")
    provider.claims = person("root", "readers")
    assert log_in(browser, provider).status_code == 303
    assert "root-2" in browser.get("/account").text
    provider.claims = person("ivan", "readers")
    assert log_in(browser, provider).status_code == 303
    assert "old.name" in browser.get("/account").text


def test_logging_out_ends_the_session_and_offers_the_providers(browser: httpx.Client, provider: OpenIdProvider) -> None:
    log_in(browser, provider)
    [token] = set(CSRF.findall(browser.get("/account").text))
    answer = browser.post("/logout", data={"csrf": token})
    assert answer.headers["location"] == "/login?ended=sso"
    assert f"{provider.issuer}/end?client_id={CLIENT_ID}" in browser.get("/login?ended=sso").text
    assert browser.get("/").headers["location"].startswith("/login")


def test_keys_may_change_at_any_time(browser: httpx.Client, provider: OpenIdProvider) -> None:
    log_in(browser, provider)
    asked = provider.key_requests
    assert log_in(browser, provider).status_code == 303
    assert provider.key_requests == asked
    provider.rotate()  # and from RS256 to ES256
    assert log_in(browser, provider).status_code == 303
    assert provider.key_requests == asked + 1


def unsigned(claims: Claims, _provider: OpenIdProvider) -> str:
    parts = [json.dumps(part).encode() for part in ({"alg": "none", "typ": "JWT"}, claims)]
    return ".".join([*(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts), ""])


def by_a_stranger(claims: Claims, provider: OpenIdProvider) -> str:
    key = RSAKey.generate_key(2048)
    return jwt.encode({"alg": "RS256", "kid": str(provider.keys[-1].kid)}, claims, key)


def by_the_secret(claims: Claims, provider: OpenIdProvider) -> str:
    """HS256 with the client's secret: whoever holds that could say anything."""
    header = {"alg": "HS256", "kid": str(provider.keys[-1].kid)}
    return jwt.encode(header, claims, OctKey.import_key(2 * SECRET))


@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")
@pytest.mark.parametrize(
    ("claims", "signed"),
    [
        ({"nonce": "another"}, sign),
        ({"nonce": None}, sign),
        ({"aud": "another"}, sign),
        ({"aud": [CLIENT_ID, "another"]}, sign),
        ({"azp": "another"}, sign),
        ({"iss": "https://evil.example"}, sign),
        ({"exp": 1_000_000_000}, sign),
        ({"exp": None}, sign),
        ({"iat": 4_000_000_000}, sign),
        ({"sub": ""}, sign),
        ({"sub": "x" * 256}, sign),
        ({"realm_access": {"roles": ["strangers"]}}, sign),
        ({"realm_access": "it"}, sign),
        ({"realm_access": {"roles": [["it"], {}]}}, sign),
        ({"realm_access": {"roles": {"it": True}}}, sign),
        ({}, unsigned),
        ({}, by_a_stranger),
        ({}, by_the_secret),
        ({}, lambda _claims, _provider: "not.a.token"),
    ],
)
def test_a_token_that_is_not_sound_lets_nobody_in(
    browser: httpx.Client, provider: OpenIdProvider, claims: Claims, signed: object
) -> None:
    provider.claims, provider.sign = person("mallory", "it") | claims, signed
    answer = log_in(browser, provider)
    assert (answer.status_code, "sign_on_failed" in answer.text) == (403, True)
    assert browser.get("/account").status_code == 303


def test_a_state_serves_once_and_only_the_browser_that_got_it(
    browser: httpx.Client, service: httpx.Client, provider: OpenIdProvider
) -> None:
    brought = provider.authorise(leave(browser))
    with httpx.Client(base_url=service.base_url, headers=PAGE) as victim:
        assert come_back(victim, brought).status_code == 403  # a login of the attacker's, in somebody else's browser
    state = browser.cookies.get(sessions.SIGN_ON_COOKIE) or ""
    assert come_back(browser, brought).status_code == 303
    again = {"Cookie": f"{sessions.SIGN_ON_COOKIE}={state}"}
    assert browser.get("/login/sso/return", params=brought, headers=again).status_code == 403
    assert come_back(browser, {}).status_code == 403
    for wrong in ({"iss": "https://evil.example"}, {"code": ""}, {"state": "made-up"}):
        assert come_back(browser, provider.authorise(leave(browser)) | wrong).status_code == 403


@pytest.mark.parametrize("then", ["https://evil.example", "//evil.example", "/\\evil.example"])
def test_nobody_is_led_elsewhere(browser: httpx.Client, provider: OpenIdProvider, then: str) -> None:
    assert log_in(browser, provider, then).headers["location"] == "/"


def test_a_code_of_another_login_is_refused(browser: httpx.Client, provider: OpenIdProvider) -> None:
    stolen = provider.authorise(leave(browser))["code"]
    mine = provider.authorise(leave(browser))
    assert come_back(browser, mine | {"code": stolen}).status_code == 403  # its PKCE challenge is another


def test_a_disabled_account_stays_out(browser: httpx.Client, provider: OpenIdProvider, settings: Settings) -> None:
    provider.claims = person("judy", "readers")
    log_in(browser, provider)
    with open_database(settings) as database:
        accounts.change(database, "judy", "test", disabled=True)
    assert browser.get("/account").status_code == 303
    answer = log_in(browser, provider)
    assert (answer.status_code, "disabled" in answer.text) == (403, True)


def test_failures_from_one_address_are_slowed_down(browser: httpx.Client, provider: OpenIdProvider) -> None:
    provider.sign = unsigned
    for _ in range(sessions.FREE_FAILURES + 1):
        assert log_in(browser, provider).status_code == 403
    answer = browser.get("/login/sso")
    assert (answer.status_code, "login_throttled" in answer.text) == (429, True)


def test_a_login_that_succeeds_ends_the_count(browser: httpx.Client, provider: OpenIdProvider) -> None:
    for _ in range(2):
        provider.sign = unsigned
        for _ in range(sessions.FREE_FAILURES):
            assert log_in(browser, provider).status_code == 403
        provider.sign = sign
        assert log_in(browser, provider).status_code == 303


def test_a_provider_that_is_away_keeps_only_the_first_one_waiting() -> None:
    back = "https://triggerscope.example/login/sso/return"
    away = Provider(Client("http://127.0.0.1:9", CLIENT_ID, "", back, "openid", "roles", {}, "name"))
    for words in ("did not answer", "a moment ago"):
        with pytest.raises(ProviderUnavailable, match=words):
            away.authorization_address(new_attempt())


def test_no_password_opens_an_account_of_the_providers(browser: httpx.Client, provider: OpenIdProvider) -> None:
    log_in(browser, provider)
    for password in ("", "x" * 12):
        assert browser.post("/login", data={"name": "ada", "password": password}).status_code == 422
    changed = browser.post("/account/password", data={"csrf": CSRF.findall(browser.get("/account").text)[0]})
    assert changed.status_code == 422


def test_a_public_client_sends_its_name_and_no_secret(provider: OpenIdProvider) -> None:
    provider.claims, provider.sign, provider.is_public = person("ada", "readers"), sign, True
    back = "https://triggerscope.example/login/sso/return"
    roles = {"readers": "auditor"}
    public = Provider(Client(provider.issuer, CLIENT_ID, "", back, "openid", "realm_access.roles", roles, "name"))
    attempt = new_attempt()
    code = provider.authorise(public.authorization_address(attempt))["code"]
    found = public.redeem(code, attempt.code_verifier, attempt.nonce)
    provider.is_public = False
    assert (found.subject, found.role) == ("subject-of-ada", "auditor")


def test_behind_a_proxy_that_speaks_https_cookies_are_secure(
    browser: httpx.Client, settings: Settings, tmp_path: Path
) -> None:
    assert "Secure" not in browser.get("/login/sso").headers["set-cookie"]
    proxied = settings.model_copy(update={"data_dir": tmp_path, "public_url": "https://triggerscope.example"})
    with serving(proxied) as client:
        assert "Secure" in client.get("/login/sso").headers["set-cookie"]


@pytest.fixture(scope="module")
def independent() -> Iterator[str]:
    """oidc-provider-mock, a provider that others wrote, in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    user = json.dumps({"sub": "nina-1", "preferred_username": "nina", "roles": ["readers"]})
    command = [sys.executable, "-m", "oidc_provider_mock", "--port", str(port), "--user-claims", user]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 120
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/.well-known/openid-configuration").raise_for_status()
                break
            except httpx.TransportError:
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def test_an_independent_provider_lets_in_where_passwords_do_not(
    independent: str, tmp_path: Path, models_dir: Path
) -> None:
    (tmp_path / "secret").write_text(SECRET)
    settings = Settings(
        data_dir=tmp_path / "data", models_dir=models_dir, embedded_worker=False, decoders=1, local_accounts=False,
        public_url="http://127.0.0.1:9", oidc_issuer=independent, oidc_client_id=CLIENT_ID,
        oidc_client_secret_file=tmp_path / "secret", oidc_roles="readers=auditor",
    )  # fmt: skip
    with serving(settings) as client, httpx.Client(base_url=client.base_url, timeout=60, headers=PAGE) as browser:
        assert "password" not in browser.get("/login").text
        for form in ("/login", "/setup"):
            assert "no_local_accounts" in browser.post(form, data={"name": "x"}).text
        answer = httpx.post(leave(browser, "/system"), data={"sub": "nina-1"})
        query = {name: values[0] for name, values in parse_qs(urlsplit(answer.headers["location"]).query).items()}
        assert come_back(browser, query).headers["location"] == "/system"
        assert "nina" in browser.get("/account").text


@pytest.mark.parametrize(
    "changes",
    [
        {"oidc_issuer": "https://id.example"},
        {
            "oidc_issuer": "http://id.example",
            "oidc_client_id": "x",
            "oidc_roles": "a=auditor",
            "public_url": "https://x",
        },
        {"oidc_issuer": "https://id.example", "oidc_client_id": "x", "oidc_roles": "a=king", "public_url": "https://x"},
        {"local_accounts": False},
    ],
)
def test_settings_that_would_lock_out_or_be_unsafe_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"oidc|local_accounts|role"):
        Settings(**changes)
