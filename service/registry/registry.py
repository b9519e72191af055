"""Classifiers and policies: registered by hash, kept by content, put in force and rolled back by appended rows."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.orm import Session

from service.arrays import FloatArray
from service.audit.calibration import Policy, read_policy
from service.audit.classifier import Classifier
from service.audit.preprocessing import Preprocessing
from service.errors import ClassifierError, PolicyError, TriggerscopeError
from service.graphs.description import Description
from service.graphs.protocol import EXAMINER_VERSION
from service.offline.models import policy_files, preferred
from service.records import queries
from service.records.session import Database, Unit, utc_now
from service.records.storage import write_durably
from service.records.tables import (
    BY_RULE,
    IN_FORCE,
    NAMED,
    NO_POLICY,
    ActivationRow,
    ChosenBy,
    ClassifierRow,
    JobRow,
    PolicyRow,
)
from service.registry.examinations import LONGEST_SENTENCE, Examinations, Judged, sha256_of, waits_because

SYSTEM = "system"
DEFAULT_SLOT = "default"
LONGEST_REASON = 500  # characters
log = structlog.get_logger()


class UnknownClassifier(TriggerscopeError):
    code = "unknown_classifier"


class NoActiveClassifier(TriggerscopeError):
    """No classifier was named and none is the default."""

    code = "no_active_classifier"


class UnknownPolicy(TriggerscopeError):
    code = "unknown_policy"


class WarnedPolicy(TriggerscopeError):
    """A policy whose calibration gave warnings, without a reason to put it in force all the same."""

    code = "warned_policy"


class NothingToRollBack(TriggerscopeError):
    """Nothing was in force before what is in force now."""

    code = "nothing_to_roll_back"


class ExaminationBusy(TriggerscopeError):
    """Another file is being examined."""

    code = "too_busy"


@dataclass(frozen=True, slots=True)
class Registered:
    """is_new: whether this very version was not registered before."""

    row: ClassifierRow
    is_new: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """The classifier and policy that one audit is made with."""

    classifier_name: str
    classifier_sha256: str
    policy_sha256: str
    chosen_by: ChosenBy


def classifier_slot(name: str) -> str:
    return f"classifier/{name}"


def policy_slot(classifier_sha256: str) -> str:
    return f"policy/{classifier_sha256}"


def in_force(session: Session, slot: str) -> str | None:
    row = queries.activation_in_force(session, slot)
    return row.target if row else None


def preprocessing(session: Session, classifier_sha256: str) -> Preprocessing:
    """How films become the input of a registered classifier, without loading it."""
    row = queries.classifier(session, classifier_sha256)
    if row is None:
        raise LookupError("an audit names a classifier that is not registered")
    return Preprocessing(**row.card["preprocessing"])


def policies_in_force(session: Session) -> dict[str, str]:
    """The policy in force of each active classifier, by the classifier's name; those without one are left out."""
    names = sorted({row.name for row in queries.classifiers(session)})
    versions = {name: in_force(session, classifier_slot(name)) for name in names}
    found = {name: in_force(session, policy_slot(sha256)) for name, sha256 in versions.items() if sha256}
    return {name: sha256 for name, sha256 in found.items() if sha256}


def waiting_versions(session: Session) -> dict[str, ClassifierRow]:
    """The versions in force whose films wait, by their classifier's name."""
    waiting = [row for row in queries.classifiers(session) if waits_because(row)]
    return {row.name: row for row in waiting if in_force(session, classifier_slot(row.name)) == row.sha256}


