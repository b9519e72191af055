"""Signed-in browsers: sessions kept on the server, found by the hash of a cookie; failed logins are slowed down."""

import functools
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from service.errors import TriggerscopeError
from service.people import accounts, oidc
from service.people.keys import Principal
from service.people.oidc import Provider, SignOnFailed
from service.people.roles import ROLES
from service.records import account_queries
from service.records.session import Database, Unit, utc_now
from service.records.tables import AccountRow, LoginRow, SignOnRow, ThrottleRow

COOKIE = "triggerscope_login"
SIGN_ON_COOKIE = "triggerscope_sign_on"
FREE_FAILURES = 4
LONGEST_WAIT_SECONDS = 900
FORGET_FAILURES = timedelta(days=1)  # anybody may fail under any name: their rows must not pile up
LONGEST_NAME = 40
LONGEST_ADDRESS = 64
SIGN_ON_SECONDS = 600
MOST_SIGN_ONS = 1000  # begun and not ended


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
    with database.write() as unit:
        account_queries.forget_failures(unit.session, name)
        return _open(unit, unit.session.get_one(AccountRow, row.name), now, length)


def start_sign_on(database: Database, provider: Provider, address: str, return_to: str) -> tuple[str, str]:
    """Where to send the browser, and the state that it has to bring back in a cookie. address: the browser's."""
    now = utc_now()
    _require_unthrottled(database, _sign_on_name(address), now)
    attempt = oidc.new_attempt()
    there = provider.authorization_address(attempt)
    with database.write() as unit:
        account_queries.forget_expired(unit.session, now)
        if account_queries.open_sign_ons(unit.session) >= MOST_SIGN_ONS:
            raise LoginThrottled("too many logins were begun; wait a while")
        unit.session.add(
            SignOnRow(
                state_sha256=accounts.digest(attempt.state),
                nonce=attempt.nonce,
                code_verifier=attempt.code_verifier,
                return_to=return_to,
                expires_at=now + timedelta(seconds=SIGN_ON_SECONDS),
            )
        )
    return there, attempt.state


def finish_sign_on(
    database: Database, provider: Provider, address: str, state: str, code: str, length: timedelta
) -> tuple[Login, str]:
    """The login of a browser that came back, and where it wanted to go. Raises SignOnFailed, LoginThrottled."""
    now, name = utc_now(), _sign_on_name(address)
    _require_unthrottled(database, name, now)
    with database.write() as unit:
        begun = account_queries.use_sign_on(unit.session, accounts.digest(state), now)
    if begun is None:
        raise SignOnFailed("this login was not begun here, or too long ago; begin again")
    try:
        vouched = provider.redeem(code, begun.code_verifier, begun.nonce)
        if vouched.role is None:
            raise SignOnFailed("the identity provider gives you no role here; ask an administrator")
        with database.write() as unit:
            row = accounts.account_of(unit, vouched)
            if row.disabled_at is not None:
                raise SignOnFailed("this account is disabled")
            account_queries.forget_failures(unit.session, name)
            return _open(unit, row, now, length, issuer=vouched.issuer), begun.return_to
    except SignOnFailed:
        _count_failure(database, name, now)
        raise


def _open(unit: Unit, row: AccountRow, now: datetime, length: timedelta, issuer: str | None = None) -> Login:
    token = secrets.token_urlsafe(32)
    row.last_login_at = now
    unit.session.flush()
    account_queries.forget_expired(unit.session, now)
    unit.session.add(
        LoginRow(
            token_sha256=accounts.digest(token),
            account_name=row.name,
            csrf_token=secrets.token_urlsafe(24),
            created_at=now,
            expires_at=now + length,
            issuer=issuer,
        )
    )
    unit.record("login.succeeded", row.name, f"account:{row.name}", by="password" if issuer is None else "oidc")
    return Login(token, now + length)


def change_password(database: Database, name: str, current: str, new: str) -> None:
    """One's own password; needs the present one, and ends all logins. Raises WrongLogin, LoginThrottled."""
    now = utc_now()
    row = _not_throttled(database, name, now)
    if row is None or not accounts.matches(row, current):
        _count_failure(database, name, now)
        raise WrongLogin("the present password is wrong")
    accounts.set_password(database, name, new, f"account:{name}")


def _sign_on_name(address: str) -> str:
    """Under which failed sign-ons from one address are counted; no account can have such a name."""
    return f"sso {address}"[:LONGEST_ADDRESS]


def log_out(database: Database, token: str) -> str | None:
    """End a login; returns the identity provider that vouched for it, if one did."""
    with database.write() as unit:
        row = account_queries.login(unit.session, accounts.digest(token))
        if row is None:
            return None
        account_queries.end_login(unit.session, row.token_sha256)
        unit.record("login.ended", row.account_name, f"account:{row.account_name}")
        return row.issuer


def find(database: Database, token: str) -> Principal | None:
    """Who this cookie stands for, with the role as it is now."""
    with database.read() as session:
        row = account_queries.login(session, accounts.digest(token))
    if row is None or row.expires_at <= utc_now() or row.account.disabled_at is not None:
        return None
    return Principal(f"account:{row.account_name}", ROLES[row.account.role], row.csrf_token)


def require_csrf(principal: Principal, given: str) -> None:
    if not hmac.compare_digest(principal.csrf_token.encode(), given.encode()):
        raise CsrfFailed("reload the page and try again")


def wait_seconds(failures: int) -> int:
    """How long a name has to wait after so many failures in a row: nothing, then 2, 4, 8 ... seconds."""
    return 0 if failures <= FREE_FAILURES else min(LONGEST_WAIT_SECONDS, 2 ** (failures - FREE_FAILURES))


def _not_throttled(database: Database, name: str, now: datetime) -> AccountRow | None:
    _require_unthrottled(database, name, now)
    with database.read() as session:
        row = account_queries.account(session, name)
    if row is None:
        accounts.matches(AccountRow(password_hash=_nobody()), "nobody's")
    return row


def _require_unthrottled(database: Database, name: str, now: datetime) -> None:
    with database.read() as session:
        throttle = account_queries.throttle(session, name)
    if throttle is not None and now < throttle.retry_at:
        raise LoginThrottled("too many failed logins; wait a while")


def _count_failure(database: Database, name: str, now: datetime) -> None:
    with database.write() as unit:
        account_queries.forget_old_failures(unit.session, now - FORGET_FAILURES)
        row = account_queries.throttle(unit.session, name)
        if row is None:
            row = ThrottleRow(name=name, failures=0, retry_at=now)
            unit.session.add(row)
        row.failures += 1
        row.retry_at = now + timedelta(seconds=wait_seconds(row.failures))
        unit.record("login.failed", _known_name(unit, name), "anonymous", failures=row.failures)


def _known_name(unit: Unit, name: str) -> str:
    """The name as the log keeps it: people type passwords into the wrong field, so an unknown one only as a hash."""
    if name.startswith("sso ") or account_queries.account(unit.session, name) is not None:
        return name
    return f"unknown:{accounts.digest(name)[:16]}"


@functools.cache
def _nobody() -> str:
    """The hash of a password that nobody knows, so that an unknown name takes as long as a known one."""
    return accounts.hasher.hash(secrets.token_hex(16))
