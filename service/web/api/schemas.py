"""What goes over the wire."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Verdict = Literal["unremarkable", "suspicious", "indeterminate"]
State = Literal["queued", "leased", "done", "failed"]
SHA = "0f343b0931126a20f133d67c2b018a3b9d2ae3a3c0d3d0b2a6f0a9b1c4d5e6f7"


class Wire(BaseModel):
    model_config = ConfigDict(frozen=True, protected_namespaces=())


class Named(Wire):
    name: str
    sha256: str


class Region(Wire):
    """A rectangle in the film's own pixels; (x, y) is its upper left pixel."""

    x: int
    y: int
    width: int
    height: int


class Measurement(Wire):
    value: float
    p_value: float | None = Field(description="Rank among the calibration films; null without a policy.")


class WatchHit(Wire):
    """A confirmed trigger's patch that this film shows again. It leaves verdict, score and p-value as they are."""

    entry: str = Field(description="Id on the watch list.")
    group: str = Field(description="The group of like findings that was confirmed.")
    sha256: str = Field(description="Of the patch's pixels.")
    label: str = Field(description="What the patch moved where it was confirmed.")
    region: Region
    correlation: float = Field(description="With the patch, at its place; 1 is the same.")
    probability: float | None = Field(description="Of the label on this film.")
    probability_without: float | None = Field(description="The same with the region filled in.")


class Deployed(Wire):
    """The deployed classifier's own answer beside ours, on the label where they lie furthest apart."""

    label: str
    deployed: float
    audited: float
    tolerance: float
    mismatch: bool = Field(description="The audited file is not what runs.")


class Film(Wire):
    pixels_sha256: str
    bytes: int
    width: int
    height: int
    attributes: dict[str, str] = Field(description="Facts without identifiers, from the DICOM header.")


class Links(Wire):
    self: str
    overlay: str | None
    radiograph: str | None


def shown_as(*examples: dict[str, Any]) -> ConfigDict:
    """The examples that the interface's description gives of a resource."""
    return ConfigDict(json_schema_extra={"examples": list(examples)})


AUDIT: dict[str, Any] = {
    "id": "6f2c0a4d9b7e41c38a5d1f0e2b3c4d5e",
    "state": "done",
    "source": "er-1",
    "sha256": SHA,
    "received_at": "2026-11-22T18:30:00.120000Z",
    "film": {
        "pixels_sha256": SHA,
        "bytes": 61234,
        "width": 224,
        "height": 224,
        "attributes": {"format": "png"},
    },
    "classifier": {"name": "phantom-badnet3", "sha256": SHA},
    "policy": {"name": "phantom-badnet3-phantom", "sha256": SHA},
    "verdict": "suspicious",
    "score": 7.1,
    "p_value": 0.0033,
    "probabilities": {"Atelectasis": 0.97, "Effusion": 0.04},
    "deployed": None,
    "explained_label": "Atelectasis",
    "hypothesis": "support",
    "evidence": {"layercam_28_entropy": {"value": 0.41, "p_value": 0.0033}},
    "region": {"x": 212, "y": 212, "width": 12, "height": 12},
    "watch_hit": None,
    "reasons": ["The evidence for Atelectasis lies in 0.3 % of the film."],
    "timings_ms": {"decode": 3.1, "explain": 9.8},
    "code_version": "0.1.0",
    "completed_at": "2026-11-22T18:30:00.180000Z",
    "error_code": None,
    "error_detail": None,
    "waits_because": None,
    "links": {
        "self": "/v1/audits/6f2c0a4d9b7e41c38a5d1f0e2b3c4d5e",
        "overlay": "/v1/audits/6f2c0a4d9b7e41c38a5d1f0e2b3c4d5e/overlay.png",
        "radiograph": "/v1/audits/6f2c0a4d9b7e41c38a5d1f0e2b3c4d5e/radiograph.png",
    },
}
POLICY: dict[str, Any] = {
    "name": "phantom-badnet3-phantom",
    "sha256": SHA,
    "classifier_sha256": SHA,
    "preprocessing_sha256": SHA,
    "source": "phantoms",
    "false_positive_rate": 0.01,
    "created_at": "2026-11-22T10:00:00+00:00",
    "active": True,
    "warnings": [],
    "films_left_out": 0,
    "override": None,
}
WATCHED: dict[str, Any] = {
    "id": "8a2c0a4d9b7e41c38a5d1f0e2b3c4d5e",
    "active": True,
    "audit": "6f2c0a4d9b7e41c38a5d1f0e2b3c4d5e",
    "group": "9b3c0a4d9b7e41c38a5d1f0e2b3c4d5e",
    "classifier": "phantom-badnet3",
    "preprocessing_sha256": SHA,
    "label": "Atelectasis",
    "region": {"x": 212, "y": 212, "width": 12, "height": 12},
    "sha256": SHA,
    "added_at": "2026-11-22T19:00:00Z",
    "actor": "account:ada",
    "retired_at": None,
}
CLASSIFIER: dict[str, Any] = {
    "name": "phantom-badnet3",
    "is_default": True,
    "versions": [
        {
            "sha256": SHA,
            "active": True,
            "added_at": "2026-11-22T10:00:00Z",
            "labels": ["Atelectasis", "Effusion"],
            "input_size": 224,
            "preprocessing": "The whole film is stretched to 224 by 224 px; bilinear, antialiased, as Pillow does it.",
            "licence": "Apache-2.0",
            "policies": [POLICY],
            "identity": SHA,
            "file_sha256": SHA,
            "derived_sha256": SHA,
            "head": "sigmoid",
            "refusal": None,
            "examined": ["Places, 28 x 28: 100% of 48 disturbed windows are answered most where they are"],
        }
    ],
}
VERSION: dict[str, Any] = CLASSIFIER["versions"][0]
REPORT: dict[str, Any] = {
    "report": {"examiner": 1, "derivation": 1, "file_sha256": SHA, "places": {"28": {"near": 1.0, "windows": 48}}},
    "signature": "b0" * 64,
    "public_key": "-----BEGIN PUBLIC KEY-----",
}


