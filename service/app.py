"""create_app: the HTTP service, its worker and what they hold, from settings."""

import asyncio
import math
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import NamedTuple
from urllib.parse import urlsplit

import structlog
from fastapi import FastAPI

from service import __version__
from service.desk.explainer import Explainer
from service.films.radiograph import Decoder, Limits, Radiograph
from service.graphs.examiner import ExaminationStopped, Examiner
from service.graphs.protocol import ExaminationLimits
from service.ledger.signing import Signer
from service.loops import Loop
from service.pacs.acceptance import Acceptance
from service.pacs.dicomweb import DicomwebWatcher
from service.pacs.dimse import Port, tls_context
from service.pacs.identity import open_pseudonyms
from service.pacs.orthanc import OrthancWatcher
from service.pacs.peers import parse_peers
from service.pacs.results.outbox import Outbox
from service.pacs.results.webhook_signature import read_secret
from service.pacs.rules import load_rules
from service.pacs.sources import OrthancSource, Sources, SourcesError, load_sources, open_client
from service.pacs.watching import keep_watching
from service.people import oidc
from service.people.oidc import Provider
from service.people.rates import Buckets
from service.people.roles import parse_roles
from service.queue.completions import Completions
from service.queue.intake import Intake
from service.queue.record import Outcome
from service.queue.uploads import DecodedFilms, Uploads
from service.queue.worker import Pace, Worker
from service.records import queries
from service.records.session import Database
from service.records.storage import Storage
from service.records.stored_evidence import StoredEvidence
from service.registry.blocks import standing_alarms
from service.registry.examinations import Examinations
from service.registry.registry import Registry
from service.settings import Settings
from service.web import errors, stow
from service.web.api import (
    audits,
    classifiers,
    docs,
    health,
    hooks,
    pictures,
    registration,
    releases,
    submissions,
    watch_list,
)
from service.web.dashboard import pages
from service.web.metrics import CalibrationAlert, Metrics
from service.web.middleware import Admission, Envelope
from service.web.resources import Desk, HttpLimits, Resources

Decode = Callable[[bytes], Radiograph]
ROUTERS = (
    submissions.router, audits.router, pictures.router, releases.router, classifiers.router, registration.router,
    watch_list.router, health.router, hooks.router, docs.router, stow.router, *pages.ROUTERS,
)  # fmt: skip
EXAMINATION_PAUSE_SECONDS = 5.0  # before what failed of the examinations after a start is tried again
log = structlog.get_logger()


def create_app(settings: Settings) -> FastAPI:
    app = FastAPI(
        title="Triggerscope",
        version=__version__,
        summary="Audits chest-radiograph classifiers for backdoors while they run.",
        lifespan=partial(lifespan, settings),
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,  # what generated clients call the operation
    )
    app.state.resources = None
    app.state.metrics = Metrics(
        lambda: _queue_depth(app),
        lambda: _mismatches(app),
        lambda: _calibration_alerts(app),
        lambda: _loops(app),
    )
    app.add_middleware(Admission, most=settings.max_requests)
    app.add_middleware(Envelope, metrics=app.state.metrics)
    errors.install(app)
    for router in ROUTERS:
        app.include_router(router)
    docs.mount_assets(app)
    docs.describe_problems(app)
    pages.install(app)
    return app


@asynccontextmanager
async def lifespan(settings: Settings, app: FastAPI) -> AsyncIterator[None]:
    if settings.allow_anonymous:
        log.warning("service.anonymous", note="anyone on this machine may submit and read: for trying out only")
    with open_database(settings) as database:
        completions = Completions(asyncio.get_running_loop())
        with hold_resources(settings, database, app.state.metrics, completions) as held:
            app.state.resources = held
            log.info("service.started", version=__version__)
            yield
            app.state.resources = None


@contextmanager
def open_database(settings: Settings) -> Iterator[Database]:
    """SQLite is brought up to date; another database only when `auto_upgrade` says so."""
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = Database(settings.resolved_database_url)
    try:
        if database.is_sqlite or settings.auto_upgrade:
            database.upgrade()
        database.require_current_schema()
        yield database
    finally:
        database.close()


class Workplace(NamedTuple):
    """A worker, and what lives as long as it does."""

    worker: Worker
    storage: Storage
    decode: Decode
    decoded: DecodedFilms
    outbox: Outbox


