"""POST /v1/classifiers: a classifier's file is handed in, examined, and registered or refused."""

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from service.graphs.description import description_of
from service.registry.registry import Registered
from service.web.api.classifiers import signed_report, version_resource
from service.web.api.schemas import RegisteredVersion
from service.web.dependencies import Administrator, ResourcesDep
from service.web.errors import problems
from service.web.resources import Resources
from service.web.upload import MULTIPART, read_classifier

router = APIRouter(prefix="/v1", tags=["classifiers"])
_FORM = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {"type": "string", "format": "binary", "description": "An ONNX file."},
        "description": {
            "type": "string",
            "description": "Labels, preprocessing, normalisation and head as JSON, where the file does not say them.",
            "example": '{"name": "theirs", "labels": ["Mass"], "preprocessing": {"size": 224}}',
        },
    },
}
_BODY = {"requestBody": {"required": True, "content": {MULTIPART: {"schema": _FORM}}}}
_ANSWERS = {200: {"model": RegisteredVersion, "description": "This very version was registered before."}} | problems(
    "empty_body", "too_many_bytes", "malformed_multipart", "missing_file", "unsupported_media_type", "upload_timeout",
    "unusable_classifier", "too_busy", "not_ready", "unauthenticated", "forbidden",
)  # fmt: skip


@router.post("/classifiers", status_code=201, response_model=RegisteredVersion, responses=_ANSWERS, openapi_extra=_BODY)
async def add_classifier(
    request: Request, response: Response, admin: Administrator, held: ResourcesDep
) -> RegisteredVersion:
    """Examine an ONNX file in a process of its own, which may take minutes, and register what is derived of it.

    It is not put into force by this. A file that is refused is not kept; why is, in the log.
    """
    with held.registry.examining(wait=False):
        handed_in = await read_classifier(request, held)
        description = description_of(handed_in.description) if handed_in.description else None
        registered = await run_in_threadpool(held.registry.add_classifier, handed_in.file, admin.actor, description)
    row = registered.row
    response.status_code = 201 if registered.is_new else 200
    response.headers["Location"] = f"/v1/classifiers/{row.name}/versions/{row.sha256}"
    return await run_in_threadpool(_resource, held, registered)


def _resource(held: Resources, registered: Registered) -> RegisteredVersion:
    with held.database.read() as session:
        version = version_resource(session, held.registry, registered.row)
    examination = signed_report(held, registered.row)
    return RegisteredVersion(name=registered.row.name, version=version, examination=examination)
