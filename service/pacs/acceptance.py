"""Accepting a DICOM film without decoding it: its bytes durable, its job committed, then acknowledged."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import structlog
from sqlalchemy.orm import Session

from service.errors import RadiographError
from service.films.radiograph import Limits
from service.pacs.identity import Pseudonyms, Sender, keep_identity
from service.pacs.instance import Instance, read_instance, require_film
from service.pacs.rules import Routing, Rules, route
from service.queue.intake import Accepted, FilmFacts, QueueFull, Submission, keep_film, queue_job
from service.records import queries
from service.records.session import Database, Unit, utc_now
from service.records.storage import Storage
from service.records.tables import NO_POLICY, NO_RULE
from service.registry.registry import Choice, choose

log = structlog.get_logger()
Also = Callable[[Unit], None]


def nothing(_unit: Unit) -> None:
    """Nothing else belongs to this acceptance."""


@dataclass(frozen=True, slots=True)
class Acceptance:
    database: Database
    storage: Storage
    pseudonyms: Pseudonyms
    rules: Rules
    limits: Limits
    retention: timedelta
    max_queue_depth: int

    def read(self, data: bytes) -> Instance:
        return read_instance(data, self.limits)

    def accept(self, data: bytes, instance: Instance, sender: Sender, also: Also = nothing) -> Accepted:
        """Queue one film; `also` becomes part of the same transaction. Raises RadiographError, QueueFull, OSError.

        A film that cannot be decoded is found out by the worker and ends as a failed audit with the reason.
        """
        require_film(instance)
        routing = route(self.rules, facts_of(instance, sender))
        submission = Submission(data, hashlib.sha256(data).hexdigest(), sender.source, sender.actor)
        with self.database.read() as session:
            choice = _choice(session, routing)
            known = queries.job_for(session, submission.sha256, choice.classifier_sha256, choice.policy_sha256)
            if known is None and queries.queue_depth(session) >= self.max_queue_depth:
                raise QueueFull("too many films are waiting")
        return self._keep(submission, instance, sender, routing, choice, also)

    def refuse(self, data: bytes, sender: Sender, error: RadiographError, also: Also = nothing) -> None:
        """Leave a trace of what could not be accepted, so that nothing disappears silently."""
        digest = hashlib.sha256(data).hexdigest()
        with self.database.write() as unit:
            unit.record(
                "film.refused",
                digest,
                sender.actor,
                code=error.code,
                detail=error.detail,
                source=sender.source,
                bytes=len(data),
            )
            also(unit)
        log.warning("film.refused", channel=sender.channel, code=error.code, detail=error.detail)

    def _keep(
        self,
        submission: Submission,
        instance: Instance,
        sender: Sender,
        routing: Routing,
        choice: Choice,
        also: Also,
    ) -> Accepted:
        self.storage.put_original(submission.sha256, submission.data)
        now = utc_now()
        until = now + self.retention
        rule = routing.rule.name if routing.rule else NO_RULE if routing.unmatched else None
        with self.database.write() as unit:
            keep_film(unit, submission, FilmFacts(instance.width, instance.height, instance.attributes), now, until)
            keep_identity(unit, self.pseudonyms, submission.sha256, instance, sender, until)
            accepted = queue_job(unit, submission, choice, now, rule)
            also(unit)
        # A sweep that ran before this commit may have removed an expired original; none that runs after it will.
        self.storage.put_original(submission.sha256, submission.data)
        return accepted


def facts_of(instance: Instance, sender: Sender) -> dict[str, str]:
    """What routing rules look at."""
    return {
        **instance.attributes,
        "station": instance.station,
        "source": sender.source,
        "calling_ae": sender.calling_ae,
        "called_ae": sender.called_ae,
    }


def _choice(session: Session, routing: Routing) -> Choice:
    """A film that fits no rule is read by the default classifier without a policy: indeterminate."""
    if routing.rule is not None:
        return choose(session, routing.rule.classifier, routing.rule.policy)
    choice = choose(session, None, None)
    return Choice(choice.classifier_name, choice.classifier_sha256, NO_POLICY) if routing.unmatched else choice
