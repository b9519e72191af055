"""Classifiers and policies: registered by hash, kept by content, put in force and rolled back by appended rows."""

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.orm import Session

from service.audit.calibration import Policy, read_policy
from service.audit.classifier import Classifier
from service.audit.preprocessing import Preprocessing
from service.errors import ClassifierError, PolicyError, TriggerscopeError
from service.offline.models import policy_files, preferred
from service.records import queries
from service.records.session import Database, Unit, utc_now
from service.records.storage import write_durably
from service.records.tables import NO_POLICY, ActivationRow, ClassifierRow, PolicyRow

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


@dataclass(frozen=True, slots=True)
class Choice:
    """The classifier and policy that one audit is made with."""

    classifier_name: str
    classifier_sha256: str
    policy_sha256: str


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


class Registry:
    def __init__(self, database: Database, models_dir: Path, store: Path, load: Callable[[bytes], Classifier]) -> None:
        self._database = database
        self._models_dir = models_dir
        self._store = store
        self._load = load
        self._loaded: dict[str, Classifier] = {}
        self._policies: dict[str, Policy] = {}
        self._loading = threading.Lock()
        store.mkdir(mode=0o700, parents=True, exist_ok=True)

    def synchronise(self, default: str = "") -> None:
        """Register what lies in the models folder; what is first of its name goes into force."""
        for path in sorted(self._models_dir.glob("*.onnx")):
            self._synchronise_file(path, self._register_found_classifier)
        for path in policy_files(self._models_dir):
            self._synchronise_file(path, self._register_found_policy)
        self._set_default_if_unset(default)

    def add_classifier(self, path: Path, actor: str) -> ClassifierRow:
        data = _read(path, ClassifierError)
        loaded = self._load(data)
        card = loaded.card
        _keep(self._classifier_path(card.sha256), data)
        row = ClassifierRow(sha256=card.sha256, name=card.name, card=asdict(card), added_at=utc_now(), actor=actor)
        with self._database.write() as unit:
            if queries.insert_unless_present(unit.session, row):
                unit.record("classifier.added", card.sha256, actor, name=card.name)
        self._loaded.setdefault(card.sha256, loaded)
        return row

    def add_policy(self, path: Path, actor: str) -> PolicyRow:
        data = _read(path, PolicyError)
        policy = read_policy(data)
        row = _policy_row(policy, actor)
        with self._database.write() as unit:
            if queries.classifier(unit.session, policy.classifier_sha256) is None:
                raise PolicyError("the policy belongs to a classifier that is not registered")
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
            _set(unit, policy_slot(classifier_sha256), sha256, "policy.activated", actor, reason)
            return sha256

    def rollback_policy(self, classifier_name: str, actor: str) -> str | None:
        with self._database.read() as session:
            slot = policy_slot(_active_version(session, classifier_name))
        return self._rollback(slot, "policy.rolled_back", actor)

    def classifier(self, sha256: str) -> Classifier:
        """The loaded classifier, shared by all threads."""
        with self._loading:
            if sha256 not in self._loaded:
                self._loaded[sha256] = self._load_unchanged(sha256)
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

    def _synchronise_file(self, path: Path, register: Callable[[Path], None]) -> None:
        try:
            register(path)
        except (ClassifierError, PolicyError) as error:
            log.error("models.file_refused", file=path.name, code=error.code, detail=error.detail)

    def _known_classifier(self, path: Path) -> ClassifierRow | None:
        """The row of a file that was registered before: it is loaded when it is first used, not at each start."""
        sha256 = hashlib.sha256(_read(path, ClassifierError)).hexdigest()
        with self._database.read() as session:
            return queries.classifier(session, sha256) if self._classifier_path(sha256).exists() else None

    def _register_found_classifier(self, path: Path) -> None:
        row = self._known_classifier(path) or self.add_classifier(path, SYSTEM)
        slot = classifier_slot(row.name)
        with self._database.write() as unit:
            current = queries.activation_in_force(unit.session, slot)
            if current is None:
                _set(unit, slot, row.sha256, "classifier.activated", SYSTEM)
            elif current.target != row.sha256:
                log.warning("models.version_not_active", classifier=row.name, sha256=row.sha256)

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

    def _set_default_if_unset(self, wanted: str) -> None:
        with self._database.write() as unit:
            if queries.activation_in_force(unit.session, DEFAULT_SLOT) is not None and not wanted:
                return
            active = [row.name for row in queries.classifiers(unit.session) if _is_active(unit.session, row.name)]
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

    def _load_unchanged(self, sha256: str) -> Classifier:
        loaded = self._load(_read(self._classifier_path(sha256), ClassifierError))
        if loaded.card.sha256 != sha256:
            raise ClassifierError("the kept file is not the one that was registered")
        return loaded

    def _classifier_path(self, sha256: str) -> Path:
        return self._store / f"{sha256}.onnx"

    def _policy_path(self, sha256: str) -> Path:
        return self._store / f"{sha256}.policy.json"


def choose(session: Session, classifier: str | None, policy: str | None) -> Choice:
    """The classifier and policy for one audit: as asked, else the default and the policy in force for it."""
    name = classifier or in_force(session, DEFAULT_SLOT)
    if name is None:
        raise NoActiveClassifier("no classifier is active")
    sha256 = _active_version(session, name)
    if policy:
        return Choice(name, sha256, _find_policy(session, sha256, policy))
    return Choice(name, sha256, in_force(session, policy_slot(sha256)) or NO_POLICY)


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


def _set(unit: Unit, slot: str, target: str | None, kind: str, actor: str, despite_warnings: str = "") -> None:
    current = queries.activation_in_force(unit.session, slot)
    _append(unit, slot, target, current.id if current else None, kind, actor, despite_warnings)


def _append(
    unit: Unit,
    slot: str,
    target: str | None,
    previous_id: int | None,
    kind: str,
    actor: str,
    despite_warnings: str = "",
) -> None:
    row = ActivationRow(slot=slot, target=target, previous_id=previous_id, at=utc_now(), actor=actor)
    row.despite_warnings = despite_warnings or None
    unit.session.add(row)
    unit.session.flush()
    unit.record(
        kind, slot, actor, target=target, **({"despite_warnings": despite_warnings} if despite_warnings else {})
    )


def _policy_row(policy: Policy, actor: str) -> PolicyRow:
    values: dict[str, Any] = {
        name: getattr(policy, name)
        for name in ("sha256", "name", "classifier_sha256", "preprocessing_sha256", "source", "false_positive_rate")
    }
    return PolicyRow(**values, created_at=str(policy.created_at), added_at=utc_now(), actor=actor)
