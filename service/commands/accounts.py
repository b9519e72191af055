"""`triggerscope accounts`: people who log in."""

import argparse
import getpass
import sys
from typing import TYPE_CHECKING

from service.commands.parser import ACTOR, Arguments, Commands, command, group
from service.people.roles import ROLES

if TYPE_CHECKING:
    from service.settings import Settings


def add(commands: "Commands[argparse.ArgumentParser]") -> None:
    actions = group(commands, "accounts", "people who log in")
    parser = command(actions, "create", _create, "make an account; the password is read from the terminal")
    parser.add_argument("name")
    parser.add_argument("--role", required=True, choices=list(ROLES))
    command(actions, "password", _set_password, "set a password").add_argument("name")
    parser = command(actions, "link", _link, "let somebody at the identity provider use an account")
    parser.add_argument("name")
    parser.add_argument("subject", help="their `sub` at the provider")
    parser.add_argument("--issuer", help="default: the setting oidc_issuer")
    command(actions, "list", _list, "names and roles")


def _create(settings: "Settings", arguments: Arguments) -> int:
    from service.app import open_database
    from service.people import accounts

    with open_database(settings) as database:
        accounts.create(database, arguments.name, arguments.role, _password(), ACTOR)
    return 0


def _set_password(settings: "Settings", arguments: Arguments) -> int:
    from service.app import open_database
    from service.people import accounts

    with open_database(settings) as database:
        accounts.set_password(database, arguments.name, _password(), ACTOR)
    return 0


def _link(settings: "Settings", arguments: Arguments) -> int:
    from service.app import open_database
    from service.people import accounts

    with open_database(settings) as database:
        accounts.link(database, arguments.name, arguments.issuer or settings.oidc_issuer, arguments.subject, ACTOR)
    return 0


def _list(settings: "Settings", _arguments: Arguments) -> int:
    from service.app import open_database
    from service.records import account_queries

    with open_database(settings) as database, database.read() as session:
        for row in account_queries.accounts(session):
            print(f"{row.name}\t{row.role}\t{'disabled' if row.disabled_at else 'active'}")
    return 0


def invite_first_administrator(settings: "Settings") -> None:
    """Prints the one-time setup address where nobody can log in yet."""
    from service.app import open_database
    from service.people import accounts

    if settings.allow_anonymous or not settings.local_accounts:
        return
    with open_database(settings) as database:
        token = accounts.issue_setup_token(database)
    if token:
        address = f"http://{settings.host}:{settings.port}/setup?token={token}"
        print(f"No account exists. The first administrator is made at {address} (once, within a day).", file=sys.stderr)


def _password() -> str:
    return getpass.getpass() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