class Registry:
    def __init__(self, database: Database, models_dir: Path, examinations: Examinations) -> None:
        self._database = database
        self._models_dir = models_dir
        self._examinations = examinations
        self._store = examinations.store
        self._loaded: dict[str, Classifier] = {}
        self._policies: dict[str, Policy] = {}
        self._loading, self._examining = threading.Lock(), threading.Lock()
        self._store.mkdir(mode=0o700, parents=True, exist_ok=True)

    def close(self) -> None:
        """End what is being examined."""
        self._examinations.close()

    def synchronise(self, default: str = "", *, only_quick: bool = False) -> None:
        """Examine again what another examiner saw or refused, and register what lies in the models folder; what is
        first of its name goes into force.

        only_quick: leave what has to be examined at length, which may take minutes, to a later call.
        """
        self._examine_again(only_quick=only_quick)
        register = partial(self._register_found_classifier, only_quick=only_quick)
        for path in sorted(self._models_dir.glob("*.onnx")):
            self._synchronise_file(path, register, log.error)
        for path in policy_files(self._models_dir):
            self._synchronise_file(path, self._register_found_policy, log.info if only_quick else log.error)
        self._set_default_if_unset(default, only_quick=only_quick)

    @contextmanager
    def examining(self, *, wait: bool) -> Iterator[None]:
        """Around each examination: one at a time, for it takes memory. Raises ExaminationBusy rather than wait."""
        if not self._examining.acquire(blocking=wait):
            raise ExaminationBusy("another file is being examined; try again when that is done")
        try:
            yield
        finally:
            self._examining.release()

    def add_classifier_file(self, path: Path, actor: str, description: Description | None = None) -> Registered:
        """As `add_classifier`, from a file."""
        return self.add_classifier(self._examinations.read(path), actor, description)

    def add_classifier(self, data: bytes, actor: str, description: Description | None = None) -> Registered:
        """Examine a file and register what was derived of it; the version that it already is, where it is one.

        description: where the file does not say labels and preprocessing itself. Why a file is refused is recorded.
        Raises ClassifierError.
        """
        with self._database.read() as session:
            known = queries.classifiers(session)
            current = {row.name: in_force(session, classifier_slot(row.name)) for row in known}
            beside = {row.name: row for row in known if row.sha256 == current[row.name]}
        try:
            found = self._examinations.examine(data, description, beside)
        except ClassifierError as error:
            self._record_refusal(sha256_of(data), error.detail[:LONGEST_SENTENCE], actor)
            raise
        with self._database.write() as unit:
            row = queries.classifier_known_as(unit.session, found.row.sha256)
            if row is None:
                found.row.actor = actor
                unit.session.add(found.row)
                unit.session.flush()
                unit.record("classifier.added", found.row.sha256, actor, **found.recorded)
                return Registered(found.row, is_new=True)
        if waits_because(row):  # what was handed in is sound: perhaps what is kept was not
            self._examinations.restore(row, data)
            row = self._examined_again(row)
        return Registered(row, is_new=False)

    def _record_refusal(self, file_sha256: str, reason: str, actor: str) -> None:
        """Once for each reason: a file that stays in the models folder is refused at every start."""
        with self._database.write() as unit:
            told = [event.payload for event in queries.events_about(unit.session, file_sha256)]
            if not told or told[-1].get("reason") != reason:
                unit.record("classifier.upload_refused", file_sha256, actor, reason=reason)

    def add_policy(self, path: Path, actor: str) -> PolicyRow:
        data = _read(path, PolicyError)
        policy = read_policy(data)
        row = _policy_row(policy, actor)
        with self._database.write() as unit:
            classifier = queries.classifier_known_as(unit.session, policy.classifier_sha256)
            if classifier is None:
                raise PolicyError("the policy belongs to a classifier that is not registered")
            row.classifier_sha256 = classifier.sha256
            _keep(self._policy_path(policy.sha256), data)
            if queries.insert_unless_present(unit.session, row):
                unit.record("policy.added", policy.sha256, actor, name=policy.name)
        return row

    def activate_classifier(self, name: str, sha256: str | None, actor: str) -> str:
        """Put a version of a classifier in force (the newest, unless told) and make it the default."""
        with self._database.write() as unit:
            versions = queries.classifiers(unit.session, name)
            chosen = next((row for row in versions if sha256 in (None, row.sha256)), None)
            if chosen is None:
                raise UnknownClassifier("no classifier of this name and hash is registered")
            if sentence := waits_because(chosen):
                raise ClassifierError(sentence)
            _set(unit, classifier_slot(name), chosen.sha256, "classifier.activated", actor)
            if in_force(unit.session, DEFAULT_SLOT) != name:
                _set(unit, DEFAULT_SLOT, name, "classifier.made_default", actor)
            return chosen.sha256

    def retire_classifier(self, name: str, actor: str) -> None:
        """Take a classifier out of use; its audits stay."""
        with self._database.write() as unit:
            if in_force(unit.session, classifier_slot(name)) is None:
                raise UnknownClassifier("no classifier of this name is active")
            _set(unit, classifier_slot(name), None, "classifier.retired", actor)
            if in_force(unit.session, DEFAULT_SLOT) == name:
                _set(unit, DEFAULT_SLOT, None, "classifier.default_cleared", actor)

    def rollback_classifier(self, name: str, actor: str) -> str | None:
        return self._rollback(classifier_slot(name), "classifier.rolled_back", actor)

    def activate_policy(self, classifier_name: str, policy: str, actor: str, despite_warnings: str = "") -> str:
        """Put a policy, by name or hash, in force for the version of a classifier that is in force.

        despite_warnings: why a policy with warnings goes into force all the same; it is kept with the activation and
        in the log. Raises WarnedPolicy where it is needed and missing.
        """
        reason = despite_warnings.strip()[:LONGEST_REASON]
        with self._database.write() as unit:
            classifier_sha256 = _active_version(unit.session, classifier_name)
            sha256 = _find_policy(unit.session, classifier_sha256, policy)
            if not self._warnings(sha256):
                reason = ""
            elif not reason:
                raise WarnedPolicy(
                    "the policy has warnings: say why it goes into force despite them, or calibrate anew"
                )
            given = {"despite_warnings": reason} if reason else {}
            _set(unit, policy_slot(classifier_sha256), sha256, "policy.activated", actor, **given)
            return sha256

    def rollback_policy(self, classifier_name: str, actor: str) -> str | None:
        with self._database.read() as session:
            slot = policy_slot(_active_version(session, classifier_name))
        return self._rollback(slot, "policy.rolled_back", actor)

    def classifier(self, sha256: str) -> Classifier:
        """The loaded classifier, shared by all threads."""
        with self._loading:
            if sha256 not in self._loaded:
                self._loaded[sha256] = self._load(sha256)
            return self._loaded[sha256]

    def policy(self, sha256: str) -> Policy | None:
        if sha256 == NO_POLICY:
            return None
        with self._loading:
            if sha256 not in self._policies:
                self._policies[sha256] = self._read_unchanged_policy(sha256)
            return self._policies[sha256]

    def policy_file(self, sha256: str) -> bytes:
        """A registered policy as the file that was added."""
        return _read(self._policy_path(sha256), PolicyError)

    def _warnings(self, sha256: str) -> tuple[str, ...]:
        policy = self.policy(sha256)
        return policy.warnings if policy else ()

    def _read_unchanged_policy(self, sha256: str) -> Policy:
        policy = read_policy(_read(self._policy_path(sha256), PolicyError))
        if policy.sha256 != sha256:
            raise PolicyError("the kept file is not the one that was registered")
        return policy

    def _synchronise_file(self, path: Path, register: Callable[[Path], None], say: Callable[..., object]) -> None:
        try:
            register(path)
        except (ClassifierError, PolicyError) as error:
            say("models.file_refused", file=path.name, code=error.code, detail=error.detail)

    def _register_found_classifier(self, path: Path, *, only_quick: bool) -> None:
        data = self._examinations.read(path)
        row = self._known_classifier(data)
        if row is None and only_quick and not self._examinations.is_quick(sha256_of(data)):
            return
        if row is None:
            with self.examining(wait=True):
                row = self.add_classifier(data, SYSTEM).row
        slot = classifier_slot(row.name)
        with self._database.write() as unit:
            current = queries.activation_in_force(unit.session, slot)
            if current is None and not waits_because(row):
                _set(unit, slot, row.sha256, "classifier.activated", SYSTEM)
            elif current is not None and current.target != row.sha256:
                log.warning("models.version_not_active", classifier=row.name, sha256=row.sha256)

    def _known_classifier(self, data: bytes) -> ClassifierRow | None:
        """The row of a file that was registered before: it is loaded when it is first used, not at each start."""
        with self._database.read() as session:
            row = queries.classifier_known_as(session, sha256_of(data))
            return row if row and self._examinations.has_file(row.sha256) else None

    def _examine_again(self, *, only_quick: bool) -> None:
        """What another examiner registered is derived anew: with the same maps it goes on as it was; with other maps
        its policy goes out of force; where it is refused now, its films wait. What was refused is tried again."""
        with self._database.read() as session:
            waiting = [row for row in queries.classifiers(session) if waits_because(row)]
            waiting.sort(key=lambda row: in_force(session, classifier_slot(row.name)) != row.sha256)
        for row in waiting:
            if not only_quick or self._examinations.is_quick(row.file_sha256 or row.sha256):
                with self.examining(wait=True):
                    self._examined_again(row)

    def _examined_again(self, row: ClassifierRow) -> ClassifierRow:
        with self._database.read() as session:
            if not waits_because(now := queries.registered_classifier(session, row.sha256)):
                return now  # another process was quicker
            policy = in_force(session, policy_slot(row.sha256))
        judged = self._examinations.examine_again(row, self._receivers(policy))
        with self._database.write() as unit:
            kept = queries.registered_classifier(unit.session, row.sha256)
            self._take(unit, kept, judged)
        return kept

    def _receivers(self, policy_sha256: str | None) -> FloatArray | None:
        try:
            policy = self.policy(policy_sha256) if policy_sha256 else None
        except PolicyError:
            return None
        return policy.reference.receivers if policy else None

    def _take(self, unit: Unit, row: ClassifierRow, judged: Judged) -> None:
        before, row.examiner, row.refusal = row.refusal, EXAMINER_VERSION, judged.refusal
        if judged.refusal:
            log.error("classifier.refused", classifier=row.name, sha256=row.sha256, detail=judged.refusal)
            if judged.refusal != before:
                unit.record("classifier.refused", row.sha256, SYSTEM, name=row.name, reason=judged.refusal)
            return
        for name, value in judged.values.items():
            setattr(row, name, value)
        unit.record("classifier.examined_again", row.sha256, SYSTEM, **judged.recorded)
        slot = policy_slot(row.sha256)
        if judged.other_maps and in_force(unit.session, slot):
            log.error("policy.out_of_force", classifier=row.name, detail=judged.other_maps)
            _set(unit, slot, None, "policy.out_of_force", SYSTEM, reason=judged.other_maps)

    def _register_found_policy(self, path: Path) -> None:
        row = self.add_policy(path, SYSTEM)
        slot = policy_slot(row.classifier_sha256)
        with self._database.write() as unit:
            if queries.activation_in_force(unit.session, slot) is not None:
                return
            if self._warnings(row.sha256):
                log.warning("models.policy_with_warnings_not_active", policy=row.name, sha256=row.sha256)
            else:
                _set(unit, slot, row.sha256, "policy.activated", SYSTEM)

    def _set_default_if_unset(self, wanted: str, *, only_quick: bool) -> None:
        with self._database.write() as unit:
            if queries.activation_in_force(unit.session, DEFAULT_SLOT) is not None and not wanted:
                return
            active = [row.name for row in queries.classifiers(unit.session) if _is_active(unit.session, row.name)]
            if only_quick and wanted and wanted not in active:  # it may yet be examined
                return
            name = preferred(active, wanted)
            if name and name != in_force(unit.session, DEFAULT_SLOT):
                _set(unit, DEFAULT_SLOT, name, "classifier.made_default", SYSTEM)

    def _rollback(self, slot: str, kind: str, actor: str) -> str | None:
        with self._database.write() as unit:
            current = queries.activation_in_force(unit.session, slot)
            if current is None or current.previous_id is None:
                raise NothingToRollBack("nothing was in force before")
            before = queries.activation(unit.session, current.previous_id)
            target, previous_id = (before.target, before.previous_id) if before else (None, None)
            _append(unit, slot, target, previous_id, kind, actor)
            return target

    def _load(self, sha256: str) -> Classifier:
        with self._database.read() as session:
            row = queries.classifier(session, sha256)
        if row is None:
            raise UnknownClassifier("no classifier of this hash is registered")
        if sentence := waits_because(row):
            raise ClassifierError(sentence)
        return self._examinations.load(row)

    def _policy_path(self, sha256: str) -> Path:
        return self._store / f"{sha256}.policy.json"


