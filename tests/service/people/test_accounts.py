from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from service.people import accounts, sessions
from service.people.roles import ROLES
from service.records import account_queries
from service.records.session import Database
from service.records.tables import EventRow, ThrottleRow

PASSWORD = "correct horse battery"
DAY = timedelta(days=1)


@pytest.fixture
def ada(sqlite_database: Database) -> Database:
    accounts.create(sqlite_database, "ada", "reviewer", PASSWORD, "test")
    return sqlite_database


def test_a_login_stands_for_the_account_and_its_role(ada: Database) -> None:
    login = sessions.log_in(ada, "ada", PASSWORD, DAY)
    principal = sessions.find(ada, login.token)
    assert principal is not None
    assert (principal.actor, principal.scopes) == ("account:ada", ROLES["reviewer"])
    sessions.require_csrf(principal, principal.csrf_token)
    with pytest.raises(sessions.CsrfFailed):
        sessions.require_csrf(principal, "")


def test_neither_password_nor_cookie_is_kept(ada: Database) -> None:
    login = sessions.log_in(ada, "ada", PASSWORD, DAY)
    with ada.read() as session:
        row = account_queries.account(session, "ada")
        assert row is not None
        assert row.password_hash.startswith("$argon2id$")
        assert account_queries.login(session, login.token) is None


def test_a_login_ends(ada: Database) -> None:
    ended = sessions.log_in(ada, "ada", PASSWORD, DAY)
    sessions.log_out(ada, ended.token)
    expired = sessions.log_in(ada, "ada", PASSWORD, -DAY)
    changed = sessions.log_in(ada, "ada", PASSWORD, DAY)
    accounts.change(ada, "ada", "test", role="auditor")
    for login in (ended, expired, changed):
        assert sessions.find(ada, login.token) is None


@pytest.mark.parametrize(("name", "password"), [("ada", "wrong"), ("nobody", PASSWORD), ("a" * 400, ""), ("\0", "")])
def test_all_that_is_wrong_looks_the_same(ada: Database, name: str, password: str) -> None:
    with pytest.raises(sessions.WrongLogin, match="name or password are wrong"):
        sessions.log_in(ada, name, password, DAY)


def test_a_password_typed_as_a_name_is_not_in_the_log(ada: Database) -> None:
    for name in ("ada", PASSWORD):
        with pytest.raises(sessions.WrongLogin):
            sessions.log_in(ada, name, "wrong", DAY)
    with ada.read() as session:
        subjects = [row.subject for row in session.scalars(select(EventRow).where(EventRow.kind == "login.failed"))]
    assert subjects[0] == "ada"
    assert len(subjects) == 2
    assert PASSWORD not in subjects[1]


def test_a_disabled_account_cannot_log_in(ada: Database) -> None:
    accounts.change(ada, "ada", "test", disabled=True)
    with pytest.raises(sessions.WrongLogin):
        sessions.log_in(ada, "ada", PASSWORD, DAY)


@pytest.mark.parametrize("name", ["ada", "nobody"])
def test_failures_under_one_name_are_slowed_down(ada: Database, name: str) -> None:
    for _ in range(sessions.FREE_FAILURES + 1):
        with pytest.raises(sessions.WrongLogin):
            sessions.log_in(ada, name, "wrong", DAY)
    with pytest.raises(sessions.LoginThrottled):
        sessions.log_in(ada, name, PASSWORD, DAY)


def test_failures_of_days_ago_are_forgotten(ada: Database) -> None:
    for name in ("one", "two"):
        with pytest.raises(sessions.WrongLogin):
            sessions.log_in(ada, name, "wrong", DAY)
    with ada.write() as unit:
        for row in unit.session.scalars(select(ThrottleRow)):
            row.retry_at -= 2 * DAY
    with pytest.raises(sessions.WrongLogin):
        sessions.log_in(ada, "three", "wrong", DAY)
    with ada.read() as session:
        assert [row.name for row in session.scalars(select(ThrottleRow))] == ["three"]


def test_the_wait_doubles_up_to_a_quarter_of_an_hour() -> None:
    assert [sessions.wait_seconds(failures) for failures in (1, 4, 5, 6, 7, 40)] == [0, 0, 2, 4, 8, 900]


def test_the_setup_token_works_once_and_only_for_the_first(sqlite_database: Database) -> None:
    token = accounts.issue_setup_token(sqlite_database)
    assert token is not None
    with pytest.raises(accounts.SetupClosed):
        accounts.set_up(sqlite_database, "another", "root", PASSWORD)
    accounts.set_up(sqlite_database, token, "root", PASSWORD)
    with pytest.raises(accounts.SetupClosed):
        accounts.set_up(sqlite_database, token, "second", PASSWORD)
    assert accounts.issue_setup_token(sqlite_database) is None


def test_the_last_administrator_stays(ada: Database) -> None:
    accounts.create(ada, "root", "administrator", PASSWORD, "test")
    changes: list[dict[str, Any]] = [{"disabled": True}, {"role": "auditor"}]
    for change in changes:
        with pytest.raises(accounts.LastAdministrator):
            accounts.change(ada, "root", "test", **change)
    accounts.change(ada, "root", "test", role="administrator")
    accounts.change(ada, "ada", "test", role="administrator")
    accounts.change(ada, "root", "test", disabled=True)


@pytest.mark.parametrize(
    ("name", "role", "password"),
    [("x", "auditor", PASSWORD), ("a b", "auditor", PASSWORD), ("bob", "king", PASSWORD), ("bob", "auditor", "short")],
)
def test_unusable_accounts_are_refused(sqlite_database: Database, name: str, role: str, password: str) -> None:
    with pytest.raises(accounts.UnusableAccount):
        accounts.create(sqlite_database, name, role, password, "test")


def test_a_name_is_given_once(ada: Database) -> None:
    with pytest.raises(accounts.AccountExists):
        accounts.create(ada, "ada", "auditor", PASSWORD, "test")
    with pytest.raises(accounts.UnknownAccount):
        accounts.change(ada, "bob", "test", disabled=True)
