"""People: local accounts with a role, and the one-time token that makes the first administrator."""

import hashlib
import secrets
from datetime import timedelta

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from sqlalchemy.orm import Session

from service.audit.errors import TriggerscopeError
from service.db import account_queries
from service.db.session import Database, Unit, utc_now
from service.db.tables import AccountRow, SetupRow
from service.keys import SCOPES

ROLES: dict[str, frozenset[str]] = {
    "uploader": frozenset({"audits:write"}),
    "auditor": frozenset({"audits:write", "audits:read"}),
    "reviewer": frozenset({"audits:write", "audits:read", "audits:review"}),
    "administrator": frozenset(SCOPES),
}
SHORTEST_PASSWORD = 12
SETUP_HOURS = 24
hasher = PasswordHasher()


class AccountExists(TriggerscopeError):
    code = "account_exists"


class UnknownAccount(TriggerscopeError):
    code = "unknown_account"


class UnusableAccount(TriggerscopeError):
    """The name, role or password cannot be used."""

    code = "unusable_account"


class SetupClosed(TriggerscopeError):
    """The setup token is unknown, used or too old, or there is an account already."""

    code = "setup_closed"


def create(database: Database, name: str, role: str, password: str, actor: str) -> None:
    _check(name, role, password)
    password_hash = hasher.hash(password)
    with database.write() as unit:
        _insert(unit, name, role, password_hash, actor)


def change(database: Database, name: str, actor: str, *, role: str | None = None, disabled: bool | None = None) -> None:
    """Give an account another role, or take it out of use; its open logins end."""
    with database.write() as unit:
        row = _find(unit, name)
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


def matches(row: AccountRow, password: str) -> bool:
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


def _insert(unit: Unit, name: str, role: str, password_hash: str, actor: str) -> None:
    if account_queries.account(unit.session, name) is not None:
        raise AccountExists("an account of this name exists")
    unit.session.add(AccountRow(name=name, password_hash=password_hash, role=role, created_at=utc_now()))
    unit.record("account.created", name, actor, role=role)


def _find(unit: Unit, name: str) -> AccountRow:
    row = account_queries.account(unit.session, name)
    if row is None:
        raise UnknownAccount("there is no account of this name")
    return row


def _check(name: str, role: str, password: str | None = None) -> None:
    if not (name.isascii() and name.replace("-", "").replace(".", "").isalnum() and 2 <= len(name) <= 40):
        raise UnusableAccount("a name has 2 to 40 letters, digits, dots and dashes")
    if role not in ROLES:
        raise UnusableAccount(f"roles: {', '.join(ROLES)}")
    if password is not None and not SHORTEST_PASSWORD <= len(password) <= 1024:
        raise UnusableAccount(f"a password has at least {SHORTEST_PASSWORD} characters")
