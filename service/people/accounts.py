"""People: local accounts with a role, and the one-time token that makes the first administrator."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import timedelta

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from sqlalchemy.orm import Session

from service.errors import TriggerscopeError
from service.people.roles import ROLES
from service.records import account_queries
from service.records.session import Database, Unit, utc_now
from service.records.tables import NO_PASSWORD, AccountRow, SetupRow, SubjectRow

SHORTEST_PASSWORD = 12
LONGEST_NAME = 40
LONGEST_ACTOR = 80
SETUP_HOURS = 24
hasher = PasswordHasher()


class AccountExists(TriggerscopeError):
    code = "account_exists"


class UnknownAccount(TriggerscopeError):
    code = "unknown_account"


class UnusableAccount(TriggerscopeError):
    """The name, role or password cannot be used."""

    code = "unusable_account"


class LastAdministrator(TriggerscopeError):
    """Nobody would be left to make accounts."""

    code = "last_administrator"


class SetupClosed(TriggerscopeError):
    """The setup token is unknown, used or too old, or there is an account already."""

    code = "setup_closed"


@dataclass(frozen=True, slots=True)
class Vouched:
    """Somebody whom an identity provider vouched for; role: None where its claim maps to none."""

    issuer: str
    subject: str
    name: str
    role: str | None


def create(database: Database, name: str, role: str, password: str, actor: str) -> None:
    _check(name, role, password)
    password_hash = hasher.hash(password)
    with database.write() as unit:
        _insert(unit, name, role, password_hash, actor)


def change(database: Database, name: str, actor: str, *, role: str | None = None, disabled: bool | None = None) -> None:
    """Give an account another role, or take it out of use; its open logins end."""
    with database.write() as unit:
        row = _find(unit, name)
        if _is_last_administrator(unit, row) and (disabled or role not in (None, row.role)):
            raise LastAdministrator("make another administrator first")
        if role is not None:
            _check(name, role)
            row.role = role
        if disabled is not None:
            row.disabled_at = utc_now() if disabled else None
        account_queries.end_logins_of(unit.session, name)
        unit.record("account.changed", name, actor, role=row.role, disabled=row.disabled_at is not None)


def set_password(database: Database, name: str, password: str, actor: str) -> None:
    _check(name, "auditor", password)
    password_hash = hasher.hash(password)
    with database.write() as unit:
        _find(unit, name).password_hash = password_hash
        account_queries.end_logins_of(unit.session, name)
        unit.record("account.password_set", name, actor)


def reviewers(session: Session) -> list[str]:
    """Actors of the people who may decide about findings."""
    roles = [role for role, scopes in ROLES.items() if "audits:review" in scopes]
    return [f"account:{name}" for name in account_queries.active_names(session, roles)]


def account_of(unit: Unit, vouched: Vouched) -> AccountRow:
    """The account of somebody whom an identity provider vouched for: the linked one, or a new one; with the role that
    the provider gives. `vouched.role` must be there."""
    role, actor = str(vouched.role), f"oidc:{vouched.issuer}"[:LONGEST_ACTOR]
    row = account_queries.account_of_subject(unit.session, vouched.issuer, vouched.subject)
    if row is None:
        row = _insert(unit, _free_name(unit, vouched.name), role, NO_PASSWORD, actor)
        _link(unit, row, vouched.issuer, vouched.subject, actor)
    elif row.role != role:
        row.role = role
        account_queries.end_logins_of(unit.session, row.name)
        unit.record("account.changed", row.name, actor, role=role, disabled=row.disabled_at is not None)
    return row


def link(database: Database, name: str, issuer: str, subject: str, actor: str) -> None:
    """Let somebody at an identity provider use an account that is there. Raises AccountExists, UnknownAccount."""
    with database.write() as unit:
        if account_queries.account_of_subject(unit.session, issuer, subject) is not None:
            raise AccountExists("this subject has an account")
        _link(unit, _find(unit, name), issuer, subject, actor)


def _link(unit: Unit, row: AccountRow, issuer: str, subject: str, actor: str) -> None:
    unit.session.flush()
    unit.session.add(SubjectRow(issuer=issuer, subject=subject, account_name=row.name, linked_at=utc_now()))
    unit.record("account.linked", row.name, actor, issuer=issuer, subject_sha256=digest(subject))


def _free_name(unit: Unit, wanted: str) -> str:
    """A name like the wanted one that nobody has: who is called so elsewhere is not who is called so here."""
    kept = "".join(
        letter for letter in wanted.partition("@")[0] if letter.isascii() and (letter.isalnum() or letter in ".-")
    )
    stem = kept.strip(".-")[: LONGEST_NAME - 5] if len(kept.strip(".-")) >= 2 else "person"
    candidates = (stem, *(f"{stem}-{number}" for number in range(2, 1000)))
    return next(name for name in candidates if account_queries.account(unit.session, name) is None)


def matches(row: AccountRow, password: str) -> bool:
    if row.password_hash == NO_PASSWORD:
        return False
    try:
        return hasher.verify(row.password_hash, password)
    except VerifyMismatchError:
        return False


def issue_setup_token(database: Database) -> str | None:
    """A token for the first administrator; None where there is an account."""
    token = secrets.token_urlsafe(24)
    with database.write() as unit:
        if account_queries.has_account(unit.session):
            return None
        unit.session.add(SetupRow(token_sha256=digest(token), expires_at=utc_now() + timedelta(hours=SETUP_HOURS)))
        unit.record("setup.offered", "setup", "console")
    return token


def set_up(database: Database, token: str, name: str, password: str) -> None:
    """Make the first administrator with the token from the console, which is used up by it."""
    _check(name, "administrator", password)
    password_hash = hasher.hash(password)
    with database.write() as unit:
        used = account_queries.use_setup_token(unit.session, digest(token), utc_now())
        if not used or account_queries.has_account(unit.session):
            raise SetupClosed("start the service again for a new token, or ask an administrator")
        _insert(unit, name, "administrator", password_hash, "setup")


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()  # tokens are random: no slow hash is needed


def _insert(unit: Unit, name: str, role: str, password_hash: str, actor: str) -> AccountRow:
    if account_queries.account(unit.session, name) is not None:
        raise AccountExists("an account of this name exists")
    row = AccountRow(name=name, password_hash=password_hash, role=role, created_at=utc_now())
    unit.session.add(row)
    unit.record("account.created", name, actor, role=role)
    return row


def _is_last_administrator(unit: Unit, row: AccountRow) -> bool:
    return list(account_queries.active_names(unit.session, ["administrator"])) == [row.name]


def _find(unit: Unit, name: str) -> AccountRow:
    row = account_queries.account(unit.session, name)
    if row is None:
        raise UnknownAccount("there is no account of this name")
    return row


def _check(name: str, role: str, password: str | None = None) -> None:
    if not (name.isascii() and name.replace("-", "").replace(".", "").isalnum() and 2 <= len(name) <= LONGEST_NAME):
        raise UnusableAccount("a name has 2 to 40 letters, digits, dots and dashes")
    if role not in ROLES:
        raise UnusableAccount(f"roles: {', '.join(ROLES)}")
    if password is not None and not SHORTEST_PASSWORD <= len(password) <= 1024:
        raise UnusableAccount(f"a password has at least {SHORTEST_PASSWORD} characters")
