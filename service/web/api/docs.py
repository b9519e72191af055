"""/docs: Swagger UI from this package, because hospital networks are closed."""

from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

from service.web.api.schemas import Problem
from service.web.errors import problems

ASSETS = Path(__file__).parent / "assets"
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Triggerscope: HTTP interface</title>
<link rel="stylesheet" href="/docs/assets/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<noscript><p>The interface is described in <a href="/openapi.json">openapi.json</a>.</p></noscript>
<script src="/docs/assets/swagger-ui-bundle.js"></script>
<script src="/docs/assets/start.js"></script>
</body>
</html>
"""
router = APIRouter(include_in_schema=False)


@router.get("/docs")
def docs() -> HTMLResponse:
    return HTMLResponse(PAGE)


def describe_problems(app: FastAPI) -> None:
    """Put our one error body into the OpenAPI document, in place of FastAPI's own for invalid parameters."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        document = describe()
        schemas = document["components"]["schemas"]
        problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= problem.pop("$defs") | {"Problem": problem}
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        invalid = problems("invalid_request")[422]
        for operation in (operation for path in document["paths"].values() for operation in path.values()):
            if "application/json" in operation["responses"].get("422", {}).get("content", {}):
                operation["responses"]["422"] = invalid
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to change its document


def mount_assets(app: FastAPI) -> None:
    app.mount("/docs/assets", StaticFiles(directory=ASSETS), name="docs-assets")
