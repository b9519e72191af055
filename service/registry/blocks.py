"""Keeps the blocks that drift.py tests: each audit under a policy in force is taken into its source's block once."""

from dataclasses import asdict

import structlog
from sqlalchemy.orm import Session

from service.audit.calibration import Policy
from service.errors import PolicyError
from service.records import drift_queries
from service.records.session import Database, Unit
from service.records.tables import DriftBlockRow
from service.registry.drift import BLOCK, compare
from service.registry.registry import Registry, policies_in_force

ACTOR = "drift"
BATCH = 500
log = structlog.get_logger()


def watch(database: Database, registry: Registry) -> None:
    """Take in what was audited since the last time, and test the blocks that have become full."""
    with database.read() as session:
        waiting = [
            sha256 for sha256 in policies_in_force(session).values() if drift_queries.has_audits_behind(session, sha256)
        ]
    for sha256 in waiting:
        try:
            policy = registry.policy(sha256)
        except PolicyError as error:
            log.error("drift.policy_unreadable", policy=sha256, code=error.code)
            continue
        while policy is not None and _take_in(database, policy) == BATCH:
            pass


def standing_alarms(session: Session) -> list[tuple[str, str, list[str]]]:
    """Classifier, source and the alarms of its latest full block, for each policy in force."""
    return [
        (name, source, block.alarms)
        for name, sha256 in policies_in_force(session).items()
        for source, block in sorted(drift_queries.latest_full_blocks(session, sha256).items())
    ]


def _take_in(database: Database, policy: Policy) -> int:
    with database.write() as unit:
        progress = drift_queries.progress_for_update(unit.session, policy.sha256)
        found = drift_queries.audits_behind(unit.session, progress, BATCH)
        blocks = drift_queries.latest_blocks(unit.session, policy.sha256)
        for audit in found:
            progress.after_at, progress.after_id = audit.completed_at, audit.id
            if "likeness" in audit.evidence:
                block = _open_block(unit, blocks, policy, audit)
                _add(block, audit)
                if len(block.scores) == BLOCK:
                    _close(unit, block, policy)
        return len(found)


def _open_block(
    unit: Unit, blocks: dict[str, DriftBlockRow], policy: Policy, audit: drift_queries.Audited
) -> DriftBlockRow:
    last = blocks.get(audit.source)
    if last is not None and last.p_values is None:
        return last
    blocks[audit.source] = block = DriftBlockRow(
        policy_sha256=policy.sha256,
        source=audit.source,
        number=last.number + 1 if last else 1,
        from_at=audit.completed_at,
        to_at=audit.completed_at,
        scores=[],
        distances=[],
        alarms=[],
    )
    unit.session.add(block)
    return block


def _add(block: DriftBlockRow, audit: drift_queries.Audited) -> None:
    block.scores = [*block.scores, audit.score]
    block.distances = [*block.distances, float(audit.evidence["likeness"]["value"])]
    block.to_at = audit.completed_at


def _close(unit: Unit, block: DriftBlockRow, policy: Policy) -> None:
    """Test a full block; that a source has begun to alarm is an event, that it goes on is not."""
    fit = compare(block.scores, block.distances, policy)
    block.p_values, block.alarms = {str(name): p for name, p in fit.p_values.items()}, list(fit.alarms)
    before = drift_queries.block(unit.session, policy.sha256, block.source, block.number - 1)
    if fit.alarms and not (before and before.alarms):
        found = asdict(fit) | {"alarms": block.alarms, "source": block.source, "block": block.number}
        unit.record("policy.no_longer_fits", policy.sha256, ACTOR, **found)
        log.warning("policy.no_longer_fits", policy=policy.name, source=block.source, alarms=fit.alarms)