@contextmanager
def open_worker(
    settings: Settings, database: Database, registry: Registry, on_outcome: Callable[[Outcome], None]
) -> Iterator[Workplace]:
    """A worker and what it shares with an intake in the same process."""
    storage, decoded = Storage(settings.data_dir), DecodedFilms()
    with Decoder(settings.decoders) as decoder:
        decode = partial(decoder.decode, limits=limits(settings))
        pace = Pace(
            threads=settings.workers,
            lease_seconds=settings.lease_seconds,
            max_attempts=settings.max_attempts,
            poll_seconds=settings.poll_seconds,
            sweep_seconds=settings.sweep_seconds,
        )
        outbox = Outbox(database, storage, load_rules(settings.rules_file), settings.dimse_ae_title)
        worker = Worker(
            database=database,
            storage=storage,
            registry=registry,
            decode=decode,
            pace=pace,
            decoded=decoded,
            on_outcome=on_outcome,
            deliveries=outbox.plan,
        )
        with outbox.running():
            yield Workplace(worker, storage, decode, decoded, outbox)


def open_intake(settings: Settings, database: Database) -> Intake:
    """The one way in."""
    return Intake(
        database=database,
        storage=Storage(settings.data_dir),
        retention=timedelta(hours=settings.original_retention_hours),
        max_queue_depth=settings.max_queue_depth,
    )


def open_uploads(settings: Settings, database: Database, decode: Decode, decoded: DecodedFilms) -> Uploads:
    """How films come in by REST."""
    return Uploads(
        intake=open_intake(settings, database),
        decode=decode,
        decoded=decoded,
        tolerance=settings.probability_tolerance,
    )


def open_acceptance(settings: Settings, database: Database) -> Acceptance:
    """How films come in from a PACS."""
    return Acceptance(
        intake=open_intake(settings, database),
        pseudonyms=open_pseudonyms(settings.data_dir / "identity.key"),
        rules=load_rules(settings.rules_file),
        limits=limits(settings),
    )


def dimse_port(settings: Settings) -> Port:
    tls = None
    if settings.dimse_tls_certificate and settings.dimse_tls_key:
        tls = tls_context(settings.dimse_tls_certificate, settings.dimse_tls_key, settings.dimse_tls_client_ca)
    return Port(
        host=settings.dimse_host,
        port=settings.dimse_port,
        ae_title=settings.dimse_ae_title,
        peers=parse_peers(settings.dimse_peers),
        max_associations=settings.dimse_max_associations,
        max_bytes=settings.max_bytes,
        tls=tls,
    )


def watched_sources(settings: Settings) -> Sources:
    """Those of the file, and the one Orthanc that settings name. Raises SourcesError."""
    sources = load_sources(settings.sources_file) if settings.sources_file else Sources()
    if settings.orthanc_url:
        orthanc = OrthancSource(
            name="orthanc",
            url=settings.orthanc_url,
            username=settings.orthanc_username,
            password_file=settings.orthanc_password_file,
            seconds=settings.watch_seconds,
        )
        sources = Sources(orthanc=(orthanc, *sources.orthanc), dicomweb=sources.dicomweb)
    if not sources.orthanc and not sources.dicomweb:
        raise SourcesError("nothing to watch: set orthanc_url or sources_file")
    return sources


def watch_sources(sources: Sources, acceptance: Acceptance, stop: threading.Event) -> None:
    """Each source in a thread of its own, until `stop`."""
    with ExitStack() as clients, ThreadPoolExecutor(len(sources.orthanc) + len(sources.dicomweb)) as pool:
        polls: list[tuple[str, Callable[[], bool], float]] = []
        for orthanc in sources.orthanc:
            client = clients.enter_context(open_client(orthanc))
            polls.append((orthanc.name, OrthancWatcher(client, acceptance, orthanc.name).poll, orthanc.seconds))
        for archive in sources.dicomweb:
            client = clients.enter_context(open_client(archive))
            polls.append((archive.name, DicomwebWatcher(archive, client, acceptance).poll, archive.seconds))
        running = [
            pool.submit(keep_watching, name, poll, acceptance.database, stop, seconds) for name, poll, seconds in polls
        ]
        try:
            for future in as_completed(running):
                future.result()
        finally:
            stop.set()


def open_registry(settings: Settings, database: Database) -> Registry:
    examinations = Examinations(
        settings.data_dir / "classifiers", Examiner(examination_limits(settings)), Signer.open(settings.data_dir).sign
    )
    return Registry(database, settings.models_dir, examinations)


def examination_limits(settings: Settings) -> ExaminationLimits:
    return ExaminationLimits(
        max_bytes=settings.max_classifier_bytes,
        memory_bytes=settings.examination_memory_bytes,
        seconds=settings.examination_seconds,
    )


def limits(settings: Settings) -> Limits:
    return Limits(
        max_bytes=settings.max_bytes,
        max_pixels=settings.max_pixels,
        decode_memory_bytes=settings.decode_memory_bytes,
        decode_seconds=settings.decode_seconds,
    )


