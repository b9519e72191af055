"""Routing rules from a TOML file: which films go to which classifier and policy, and which results go where.

The first rule whose conditions all hold wins. A condition is a list of shell patterns, compared without regard to case;
a film that lacks the attribute does not fulfil it.
"""

import tomllib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.errors import TriggerscopeError
from service.names import NAME_PATTERN

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Address = Annotated[str, Field(pattern=r"^https?://")]
AeTitle = Annotated[str, Field(min_length=1, max_length=16)]
Patterns = tuple[str, ...]
Kind = Literal["sr", "sc", "gsps", "json"]
Proof = Literal["none", "read_back", "find", "commitment"]


class RulesError(TriggerscopeError):
    """The rules file cannot be read, or says something that is not understood."""

    code = "unusable_rules"


class Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class When(Table):
    """Conditions; one that is not given always holds."""

    modality: Patterns = ()
    view_position: Patterns = ()
    body_part: Patterns = ()
    station: Patterns = ()
    source: Patterns = ()
    calling_ae: Patterns = ()
    called_ae: Patterns = ()


class Destination(Table):
    """Where results go: a STOW-RS address, a C-STORE peer, or a webhook."""

    name: Name
    stow_url: Address | None = None
    username: str = ""
    password_file: Path | None = None
    host: str = ""
    port: int = Field(default=104, ge=1, le=65535)
    ae_title: AeTitle | None = None
    webhook_url: Address | None = None
    secret_file: Path | None = None
    proof: Proof | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ways = (self.stow_url is not None, bool(self.host and self.ae_title), self.webhook_url is not None)
        if ways.count(True) != 1:
            raise ValueError("a destination has one of stow_url, host and ae_title, or webhook_url")
        if self.webhook_url is not None and self.secret_file is None:
            raise ValueError("webhook_url needs secret_file")
        if self.wanted_proof not in self._possible_proofs:
            raise ValueError(f"proof is one of {', '.join(self._possible_proofs)}")
        return self

    @property
    def wanted_proof(self) -> Proof:
        """What has to show that a result arrived; by STOW-RS it is read back unless the file says otherwise."""
        return self.proof or ("none" if self.stow_url is None else "read_back")

    @property
    def _possible_proofs(self) -> tuple[Proof, ...]:
        if self.webhook_url is not None:
            return ("none",)
        return ("none", "find", "commitment") if self.stow_url is None else ("none", "read_back")

    def takes(self, kind: Kind) -> bool:
        """JSON goes to webhooks, and nothing else does."""
        return (kind == "json") == (self.webhook_url is not None)


class Result(Table):
    """What to send, and where to."""

    kinds: tuple[Kind, ...] = ("sr",)
    destination: Name


class Rule(Table):
    name: Name
    when: When = When()
    classifier: Name | None = None
    policy: Name | None = None
    results: tuple[Result, ...] = ()


class Rules(Table):
    """Without any rule every film goes to the default classifier, and no result leaves."""

    rule: tuple[Rule, ...] = ()
    destination: tuple[Destination, ...] = ()

    @model_validator(mode="after")
    def _names(self) -> Self:
        for kind, names in (("rule", [r.name for r in self.rule]), ("destination", [d.name for d in self.destination])):
            if len(names) != len(set(names)):
                raise ValueError(f"two tables [[{kind}]] have the same name")
        known = {destination.name for destination in self.destination}
        for rule in self.rule:
            if unknown := {result.destination for result in rule.results} - known:
                raise ValueError(f"rule {rule.name}: there is no destination {', '.join(sorted(unknown))}")
            if not all(self._fits(result) for result in rule.results):
                raise ValueError(f"rule {rule.name}: kind json goes to a webhook, and no other kind does")
        return self

    def _fits(self, result: Result) -> bool:
        destination = self.destination_named(result.destination)
        return destination is not None and all(destination.takes(kind) for kind in result.kinds)

    def named(self, name: str | None) -> Rule | None:
        return next((rule for rule in self.rule if rule.name == name), None)

    def destination_named(self, name: str) -> Destination | None:
        return next((destination for destination in self.destination if destination.name == name), None)


@dataclass(frozen=True, slots=True)
class Trial:
    """One rule tried on one film: the condition that did not hold, or None where all did."""

    rule: Rule
    failed: str | None


@dataclass(frozen=True, slots=True)
class Routing:
    """rule: None where there are no rules or none fitted."""

    rule: Rule | None
    trials: tuple[Trial, ...]

    @property
    def unmatched(self) -> bool:
        return self.rule is None and bool(self.trials)


def load_rules(path: Path | None) -> Rules:
    if path is None:
        return Rules()
    try:
        return Rules.model_validate(tomllib.loads(path.read_text()))
    except OSError:
        raise RulesError("the rules file cannot be read") from None
    except tomllib.TOMLDecodeError as error:
        raise RulesError(f"the rules file is not TOML: {error}") from None
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, f['loc'])) or 'file'}: {f['msg']}" for f in error.errors())
        raise RulesError(faults) from None


def route(rules: Rules, facts: dict[str, str]) -> Routing:
    """facts: the names of `When`, each with the film's value; a missing or empty value fulfils no condition."""
    trials: list[Trial] = []
    for rule in rules.rule:
        trials.append(Trial(rule, _failed(rule.when, facts)))
        if trials[-1].failed is None:
            return Routing(rule, tuple(trials))
    return Routing(None, tuple(trials))


def explain(routing: Routing, facts: dict[str, str]) -> str:
    """What would happen to a film, and why, in words."""
    lines = [f"rule {trial.rule.name}: {_reason(trial, facts)}" for trial in routing.trials if trial.failed is not None]
    return "; ".join([_outcome(routing), *lines])


def _outcome(routing: Routing) -> str:
    if routing.rule is None:
        fate = "no rule fits: it would be recorded as indeterminate" if routing.unmatched else "there are no rules"
        return fate if routing.unmatched else f"{fate}: the default classifier reads it, and no result leaves"
    rule = routing.rule
    sent = [f"{', '.join(result.kinds)} to {result.destination}" for result in rule.results]
    classifier = rule.classifier or "the default classifier"
    policy = f" under {rule.policy}" if rule.policy else ""
    return f"rule {rule.name} fits: {classifier}{policy}; results: {'; '.join(sent) or 'none leave'}"


def _reason(trial: Trial, facts: dict[str, str]) -> str:
    name = trial.failed or ""
    return f"{name} is {facts.get(name) or 'missing'}, wanted {' or '.join(getattr(trial.rule.when, name))}"


def _failed(when: When, facts: dict[str, str]) -> str | None:
    for name in When.model_fields:
        patterns: Patterns = getattr(when, name)
        value = facts.get(name, "").casefold()
        if patterns and not (value and any(fnmatchcase(value, pattern.casefold()) for pattern in patterns)):
            return name
    return None
