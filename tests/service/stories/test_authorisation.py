"""The matrix of who may use which route: complete, the same in code and in the OpenAPI document, and enforced."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import httpx
import pytest
from fastapi.routing import APIRoute
from starlette.routing import Mount, Route

from service.app import ROUTERS, create_app, open_database
from service.people import accounts, keys, sessions
from service.people.roles import ROLES, SCOPES
from service.records.session import utc_now
from service.settings import Settings
from service.web.dependencies import authorise, authorise_form, authorise_owner, authorise_owner_form
from tests.service.serving import png, serving

OPEN, READ, WRITE, REVIEW, ADMIN = None, "audits:read", "audits:write", "audits:review", "admin"
CHOOSE = "audits:choose"  # beside `audits:write`, for naming what is not in force: see test_choosing
RELEASE = "releases:read"
ANNOUNCE = "films:announce"
LOGIN = "a login"  # of an account, whatever its role; no key has it
SCOPES_OF_ROLES = {
    "uploader": {WRITE},
    "auditor": {WRITE, CHOOSE, READ},
    "reviewer": {WRITE, CHOOSE, READ, REVIEW},
    "administrator": {WRITE, CHOOSE, READ, REVIEW, ADMIN, RELEASE, ANNOUNCE},
}
PASSWORD = "correct horse battery"
MATRIX = {
    ("GET", "/"): READ,
    ("GET", "/audits/{audit_id}"): READ,
    ("GET", "/audits/{audit_id}/bundle.zip"): READ,
    ("GET", "/exports/audits.csv"): READ,
    ("GET", "/exports/audits.jsonl"): READ,
    ("GET", "/exports/audits.parquet"): READ,
    ("POST", "/exports/bundle.zip"): READ,
    ("GET", "/groups"): READ,
    ("POST", "/reviews"): REVIEW,
    ("GET", "/watch-list"): READ,
    ("GET", "/watch-list/{entry_id}/patch.png"): READ,
    ("POST", "/watch-list/{entry_id}"): REVIEW,
    ("GET", "/v1/watch-list"): READ,
    ("POST", "/v1/watch-list/{entry_id}/retire"): REVIEW,
    ("POST", "/v1/watch-list/{entry_id}/restore"): REVIEW,
    ("GET", "/upload"): WRITE,
    ("GET", "/classifiers"): READ,
    ("POST", "/classifiers/{name}"): ADMIN,
    ("GET", "/system"): READ,
    ("POST", "/system/checkpoints"): ADMIN,
    ("POST", "/system/peers/{name}/echo"): ADMIN,
    ("POST", "/system/deliveries/{delivery_id}/resend"): ADMIN,
    ("GET", "/accounts"): ADMIN,
    ("POST", "/accounts"): ADMIN,
    ("POST", "/accounts/{name}"): ADMIN,
    ("GET", "/login"): OPEN,
    ("POST", "/login"): OPEN,
    ("GET", "/login/sso"): OPEN,
    ("GET", "/login/sso/return"): OPEN,
    ("GET", "/account"): LOGIN,
    ("POST", "/account/password"): LOGIN,
    ("GET", "/keys"): ADMIN,
    ("POST", "/keys"): ADMIN,
    ("POST", "/keys/{name}"): ADMIN,
    ("POST", "/logout"): OPEN,
    ("GET", "/setup"): OPEN,
    ("POST", "/setup"): OPEN,
    ("GET", "/docs"): OPEN,
    ("GET", "/healthz"): OPEN,
    ("GET", "/readyz"): OPEN,
    ("GET", "/metrics"): READ,
    ("POST", "/v1/audits"): WRITE,
    ("GET", "/v1/audits"): READ,
    ("GET", "/v1/audits/{audit_id}"): READ,
    ("GET", "/v1/audits/{audit_id}/maps/{map_name}"): READ,
    ("GET", "/v1/audits/{audit_id}/overlay.png"): READ,
    ("GET", "/v1/audits/{audit_id}/radiograph.png"): READ,
    ("GET", "/v1/audits/{audit_id}/counterfactual.png"): READ,
    ("GET", "/v1/classifiers"): READ,
    ("GET", "/v1/classifiers/{name}"): READ,
    ("POST", "/v1/classifiers"): ADMIN,
    ("GET", "/v1/classifiers/{name}/versions/{sha256}"): READ,
    ("GET", "/v1/classifiers/{name}/versions/{sha256}/report"): READ,
    ("POST", "/v1/classifiers/{name}/activate"): ADMIN,
    ("POST", "/v1/classifiers/{name}/retire"): ADMIN,
    ("POST", "/v1/classifiers/{name}/rollback"): ADMIN,
    ("POST", "/v1/classifiers/{name}/policy/activate"): ADMIN,
    ("POST", "/v1/classifiers/{name}/policy/rollback"): ADMIN,
    ("GET", "/v1/policies"): READ,
    ("POST", "/v1/releases"): RELEASE,
    ("POST", "/v1/hooks/films"): ANNOUNCE,
    ("POST", "/v1/hooks/films/signed"): OPEN,  # to whoever can sign; not there without a secret
    ("POST", "/dicom-web/studies"): WRITE,
    ("POST", "/dicom-web/studies/{study_uid}"): WRITE,
}


def declared(route: APIRoute) -> str | None:
    for dependency in route.dependant.dependencies:
        if dependency.call in (authorise_owner, authorise_owner_form):
            return LOGIN
        if dependency.call in (authorise, authorise_form):
            [scope] = dependency.own_oauth_scopes or []
            return str(scope)
    return None


def routes() -> dict[tuple[str, str], str | None]:
    found = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    return {(method, route.path): declared(route) for route in found for method in route.methods or ()}


def test_the_matrix_names_every_route() -> None:
    assert routes() == MATRIX


def test_nothing_is_served_beside_the_matrix() -> None:
    """What the application itself holds is its routers, its description, and files that anybody may read."""
    beside = [route for router in ROUTERS for route in router.routes if not isinstance(route, APIRoute)]
    app = create_app(Settings())
    own = [route for route in app.routes if isinstance(route, (Route, Mount))]
    assert beside == []
    assert [route.path for route in own] == ["/openapi.json", "/docs/assets", "/static"]
    assert len(app.routes) == len(own) + len(ROUTERS)


def test_the_openapi_document_asks_for_what_the_matrix_says() -> None:
    paths = create_app(Settings()).openapi()["paths"]
    described = {
        (method.upper(), path): operation.get("security")
        for path, operations in paths.items()
        for method, operation in operations.items()
    }
    assert described == {route: [{"ApiKey": [MATRIX[route]]}] if MATRIX[route] else None for route in described}
    assert {route for route in MATRIX if route[1].startswith(("/v1/", "/dicom-web/"))} <= set(described)


def test_roles_mean_what_is_documented() -> None:
    assert {role: set(scopes) for role, scopes in ROLES.items()} == SCOPES_OF_ROLES


@dataclass(frozen=True)
class World:
    """The service, somebody of each kind, and an audit that is there."""

    client: httpx.Client
    keys: dict[str, str]
    dead_keys: dict[str, str]
    cookies: dict[str, str]
    csrf: dict[str, str]
    audit_id: str

    def ask(self, method: str, path: str, headers: dict[str, str], csrf: str = "") -> httpx.Response:
        names = {"study_uid": "1.2", "name": "nobody", "map_name": "layercam_28", "sha256": "0" * 64}
        ids = dict.fromkeys(("entry_id", "delivery_id"), "0" * 32)
        address = path.format(audit_id=self.audit_id, **names, **ids)
        body = {"data": {"csrf": csrf}} if method not in ("GET", "HEAD") else {}
        sent = {"Accept": "application/json", **headers} | ({"X-CSRF-Token": csrf} if csrf else {})
        return self.client.request(method, address, headers=sent, **body)


@pytest.fixture(scope="module")
def world(shared_settings: Settings, server: httpx.Client, tokens: dict[str, str]) -> Iterator[World]:
    headers = {"Authorization": f"Bearer {tokens[WRITE]}", "Content-Type": "image/png"}
    audit_id = server.post("/v1/audits", content=png(7), headers=headers).json()["id"]
    cookies, csrf = {}, {}
    with open_database(shared_settings) as database:
        for role in ROLES:
            accounts.create(database, f"matrix-{role}", role, PASSWORD, "test")
            login = sessions.log_in(database, f"matrix-{role}", PASSWORD, timedelta(hours=1))
            principal = sessions.find(database, login.token)
            assert principal is not None
            cookies[role], csrf[role] = login.token, principal.csrf_token
        every = list(SCOPES)
        dead = {
            "made up": "ts_0000000000000000_made-up",
            "expired": keys.create(database, "matrix-old", every, utc_now() - timedelta(seconds=1), "test")[0],
            "revoked": keys.create(database, "matrix-revoked", every, None, "test")[0],
        }
        keys.revoke(database, "matrix-revoked", "test")
    with httpx.Client(base_url=server.base_url, timeout=60) as client:
        yield World(client, tokens, dead, cookies, csrf, audit_id)


def code_of(answer: httpx.Response) -> str:
    is_problem = answer.headers.get("content-type") == "application/problem+json"
    return str(answer.json()["code"]) if is_problem else "ok"


@pytest.mark.parametrize(("method", "path"), MATRIX)
def test_a_route_opens_to_the_right_key_only(world: World, method: str, path: str) -> None:
    needed = MATRIX[method, path]
    for authorization in ("", *(f"Bearer {token}" for token in world.dead_keys.values())):
        answer = world.ask(method, path, {"Authorization": authorization} if authorization else {})
        assert (answer.status_code == 401) is (needed is not None), authorization
    for scope, token in world.keys.items():
        status = world.ask(method, path, {"Authorization": f"Bearer {token}"}).status_code
        assert status != 401
        assert (status == 403) is (needed not in (None, scope)), (scope, status)


@pytest.mark.parametrize(("method", "path"), [route for route, needed in MATRIX.items() if needed])
def test_a_route_opens_to_the_right_roles_only(world: World, method: str, path: str) -> None:
    """By cookie; and what changes something only with the token that the role's own pages carry."""
    needed = MATRIX[method, path]
    for role, scopes in SCOPES_OF_ROLES.items():
        cookie = {"Cookie": f"{sessions.COOKIE}={world.cookies[role]}"}
        answer = world.ask(method, path, cookie, world.csrf[role])
        assert answer.status_code != 401
        assert (code_of(answer) == "forbidden") is (needed not in scopes | {LOGIN}), (role, answer.status_code)
        if method != "GET":
            others = world.csrf["auditor" if role != "auditor" else "reviewer"]
            for token in ("", others):
                assert code_of(world.ask(method, path, cookie, token)) == "csrf_failed", role