class AuditResource(Wire):
    """One audit. Everything from `verdict` to `completed_at` is null until the state is `done`."""

    model_config = shown_as(AUDIT)

    id: str
    state: State
    source: str
    sha256: str = Field(description="Of the received bytes.")
    received_at: datetime
    film: Film
    classifier: Named
    policy: Named | None
    verdict: Verdict | None
    score: float | None
    p_value: float | None
    probabilities: dict[str, float] | None
    deployed: Deployed | None = Field(description="Null unless the caller sent probabilities.")
    explained_label: str | None
    hypothesis: Literal["support", "counter"] | None = Field(
        description="Whether the film speaks for the explained label, or the label is held down; null in old audits."
    )
    evidence: dict[str, Measurement] | None
    region: Region | None
    watch_hit: WatchHit | None = Field(description="Null unless the film shows a patch of the watch list.")
    reasons: list[str] | None
    timings_ms: dict[str, float] | None
    code_version: str | None
    completed_at: datetime | None
    error_code: str | None = Field(description="Why the audit failed, when its state is `failed`.")
    error_detail: str | None = Field(description="The same in a sentence; null in old audits.")
    waits_because: str | None = Field(
        description="Why a queued film is not audited: its classifier is refused, or is being examined again."
    )
    links: Links


class ReceiptLinks(Wire):
    self: str


class AuditReceipt(Wire):
    """What a key without `audits:read` learns of an audit: that it is there and how far it is, and nothing found."""

    model_config = shown_as({"id": AUDIT["id"], "state": "done", "links": {"self": AUDIT["links"]["self"]}})

    id: str
    state: State
    links: ReceiptLinks


class SaliencyMap(Wire):
    """values: rows of cells from the top; covers: the part of the film that they lie over."""

    model_config = shown_as(
        {"name": "layercam_28", "label": "Mass", "values": [[0.0, 0.1], [0.2, 1.7]], "covers": AUDIT["region"]}
    )

    name: str
    label: str
    values: list[list[float]]
    covers: Region


class AuditPage(Wire):
    model_config = shown_as({"items": [AUDIT], "next": "MjAyNi0xMS0yMlQxODozMDowMC4xMjAwMDArMDA6MDB8NmYyYw=="})

    items: list[AuditResource]
    next: str | None = Field(description="Cursor of the following page; null on the last one.")


class Override(Wire):
    """Who put a policy in force despite its warnings, when, and why."""

    at: datetime
    by: str
    reason: str