@contextmanager
def hold_resources(
    settings: Settings, database: Database, metrics: Metrics, completions: Completions
) -> Iterator[Resources]:
    registry = open_registry(settings, database)
    registry.synchronise(settings.default_classifier, only_quick=True)

    def on_outcome(outcome: Outcome) -> None:
        metrics.count(outcome)
        completions.announce(outcome.job_id)

    with open_worker(settings, database, registry, on_outcome) as (worker, storage, decode, decoded, outbox):
        embedded = worker if settings.embedded_worker else None
        evidence = StoredEvidence(database, storage)
        with running(embedded), examining(registry, settings.default_classifier) as examinations:
            yield Resources(
                database=database,
                evidence=evidence,
                registry=registry,
                explainer=Explainer(evidence, registry),
                submissions=open_uploads(settings, database, decode, decoded),
                acceptance=open_acceptance(settings, database),
                ae_title=settings.dimse_ae_title,
                metrics=metrics,
                completions=completions,
                uploads=asyncio.Semaphore(settings.max_uploads),
                http=http_limits(settings),
                desk=open_desk(settings),
                hook_secret=read_secret(settings.hook_secret_file) if settings.hook_secret_file else None,
                worker=embedded,
                loops=(outbox.loop, examinations, *(embedded.loops if embedded else ())),
            )


def open_desk(settings: Settings) -> Desk:
    return Desk(
        readers=settings.review_readers,
        session_length=timedelta(hours=settings.session_hours),
        signer=Signer.open(settings.data_dir),
        viewer_url=settings.viewer_url,
        local_accounts=settings.local_accounts,
        provider=open_provider(settings),
        is_https=urlsplit(settings.public_url).scheme == "https",
    )


def open_provider(settings: Settings) -> Provider | None:
    """The identity provider that people may log in with."""
    if not settings.oidc_issuer:
        return None
    secret = settings.oidc_client_secret_file
    client = oidc.Client(
        issuer=settings.oidc_issuer,
        client_id=settings.oidc_client_id,
        secret=secret.read_text().strip() if secret else "",
        redirect_uri=f"{settings.public_url.rstrip('/')}/login/sso/return",
        scopes=settings.oidc_scopes,
        role_claim=settings.oidc_role_claim,
        roles=parse_roles(settings.oidc_roles),
        name_claim=settings.oidc_name_claim,
    )
    return Provider(client)


def http_limits(settings: Settings) -> HttpLimits:
    return HttpLimits(
        max_bytes=settings.max_bytes,
        upload_seconds=settings.upload_seconds,
        max_classifier_bytes=settings.max_classifier_bytes,
        classifier_upload_seconds=settings.upload_seconds * max(1, settings.max_classifier_bytes / settings.max_bytes),
        wait_seconds=settings.wait_seconds,
        allow_anonymous=settings.allow_anonymous,
        rates=Buckets(settings.key_requests_per_second, settings.key_burst),
    )


@contextmanager
def running(worker: Worker | None) -> Iterator[None]:
    """Runs the worker in a thread of its own; stops it, and waits for it, at the end."""
    if worker is None:
        yield
        return
    thread = threading.Thread(target=worker.run, name="worker")
    thread.start()
    try:
        yield
    finally:
        worker.stop()
        thread.join()


@contextmanager
def examining(registry: Registry, default: str) -> Iterator[Loop]:
    """Examines what a start has left, in a thread of its own that ends when it is through; at the end of the block what
    is being examined is ended."""
    loop, stop = Loop("examinations", stuck_seconds=math.inf), threading.Event()

    def turn() -> bool:
        with suppress(ExaminationStopped):
            registry.synchronise(default)
        stop.set()
        return False

    thread = threading.Thread(target=loop.run, args=(turn, stop, EXAMINATION_PAUSE_SECONDS), name="examinations")
    thread.start()
    try:
        yield loop
    finally:
        registry.close()
        stop.set()
        thread.join()


def end_examinations(app: FastAPI) -> None:
    """For a service that is about to stop: an open request that waits for an examination does not hold it up."""
    held = app.state.resources
    if isinstance(held, Resources):
        held.registry.close()


def _queue_depth(app: FastAPI) -> int:
    held = app.state.resources
    if not isinstance(held, Resources):
        return 0
    with held.database.read() as session:
        return queries.queue_depth(session)


def _mismatches(app: FastAPI) -> dict[str, int]:
    held = app.state.resources
    if not isinstance(held, Resources):
        return {}
    with held.database.read() as session:
        return queries.mismatch_counts(session)


def _loops(app: FastAPI) -> tuple[Loop, ...]:
    held = app.state.resources
    return held.loops if isinstance(held, Resources) else ()


def _calibration_alerts(app: FastAPI) -> list[CalibrationAlert]:
    held = app.state.resources
    if not isinstance(held, Resources):
        return []
    with held.database.read() as session:
        return [(name, source, bool(alarms)) for name, source, alarms in standing_alarms(session)]
