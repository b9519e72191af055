"""What one running service holds; made once by the lifespan."""

import asyncio
import threading
from dataclasses import dataclass

from service.completions import Completions
from service.db.session import Database
from service.intake import Intake
from service.metrics import Metrics
from service.registry import Registry
from service.storage import Storage
from service.worker import Worker


@dataclass(frozen=True, slots=True)
class HttpLimits:
    max_bytes: int
    upload_seconds: float
    wait_seconds: float
    allow_anonymous: bool


@dataclass(frozen=True, slots=True)
class Resources:
    database: Database
    storage: Storage
    registry: Registry
    intake: Intake
    metrics: Metrics
    completions: Completions
    uploads: asyncio.Semaphore
    http: HttpLimits
    worker: Worker | None
    worker_thread: threading.Thread | None
