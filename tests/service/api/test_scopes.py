"""The matrix of scopes by route: complete, and enforced."""

import base64

import httpx
import pytest
from fastapi.routing import APIRoute

from service.api.dependencies import authorise, authorise_form
from service.app import ROUTERS
from service.settings import Settings
from tests.service.serving import png, serving

OPEN, READ, WRITE, REVIEW, ADMIN = None, "audits:read", "audits:write", "audits:review", "admin"
MATRIX = {
    ("GET", "/"): READ,
    ("GET", "/audits/{audit_id}"): READ,
    ("GET", "/audits/{audit_id}/bundle.zip"): READ,
    ("GET", "/exports/audits.csv"): READ,
    ("GET", "/exports/audits.jsonl"): READ,
    ("GET", "/groups"): READ,
    ("POST", "/reviews"): REVIEW,
    ("GET", "/upload"): WRITE,
    ("GET", "/classifiers"): READ,
    ("POST", "/classifiers/{name}"): ADMIN,
    ("GET", "/system"): READ,
    ("POST", "/system/checkpoints"): ADMIN,
    ("GET", "/accounts"): ADMIN,
    ("POST", "/accounts"): ADMIN,
    ("POST", "/accounts/{name}"): ADMIN,
    ("GET", "/login"): OPEN,
    ("POST", "/login"): OPEN,
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
    ("GET", "/v1/classifiers"): READ,
    ("GET", "/v1/classifiers/{name}"): READ,
    ("POST", "/v1/classifiers/{name}/activate"): ADMIN,
    ("POST", "/v1/classifiers/{name}/retire"): ADMIN,
    ("POST", "/v1/classifiers/{name}/rollback"): ADMIN,
    ("POST", "/v1/classifiers/{name}/policy/activate"): ADMIN,
    ("POST", "/v1/classifiers/{name}/policy/rollback"): ADMIN,
    ("GET", "/v1/policies"): READ,
    ("POST", "/dicom-web/studies"): WRITE,
    ("POST", "/dicom-web/studies/{study_uid}"): WRITE,
}


def declared(route: APIRoute) -> str | None:
    for dependency in route.dependant.dependencies:
        if dependency.call in (authorise, authorise_form):
            [scope] = dependency.own_oauth_scopes or []
            return str(scope)
    return None


def routes() -> dict[tuple[str, str], str | None]:
    found = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    return {(method, route.path): declared(route) for route in found for method in route.methods or ()}


def test_the_matrix_names_every_route() -> None:
    assert routes() == MATRIX


@pytest.mark.parametrize(("method", "path"), MATRIX)
def test_only_the_right_key_opens_a_route(server: httpx.Client, tokens: dict[str, str], method: str, path: str) -> None:
    needed = MATRIX[method, path]
    address = path.format(study_uid="1.2", audit_id="0" * 32, name="nobody", map_name="any")
    without = server.request(method, address)
    assert (without.status_code == 401) is (needed is not None)
    for scope, token in tokens.items():
        status = server.request(method, address, headers={"Authorization": f"Bearer {token}"}).status_code
        assert status != 401
        assert (status == 403) is (needed not in (None, scope)), (scope, status)


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