def choose(session: Session, classifier: str | None, policy: str | None) -> Choice:
    """The classifier and policy for one audit: as asked, else the default and the policy in force for it.

    Whoever names exactly what is in force has chosen nothing. A policy's name means the one in force where that is its
    name, else the newest.
    """
    default = in_force(session, DEFAULT_SLOT)
    name = classifier or default
    if name is None:
        raise NoActiveClassifier("no classifier is active")
    sha256 = _active_version(session, name)
    current = in_force(session, policy_slot(sha256)) or NO_POLICY
    chosen = _named_policy(session, sha256, policy, current) if policy else current
    return Choice(name, sha256, chosen, IN_FORCE if (name, chosen) == (default, current) else NAMED)


def counts_towards_release(session: Session, job: JobRow) -> bool:
    """Whether a job's classifier is the version in force and its policy the one in force for it, or a routing rule's.

    What somebody named counts for nothing until the same film comes without a name. Of a job from before `chosen_by`
    was kept it counts only as the default classifier's, since its classifier may have been named.
    """
    if in_force(session, classifier_slot(job.classifier_name)) != job.classifier_sha256:
        return False
    if job.chosen_by == BY_RULE or (job.chosen_by is None and job.rule is not None):
        return True
    if (in_force(session, policy_slot(job.classifier_sha256)) or NO_POLICY) != job.policy_sha256:
        return False
    return job.chosen_by == IN_FORCE or (
        job.chosen_by is None and job.classifier_name == in_force(session, DEFAULT_SLOT)
    )


