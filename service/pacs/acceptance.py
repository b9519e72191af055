"""Films that come from a PACS: accepted by what their header says, without decoding them."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import structlog
from sqlalchemy.orm import Session

from service.errors import RadiographError
from service.films.radiograph import Limits
from service.pacs.identity import Pseudonyms, Sender, keep_identity, keep_instance
from service.pacs.instance import Instance, read_instance, require_film
from service.pacs.rules import Routing, Rules, route
from service.queue.intake import Accepted, FilmFacts, Intake, Submission
from service.records.session import Database, Unit, utc_now
from service.records.storage import Storage
from service.records.tables import BY_RULE, NO_POLICY, NO_RULE
from service.registry.registry import Choice, choose

log = structlog.get_logger()
Also = Callable[[Unit], None]


def nothing(_unit: Unit) -> None:
    """Nothing else belongs to this acceptance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    intake: Intake
    pseudonyms: Pseudonyms
    rules: Rules
    limits: Limits

    @property
    def database(self) -> Database:
        return self.intake.database

    @property
    def storage(self) -> Storage:
        return self.intake.storage

    def read(self, data: bytes) -> Instance:
        return read_instance(data, self.limits)

    def accept(self, data: bytes, instance: Instance, sender: Sender, also: Also = nothing) -> Accepted:
        """As `Intake.accept`; `also` becomes part of the same transaction. Raises RadiographError too.

        A film that cannot be decoded is found out by the worker and ends as a failed audit with the reason.
        """
        require_film(instance)
        routing = route(self.rules, facts_of(instance, sender))
        digest = hashlib.sha256(data).hexdigest()
        submission = Submission(data, digest, sender.source, sender.actor, rule=_rule_name(routing))

        def facts() -> FilmFacts:
            return FilmFacts(instance.width, instance.height, instance.attributes)

        def identify(unit: Unit, _accepted: Accepted) -> None:
            until = utc_now() + self.intake.retention
            keep_identity(unit, self.pseudonyms, digest, instance, sender, until)
            also(unit)

        return self.intake.accept(submission, partial(_choice, routing), facts, identify)

    def keep_instance(self, submission: Submission, address: str) -> Callable[[Unit, Accepted], None]:
        """What keeps the keyed hashes of a DICOM film's UIDs that does not come from a PACS; of others nothing.

        By them a release finds the film's other files. A header that cannot be read is the decoder's to complain of.
        """
        try:
            instance = self.read(submission.data)
        except RadiographError:
            return lambda _unit, _accepted: None
        sender = Sender("rest", submission.actor, submission.source, address=address)
        return lambda unit, _: keep_instance(unit, self.pseudonyms, submission.sha256, instance, sender)

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


def facts_of(instance: Instance, sender: Sender) -> dict[str, str]:
    """What routing rules look at."""
    return {
        **instance.attributes,
        "station": instance.station,
        "source": sender.source,
        "calling_ae": sender.calling_ae,
        "called_ae": sender.called_ae,
    }


def _rule_name(routing: Routing) -> str | None:
    return routing.rule.name if routing.rule else NO_RULE if routing.unmatched else None


def _choice(routing: Routing, session: Session) -> Choice:
    """A film that fits no rule is read by the default classifier without a policy: indeterminate."""
    if routing.rule is not None:
        return replace(choose(session, routing.rule.classifier, routing.rule.policy), chosen_by=BY_RULE)
    choice = choose(session, None, None)
    return replace(choice, policy_sha256=NO_POLICY, chosen_by=BY_RULE) if routing.unmatched else choice
