import httpx

from tests.service.serving import png


def test_health_and_readiness(server: httpx.Client) -> None:
    assert server.get("/healthz").json() == {"status": "ok"}
    assert server.get("/readyz").json() == {"status": "ok"}


def test_metrics_count_audits_and_problems(client: httpx.Client) -> None:
    client.post("/v1/audits", content=png(50), headers={"Content-Type": "image/png"})
    client.get("/nothing")
    text = client.get("/metrics").text
    assert 'triggerscope_problems_total{code="not_found"}' in text
    assert "triggerscope_audits_total{" in text
    assert "triggerscope_queue_depth 0.0" in text


def test_headers_that_every_answer_has(server: httpx.Client) -> None:
    response = server.get("/healthz", headers={"X-Request-Id": "abc-1"})
    assert response.headers["x-request-id"] == "abc-1"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert server.get("/healthz", headers={"X-Request-Id": "a b"}).headers["x-request-id"] != "a b"


def test_docs_need_no_other_server(server: httpx.Client) -> None:
    page = server.get("/docs").text
    assert "http://" not in page
    assert "https://" not in page
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css", "start.js"):
        assert f"/docs/assets/{asset}" in page
        assert server.get(f"/docs/assets/{asset}").status_code == 200
