"""API keys: made here, kept as hashes, checked at each route."""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from service.errors import TriggerscopeError
from service.records import queries
from service.records.session import Database, utc_now
from service.records.tables import ApiKeyRow

TOUCH_SECONDS = 60.0


class UnknownKey(TriggerscopeError):
    code = "unknown_key"


class KeyExists(TriggerscopeError):
    code = "key_exists"


class Unauthenticated(TriggerscopeError):
    """No key, or one that is unknown, revoked or past its time: all the same from outside."""

    code = "unauthenticated"


@dataclass(frozen=True, slots=True)
class Principal:
    """csrf_token: what a signed-in browser's changes must carry; empty for everybody else."""

    actor: str
    scopes: frozenset[str]
    csrf_token: str = ""


ANONYMOUS = Principal(
    "anonymous", frozenset({"audits:write", "audits:choose", "audits:read", "audits:review", "films:announce"})
)


def create(
    database: Database, name: str, scopes: Sequence[str], expires_at: datetime | None, actor: str
) -> tuple[str, ApiKeyRow]:
    """The token, which is shown once and kept nowhere, and its row."""
    key_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    row = ApiKeyRow(
        id=key_id,
        name=name,
        secret_sha256=_digest(secret),
        scopes=sorted(scopes),
        created_at=utc_now(),
        expires_at=expires_at,
    )
    with database.write() as unit:
        if queries.api_key_named(unit.session, name):
            raise KeyExists("a key of this name exists")
        unit.session.add(row)
        unit.record("key.created", name, actor, scopes=row.scopes)
    return f"ts_{key_id}_{secret}", row


def revoke(database: Database, name: str, actor: str) -> None:
    with database.write() as unit:
        row = queries.api_key_named(unit.session, name)
        if row is None:
            raise UnknownKey("no key of this name exists")
        row.revoked_at = row.revoked_at or utc_now()
        unit.record("key.revoked", name, actor)


def authenticate(database: Database, token: str) -> Principal:
    key_id, _, secret = token.removeprefix("ts_").partition("_")
    with database.read() as session:
        row = queries.api_key(session, key_id)
    now = utc_now()
    if row is None or not _is_valid(row, secret, now):
        raise Unauthenticated("a valid API key is needed")
    if row.last_used_at is None or now - row.last_used_at > timedelta(seconds=TOUCH_SECONDS):
        with database.write() as unit:
            queries.touch_api_key(unit.session, row.id, now)
    return Principal(f"key:{row.name}", frozenset(row.scopes))


def _is_valid(row: ApiKeyRow, secret: str, now: datetime) -> bool:
    matches = hmac.compare_digest(row.secret_sha256, _digest(secret))
    return matches and row.revoked_at is None and (row.expires_at is None or now < row.expires_at)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()  # 256 random bits need no slow hash
