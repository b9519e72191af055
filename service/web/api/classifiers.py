"""Classifiers and policies: what is registered, and putting versions in force."""

from fastapi import APIRouter
from sqlalchemy.orm import Session

from service.audit.preprocessing import Preprocessing
from service.graphs.report import findings
from service.records import queries
from service.records.tables import ClassifierRow, PolicyRow
from service.registry.examinations import waits_because
from service.registry.registry import DEFAULT_SLOT, Registry, classifier_slot, in_force, policy_slot
from service.web.api.parameters import Name, Sha256
from service.web.api.schemas import (
    Activation,
    ClassifierList,
    ClassifierResource,
    ClassifierVersion,
    InForce,
    Override,
    PolicyActivation,
    PolicyList,
    PolicyResource,
    SignedReport,
)
from service.web.dependencies import Administrator, Reader, ResourcesDep, SessionDep
from service.web.errors import RequestError, problems
from service.web.resources import Resources
from service.web.small_body import SmallBodyRoute

router = APIRouter(
    prefix="/v1",
    tags=["classifiers"],
    responses=problems("unauthenticated", "forbidden"),
    route_class=SmallBodyRoute,
)
_CHANGES = problems("unknown_classifier", "nothing_to_roll_back")


@router.get("/classifiers")
def list_classifiers(session: SessionDep, held: ResourcesDep, _reader: Reader) -> ClassifierList:
    names = sorted({row.name for row in queries.classifiers(session)})
    return ClassifierList(items=[classifier_resource(session, held.registry, name) for name in names])


@router.get("/classifiers/{name}", responses=problems("unknown_classifier"))
def get_classifier(session: SessionDep, held: ResourcesDep, _reader: Reader, name: Name) -> ClassifierResource:
    return classifier_resource(session, held.registry, name)


@router.get("/classifiers/{name}/versions/{sha256}", responses=problems("unknown_classifier"))
def get_version(
    session: SessionDep, held: ResourcesDep, _reader: Reader, name: Name, sha256: Sha256
) -> ClassifierVersion:
    return version_resource(session, held.registry, _registered(session, name, sha256))


@router.get("/classifiers/{name}/versions/{sha256}/report", responses=problems("unknown_classifier", "not_examined"))
def get_report(session: SessionDep, held: ResourcesDep, _reader: Reader, name: Name, sha256: Sha256) -> SignedReport:
    """What the examination of this version found, with every number, signed by this installation."""
    return signed_report(held, _registered(session, name, sha256))


@router.post("/classifiers/{name}/activate", responses=_CHANGES)
def activate_classifier(held: ResourcesDep, admin: Administrator, name: Name, body: Activation) -> InForce:
    """Put a version in force and make this classifier the default."""
    return InForce(name=name, target=held.registry.activate_classifier(name, body.sha256, admin.actor))


@router.post("/classifiers/{name}/retire", responses=_CHANGES)
def retire_classifier(held: ResourcesDep, admin: Administrator, name: Name) -> InForce:
    held.registry.retire_classifier(name, admin.actor)
    return InForce(name=name, target=None)


@router.post("/classifiers/{name}/rollback", responses=_CHANGES)
def rollback_classifier(held: ResourcesDep, admin: Administrator, name: Name) -> InForce:
    """Return to the version that was in force before."""
    return InForce(name=name, target=held.registry.rollback_classifier(name, admin.actor))


@router.get("/policies", tags=["policies"])
def list_policies(session: SessionDep, held: ResourcesDep, _reader: Reader) -> PolicyList:
    return PolicyList(items=[_policy(session, held.registry, row) for row in queries.policies(session)])


@router.post(
    "/classifiers/{name}/policy/activate",
    tags=["policies"],
    responses=_CHANGES | problems("unknown_policy", "warned_policy"),
)
def activate_policy(held: ResourcesDep, admin: Administrator, name: Name, body: PolicyActivation) -> InForce:
    """Put a policy in force; one with warnings only for a reason, which is kept."""
    target = held.registry.activate_policy(name, body.policy, admin.actor, body.despite_warnings)
    return InForce(name=name, target=target)


@router.post("/classifiers/{name}/policy/rollback", tags=["policies"], responses=_CHANGES)
def rollback_policy(held: ResourcesDep, admin: Administrator, name: Name) -> InForce:
    return InForce(name=name, target=held.registry.rollback_policy(name, admin.actor))


def classifier_resource(session: Session, registry: Registry, name: str) -> ClassifierResource:
    rows = queries.classifiers(session, name)
    if not rows:
        raise RequestError("unknown_classifier", "no classifier of this name is registered")
    return ClassifierResource(
        name=name,
        is_default=in_force(session, DEFAULT_SLOT) == name,
        versions=[version_resource(session, registry, row) for row in rows],
    )


def _registered(session: Session, name: str, sha256: str) -> ClassifierRow:
    row = queries.classifier_known_as(session, sha256)
    if row is None or row.name != name:
        raise RequestError("unknown_classifier", "no version of this name and hash is registered")
    return row


def signed_report(held: Resources, row: ClassifierRow) -> SignedReport:
    if row.report is None:
        raise RequestError("not_examined", waits_because(row) or "it was registered without a report")
    public_key = held.desk.signer.public_pem
    return SignedReport(report=row.report, signature=row.report_signature, public_key=public_key)


def version_resource(session: Session, registry: Registry, row: ClassifierRow) -> ClassifierVersion:
    return ClassifierVersion(
        sha256=row.sha256,
        active=in_force(session, classifier_slot(row.name)) == row.sha256,
        added_at=row.added_at,
        labels=row.card["labels"],
        input_size=row.card["preprocessing"]["size"],
        preprocessing=Preprocessing(**row.card["preprocessing"]).words,
        licence=row.card["licence"],
        policies=[_policy(session, registry, policy) for policy in queries.policies(session, row.sha256)],
        identity=row.identity,
        file_sha256=row.file_sha256,
        derived_sha256=row.derived_sha256,
        head=row.report["graph"]["head"] if row.report else None,
        refusal=waits_because(row),
        examined=[str(finding) for finding in findings(row.report or {})],
    )


def _policy(session: Session, registry: Registry, row: PolicyRow) -> PolicyResource:
    policy, override = registry.policy(row.sha256), queries.override(session, row.sha256)
    return PolicyResource(
        name=row.name,
        sha256=row.sha256,
        classifier_sha256=row.classifier_sha256,
        preprocessing_sha256=row.preprocessing_sha256,
        source=row.source,
        false_positive_rate=row.false_positive_rate,
        created_at=row.created_at,
        active=in_force(session, policy_slot(row.classifier_sha256)) == row.sha256,
        warnings=list(policy.warnings) if policy else [],
        films_left_out=sum(policy.left_out) if policy else 0,
        override=Override(at=override.at, by=override.actor, reason=override.despite_warnings or "")
        if override
        else None,
    )
