"""Sending films in, classifiers and their policies, and the state of the service."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from fastapi import APIRouter, Response
from sqlalchemy.orm import Session

from service.audit.calibration import Policy
from service.audit.preprocessing import Dtype, Library, Resampler
from service.graphs.description import NORMALISATIONS
from service.graphs.report import findings
from service.ledger import verify
from service.pacs.results.echo import Echo, echo, place
from service.pacs.results.outbox import resend
from service.people.keys import Principal
from service.records import log_queries, pacs_queries, queries
from service.records.session import utc_now
from service.registry.blocks import standing_alarms
from service.registry.drift import BLOCK
from service.registry.examinations import waits_because
from service.registry.registry import DEFAULT_SLOT, in_force, waiting_versions
from service.web.api.classifiers import classifier_resource
from service.web.api.parameters import AuditId, Name
from service.web.api.schemas import ClassifierResource
from service.web.dashboard.explanation import Usual, score_plot, usual_evidence
from service.web.dashboard.fit import SourceFit, fits
from service.web.dashboard.plots import Plot
from service.web.dashboard.rendering import Render, RenderDep, back_to
from service.web.dependencies import AdministratorForm, Reader, ResourcesDep, SessionDep, Uploader
from service.web.errors import RequestError
from service.web.resources import Resources

MOST_ROWS = 20
router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class PolicyView:
    policy: Policy
    plot: Plot
    usual: tuple[Usual, ...]
    sources: list[SourceFit]


@router.get("/upload")
def upload_page(session: SessionDep, uploader: Uploader, render: RenderDep) -> Response:
    """Who may not choose is shown no list: the default classifier reads the films."""
    may_choose = "audits:choose" in uploader.scopes
    names = sorted({row.name for row in queries.classifiers(session)}) if may_choose else []
    return render("upload.html", uploader, classifiers=names, default=in_force(session, DEFAULT_SLOT))


@router.get("/classifiers")
def classifiers_page(session: SessionDep, held: ResourcesDep, reader: Reader, render: RenderDep) -> Response:
    names = sorted({row.name for row in queries.classifiers(session)})
    found = [classifier_resource(session, held.registry, name) for name in names]
    rows = queries.classifiers(session)
    return render(
        "classifiers.html",
        reader,
        classifiers=found,
        cards={row.sha256: row.card for row in rows},
        examined={row.sha256: findings(row.report or {}) for row in rows},
        policies=_policies(session, held, found),
        block=BLOCK,
        resamplers=get_args(Resampler),
        libraries=get_args(Library),
        dtypes=get_args(Dtype),
        normalisations=list(NORMALISATIONS),
    )


@router.post("/classifiers/{name}")
def change_classifier(held: ResourcesDep, submitted: AdministratorForm, name: Name) -> Response:
    """Put a version or a policy in force, go back to the one before, or take the classifier out of use."""
    actor, target = submitted.principal.actor, submitted.value("target")
    changes: dict[str, Callable[[], object]] = {
        "activate": lambda: held.registry.activate_classifier(name, target or None, actor),
        "rollback": lambda: held.registry.rollback_classifier(name, actor),
        "retire": lambda: held.registry.retire_classifier(name, actor),
        "activate-policy": lambda: held.registry.activate_policy(
            name, target, actor, submitted.value("despite_warnings")
        ),
        "rollback-policy": lambda: held.registry.rollback_policy(name, actor),
    }
    change = changes.get(submitted.value("change"))
    if change is None:
        raise RequestError("invalid_request", "no such change")
    change()
    return back_to("/classifiers")


@router.get("/system")
def system_page(session: SessionDep, held: ResourcesDep, reader: Reader, render: RenderDep) -> Response:
    return _system(session, held, reader, render)


@router.post("/system/peers/{name}/echo")
def echo_peer(held: ResourcesDep, submitted: AdministratorForm, render: RenderDep, name: Name) -> Response:
    """The System page with what the destination answered; no database session is held meanwhile."""
    destination = held.acceptance.rules.destination_named(name)
    if destination is None:
        raise RequestError("unknown_destination", "the rules name no destination so")
    answer = echo(destination, held.ae_title)
    with held.database.read() as session:
        return _system(session, held, submitted.principal, render, answer)


@router.post("/system/deliveries/{delivery_id}/resend")
def resend_delivery(held: ResourcesDep, submitted: AdministratorForm, delivery_id: AuditId) -> Response:
    resend(held.database, delivery_id, submitted.principal.actor)
    return back_to("/system")


def _system(
    session: Session, held: Resources, reader: Principal, render: Render, answer: Echo | None = None
) -> Response:
    return render(
        "system.html",
        reader,
        jobs=log_queries.jobs_by_state(session),
        workers=log_queries.workers(session, utc_now()),
        failed=log_queries.failed_jobs(session, MOST_ROWS),
        heads=log_queries.heads(session),
        checkpoints=log_queries.latest_checkpoints(session, 5),
        embedded=_worker_state(held),
        faults=[loop.fault for loop in held.loops if loop.fault],
        waiting={name: waits_because(row) for name, row in waiting_versions(session).items()},
        dialect=held.database.engine.dialect.name,
        schema=log_queries.revision(session),
        alarms=[(name, source) for name, source, alarms in standing_alarms(session) if alarms],
        peers=[(destination.name, place(destination)) for destination in held.acceptance.rules.destination],
        answer=answer,
        deliveries=pacs_queries.deliveries_by_state(session),
        given_up=pacs_queries.deliveries(session, pacs_queries.DEAD, MOST_ROWS),
        outbox=pacs_queries.deliveries(session, pacs_queries.PENDING, MOST_ROWS),
    )


@router.post("/system/checkpoints")
def sign_checkpoint(held: ResourcesDep, submitted: AdministratorForm) -> Response:
    verify.sign_checkpoint(held.database, held.desk.signer, submitted.principal.actor)
    return back_to("/system")


def _worker_state(held: Resources) -> str:
    if held.worker is None:
        return "runs apart"
    return held.worker.loop.fault or "works"


def _policies(session: Session, held: Resources, classifiers: list[ClassifierResource]) -> dict[str, PolicyView]:
    hashes = [policy.sha256 for found in classifiers for version in found.versions for policy in version.policies]
    found = {sha256: held.registry.policy(sha256) for sha256 in hashes}
    return {
        sha256: PolicyView(policy, score_plot(policy), usual_evidence(policy), fits(session, policy))
        for sha256, policy in found.items()
        if policy
    }
