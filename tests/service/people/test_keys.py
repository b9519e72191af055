from datetime import timedelta

import pytest

from service.people import keys
from service.people.keys import KeyExists, Unauthenticated, UnknownKey
from service.records import queries
from service.records.session import Database, utc_now


def test_a_key_gives_its_scopes_until_it_is_revoked(sqlite_database: Database) -> None:
    token, _ = keys.create(sqlite_database, "ward", ["audits:write"], None, "test")
    principal = keys.authenticate(sqlite_database, token)
    assert (principal.actor, principal.scopes) == ("key:ward", frozenset({"audits:write"}))
    keys.revoke(sqlite_database, "ward", "test")
    with pytest.raises(Unauthenticated):
        keys.authenticate(sqlite_database, token)


def test_a_key_past_its_time_is_refused(sqlite_database: Database) -> None:
    token, _ = keys.create(sqlite_database, "old", ["admin"], utc_now() - timedelta(seconds=1), "test")
    with pytest.raises(Unauthenticated):
        keys.authenticate(sqlite_database, token)


@pytest.mark.parametrize("change", [lambda t: t[:-1], lambda t: t + "x", lambda t: "ts_" + t[-20:]])
def test_anything_but_the_token_is_refused(sqlite_database: Database, change: "type[str]") -> None:
    token, _ = keys.create(sqlite_database, "ward", ["audits:write"], None, "test")
    with pytest.raises(Unauthenticated):
        keys.authenticate(sqlite_database, change(token))


def test_the_secret_is_nowhere_in_the_database(sqlite_database: Database) -> None:
    token, _ = keys.create(sqlite_database, "ward", ["audits:write"], None, "test")
    with sqlite_database.engine.connect() as connection:
        dump = "\n".join(connection.connection.driver_connection.iterdump())
    assert "ward" in dump
    assert token.split("_", 2)[2] not in dump


def test_last_use_is_kept(sqlite_database: Database) -> None:
    token, row = keys.create(sqlite_database, "ward", ["audits:write"], None, "test")
    keys.authenticate(sqlite_database, token)
    with sqlite_database.read() as session:
        found = queries.api_key(session, row.id)
    assert found is not None
    assert found.last_used_at is not None


def test_names_are_unique_and_must_exist(sqlite_database: Database) -> None:
    keys.create(sqlite_database, "ward", ["audits:write"], None, "test")
    with pytest.raises(KeyExists):
        keys.create(sqlite_database, "ward", ["admin"], None, "test")
    with pytest.raises(UnknownKey):
        keys.revoke(sqlite_database, "icu", "test")
