"""What one running service holds; made once by the lifespan."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from service.desk.explainer import Explainer
from service.ledger.signing import Signer
from service.loops import Loop
from service.pacs.acceptance import Acceptance
from service.people.oidc import Provider
from service.people.rates import Buckets
from service.queue.completions import Completions
from service.queue.uploads import Uploads
from service.queue.worker import Worker
from service.records.session import Database
from service.records.stored_evidence import StoredEvidence
from service.registry.registry import Registry
from service.web.metrics import Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    max_bytes: int
    upload_seconds: float
    max_classifier_bytes: int
    classifier_upload_seconds: float
    wait_seconds: float
    allow_anonymous: bool
    rates: Buckets


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What the auditor's desk goes by: readers per decision, length of a login, the key that signs, the template of
    addresses in the site's own viewer, whether passwords let in, the identity provider, if there is one, and whether
    browsers come by https, whatever the proxy before this service speaks."""

    readers: int
    session_length: timedelta
    signer: Signer
    viewer_url: str
    local_accounts: bool
    provider: Provider | None
    is_https: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    database: Database
    evidence: StoredEvidence
    registry: Registry
    explainer: Explainer
    submissions: Uploads
    acceptance: Acceptance
    ae_title: str
    metrics: Metrics
    completions: Completions
    uploads: asyncio.Semaphore
    http: HttpLimits
    desk: Desk
    hook_secret: bytes | None
    worker: Worker | None
    loops: tuple[Loop, ...]  # that run in this process