def _read(path: Path, error: type[TriggerscopeError]) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise error("the file cannot be read") from None


def _keep(kept: Path, data: bytes) -> None:
    if not kept.exists():
        write_durably(kept, data)


def _active_version(session: Session, name: str) -> str:
    sha256 = in_force(session, classifier_slot(name))
    if sha256 is None:
        raise UnknownClassifier("no classifier of this name is active")
    return sha256


def _is_active(session: Session, name: str) -> bool:
    return in_force(session, classifier_slot(name)) is not None


def _find_policy(session: Session, classifier_sha256: str, policy: str) -> str:
    rows: Sequence[PolicyRow] = queries.policies(session, classifier_sha256)
    for row in rows:
        if policy in (row.name, row.sha256):
            return row.sha256
    raise UnknownPolicy("no policy of this name or hash is registered for this classifier")


def _named_policy(session: Session, classifier_sha256: str, policy: str, current: str) -> str:
    row = queries.policy(session, current)
    return current if row is not None and row.name == policy else _find_policy(session, classifier_sha256, policy)


def _set(unit: Unit, slot: str, target: str | None, kind: str, actor: str, **more: str) -> None:
    current = queries.activation_in_force(unit.session, slot)
    _append(unit, slot, target, current.id if current else None, kind, actor, **more)


def _append(
    unit: Unit, slot: str, target: str | None, previous_id: int | None, kind: str, actor: str, **more: str
) -> None:
    """more: what the event says beside; a reason for a policy with warnings stays with its row too."""
    row = ActivationRow(slot=slot, target=target, previous_id=previous_id, at=utc_now(), actor=actor)
    row.despite_warnings = more.get("despite_warnings")
    unit.session.add(row)
    unit.session.flush()
    unit.record(kind, slot, actor, target=target, **more)


def _policy_row(policy: Policy, actor: str) -> PolicyRow:
    values: dict[str, Any] = {
        name: getattr(policy, name)
        for name in ("sha256", "name", "classifier_sha256", "preprocessing_sha256", "source", "false_positive_rate")
    }
    return PolicyRow(**values, created_at=str(policy.created_at), added_at=utc_now(), actor=actor)