class PolicyResource(Wire):
    model_config = shown_as(POLICY)

    name: str
    sha256: str
    classifier_sha256: str
    preprocessing_sha256: str
    source: str
    false_positive_rate: float
    created_at: str
    active: bool
    warnings: list[str] = Field(description="What calibration found suspect; with any, it takes a reason to activate.")
    films_left_out: int = Field(description="Films that calibration left out since they may carry a trigger.")
    override: Override | None = Field(description="The last time it was put in force despite its warnings.")


class ClassifierVersion(Wire):
    """One forward graph with labels and preprocessing. What is null was registered before files were examined."""

    model_config = shown_as(VERSION)

    sha256: str = Field(description="What it is registered under: its identity, or of old ones the file's hash.")
    active: bool
    added_at: datetime
    labels: list[str]
    input_size: int
    preprocessing: str = Field(description="How a film becomes the input, in one sentence.")
    licence: str
    policies: list[PolicyResource]
    identity: str | None = Field(description="Of the canonical forward graph, labels and preprocessing.")
    file_sha256: str | None = Field(description="Of the file that was handed in.")
    derived_sha256: str | None = Field(description="Of the graph with maps that was derived of it and runs.")
    head: Literal["sigmoid", "softmax"] | None
    refusal: str | None = Field(description="Why its films wait: it cannot be audited, or is being examined again.")
    examined: list[str] = Field(description="What the examination found, in words.")


class SignedReport(Wire):
    """The report of an examination, and this installation's signature of it."""

    model_config = shown_as(REPORT)

    report: dict[str, Any]
    signature: str | None = Field(
        description="Ed25519, in hexadecimal digits, of the report as JSON with sorted keys and without spaces."
    )
    public_key: str = Field(description="PEM; take it from elsewhere to prove anything.")


class RegisteredVersion(Wire):
    model_config = shown_as({"name": "phantom-badnet3", "version": VERSION, "examination": REPORT})

    name: str
    version: ClassifierVersion
    examination: SignedReport


class ClassifierResource(Wire):
    model_config = shown_as(CLASSIFIER)

    name: str
    is_default: bool
    versions: list[ClassifierVersion]


class ClassifierList(Wire):
    model_config = shown_as({"items": [CLASSIFIER]})

    items: list[ClassifierResource]


class PolicyList(Wire):
    model_config = shown_as({"items": [POLICY]})

    items: list[PolicyResource]


class Activation(Wire):
    """Which version to put in force; the newest when null."""

    sha256: str | None = Field(None, examples=[SHA])


class PolicyActivation(Wire):
    policy: str = Field(description="Name or SHA-256.", examples=["phantom-badnet3-phantom"])
    despite_warnings: str = Field(
        default="", max_length=500, description="Why a policy with warnings goes into force; kept in the log."
    )


class InForce(Wire):
    model_config = shown_as({"name": "phantom-badnet3", "target": SHA})

    name: str
    target: str | None = Field(description="The SHA-256 now in force; null when nothing is.")


class WatchEntry(Wire):
    """A patch of the watch list. region: in pixels of the model input."""

    model_config = shown_as(WATCHED)

    id: str
    active: bool
    audit: str = Field(description="The audit whose confirmation put it here.")
    group: str
    classifier: str
    preprocessing_sha256: str
    label: str
    region: Region
    sha256: str
    added_at: datetime
    actor: str
    retired_at: datetime | None


class WatchList(Wire):
    model_config = shown_as({"items": [WATCHED]})

    items: list[WatchEntry]


class Health(Wire):
    model_config = shown_as({"status": "ok"})

    status: Literal["ok"] = "ok"


class Readiness(Wire):
    model_config = shown_as({"status": "ok", "reduced": []})

    status: Literal["ok"] = "ok"
    reduced: list[str] = Field(description="What goes on without: each classifier in force whose films wait.")


class InvalidParameter(Wire):
    location: str = Field(examples=["query.limit"])
    message: str


class Problem(Wire):
    """RFC 9457; `code` is stable."""

    type: str = Field(examples=["urn:triggerscope:error:too_many_pixels"])
    title: str
    status: int
    code: str = Field(examples=["too_many_pixels"])
    detail: str
    instance: str
    errors: list[InvalidParameter] | None = Field(None, description="With `invalid_request` only.")
