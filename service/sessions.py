"""Signed-in browsers: sessions kept on the server, found by the hash of a cookie; failed logins are slowed down."""

import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from service import accounts
from service.audit.errors import TriggerscopeError
from service.db import account_queries
from service.db.session import Database, utc_now
from service.db.tables import AccountRow, LoginRow, ThrottleRow
from service.keys import Principal

COOKIE = "triggerscope_login"
FREE_FAILURES = 4
LONGEST_WAIT_SECONDS = 900
LONGEST_NAME = 40
_NOBODY = accounts.hasher.hash(secrets.token_hex(16))  # so that an unknown name takes as long as a known one


class WrongLogin(TriggerscopeError):
    """Name or password are wrong, or the account is disabled: all the same from outside."""

    code = "wrong_login"


class LoginThrottled(TriggerscopeError):
    code = "login_throttled"


class CsrfFailed(TriggerscopeError):
    """A change came without the page's own token."""

    code = "csrf_failed"


@dataclass(frozen=True, slots=True)
class Login:
    """token: the cookie's value, kept nowhere else."""

    token: str
    expires_at: datetime


def log_in(database: Database, name: str, password: str, length: timedelta) -> Login:
    now = utc_now()
    if not (name.isascii() and name.isprintable() and len(name) <= LONGEST_NAME):
        raise WrongLogin("name or password are wrong")
    row = _not_throttled(database, name, now)
    if row is None or row.disabled_at is not None or not accounts.matches(row, password):
        _count_failure(database, name, now)
        raise WrongLogin("name or password are wrong")
    token = secrets.token_urlsafe(32)
    login = LoginRow(
        token_sha256=accounts.digest(token),
        account_name=row.name,
        csrf_token=secrets.token_urlsafe(24),
        created_at=now,
        expires_at=now + length,
    )
    with database.write() as unit:
        account_queries.forget_expired(unit.session, now)
        account_queries.forget_failures(unit.session, name)
        unit.session.add(login)
        unit.record("login.succeeded", name, f"account:{name}")
    return Login(token, login.expires_at)


def log_out(database: Database, token: str) -> None:
    with database.write() as unit:
        row = account_queries.login(unit.session, accounts.digest(token))
        if row is not None:
            account_queries.end_login(unit.session, row.token_sha256)
            unit.record("login.ended", row.account_name, f"account:{row.account_name}")


def find(database: Database, token: str) -> Principal | None:
    """Who this cookie stands for, with the role as it is now."""
    with database.read() as session:
        row = account_queries.login(session, accounts.digest(token))
    if row is None or row.expires_at <= utc_now() or row.account.disabled_at is not None:
        return None
    return Principal(f"account:{row.account_name}", accounts.ROLES[row.account.role], row.csrf_token)


def require_csrf(principal: Principal, given: str) -> None:
    if not hmac.compare_digest(principal.csrf_token.encode(), given.encode()):
        raise CsrfFailed("reload the page and try again")


def wait_seconds(failures: int) -> int:
    """How long a name has to wait after so many failures in a row: nothing, then 2, 4, 8 ... seconds."""
    return 0 if failures <= FREE_FAILURES else min(LONGEST_WAIT_SECONDS, 2 ** (failures - FREE_FAILURES))


def _not_throttled(database: Database, name: str, now: datetime) -> AccountRow | None:
    with database.read() as session:
        throttle = account_queries.throttle(session, name)
        row = account_queries.account(session, name)
    if throttle is not None and now < throttle.retry_at:
        raise LoginThrottled("too many failed logins under this name; wait a while")
    if row is None:
        accounts.matches(AccountRow(password_hash=_NOBODY), "nobody's")
    return row


def _count_failure(database: Database, name: str, now: datetime) -> None:
    with database.write() as unit:
        row = account_queries.throttle(unit.session, name)
        if row is None:
            row = ThrottleRow(name=name, failures=0, retry_at=now)
            unit.session.add(row)
        row.failures += 1
        row.retry_at = now + timedelta(seconds=wait_seconds(row.failures))
        unit.record("login.failed", name, "anonymous", failures=row.failures)
