"""`triggerscope keys`: API keys."""

import argparse
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from service.commands.parser import ACTOR, Arguments, Commands, command, group
from service.people.roles import SCOPES

if TYPE_CHECKING:
    from service.settings import Settings


def add(commands: "Commands[argparse.ArgumentParser]") -> None:
    actions = group(commands, "keys", "API keys")
    parser = command(actions, "create", _create, "print a new key once")
    parser.add_argument("--name", required=True)
    parser.add_argument("--scope", required=True, action="append", choices=sorted(SCOPES))
    parser.add_argument("--expires", type=_utc, metavar="DATE", help="ISO 8601; UTC unless it names an offset")
    command(actions, "list", _list, "names, scopes and last use")
    command(actions, "revoke", _revoke, "end a key at once").add_argument("name")


def _create(settings: "Settings", arguments: Arguments) -> int:
    from service.app import open_database
    from service.people import keys

    with open_database(settings) as database:
        token, _ = keys.create(database, arguments.name, arguments.scope, arguments.expires, ACTOR)
    print(token)
    return 0


def _list(settings: "Settings", _arguments: Arguments) -> int:
    from service.app import open_database
    from service.records import queries

    with open_database(settings) as database, database.read() as session:
        for row in queries.api_keys(session):
            state = "revoked" if row.revoked_at else f"expires {row.expires_at}" if row.expires_at else "valid"
            print(f"{row.name}\t{','.join(row.scopes)}\t{state}\tlast used {row.last_used_at or 'never'}")
    return 0


def _revoke(settings: "Settings", arguments: Arguments) -> int:
    from service.app import open_database
    from service.people import keys

    with open_database(settings) as database:
        keys.revoke(database, arguments.name, ACTOR)
    return 0


def _utc(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)