def test_a_cookie_of_nobody_opens_nothing(world: World) -> None:
    for token in ("", "made-up", world.cookies["administrator"][:-1]):
        assert world.ask("GET", "/", {"Cookie": f"{sessions.COOKIE}={token}"}).status_code == 401


def test_only_ones_own_login_can_be_ended(world: World) -> None:
    cookie = {"Cookie": f"{sessions.COOKIE}={world.cookies['uploader']}"}
    assert code_of(world.ask("POST", "/logout", cookie, world.csrf["auditor"])) == "csrf_failed"
    assert world.ask("GET", "/upload", cookie).status_code == 200


def basic(token: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"anyone:{token}".encode()).decode()}


def test_a_browser_reads_with_the_key_as_password(server: httpx.Client, tokens: dict[str, str]) -> None:
    asked = server.get("/")
    assert asked.status_code == 401
    assert asked.headers["www-authenticate"].startswith("Basic ")
    assert server.get("/", headers=basic(tokens[READ])).status_code == 200
    assert server.post("/v1/audits", content=png(1), headers=basic(tokens[WRITE])).status_code == 401


def test_anonymous_use_is_for_this_machine_only(
    shared_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    settings = shared_settings.model_copy(
        update={"allow_anonymous": True, "data_dir": tmp_path_factory.mktemp("anonymous")}
    )
    with serving(settings) as client:
        page = client.get("/")
        assert page.status_code == 200
        assert "Trial mode" in page.text
        for headers in ({"Host": "evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
            refused = client.get("/v1/audits", headers=headers)
            assert (refused.status_code, refused.json()["code"]) == (403, "untrusted_origin")
        assert client.post("/v1/classifiers/any/retire").status_code == 403
