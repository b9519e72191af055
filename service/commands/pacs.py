"""`triggerscope rules`, `results` and `forget`: films from a PACS, and what goes back."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from service.commands.parser import ACTOR, Arguments, Commands, command, group
from service.errors import TriggerscopeError

if TYPE_CHECKING:
    from service.settings import Settings

SOME_FAILED = 2


def add(commands: "Commands[argparse.ArgumentParser]") -> None:
    rules = group(commands, "rules", "routing rules")
    parser = command(rules, "test", _test_rules, "say where films would go, and why")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--rules", type=Path, metavar="FILE", help="default: the setting rules_file")
    parser.add_argument("--source", default="")
    parser.add_argument("--calling-ae", default="")
    results = group(commands, "results", "what goes back to the PACS")
    parser = command(results, "list", _list_results, "latest first")
    parser.add_argument("--state", choices=("pending", "delivered", "dead", "cancelled"))
    parser.add_argument("--limit", type=int, default=50)
    command(results, "resend", _resend, "send again what was delivered or given up").add_argument("id")
    parser = command(commands, "forget", _forget, "remove what identifies a study; its audits stay")
    parser.add_argument("study_instance_uid")


def _test_rules(settings: "Settings", arguments: Arguments) -> int:
    from service.app import limits
    from service.pacs import identity
    from service.pacs.acceptance import facts_of
    from service.pacs.instance import read_instance
    from service.pacs.rules import explain, load_rules, route

    rules = load_rules(arguments.rules or settings.rules_file)
    sender = identity.Sender(
        "test", ACTOR, arguments.source, calling_ae=arguments.calling_ae, called_ae=settings.dimse_ae_title
    )
    failed = False
    for path in arguments.files:
        try:
            facts = facts_of(read_instance(path.read_bytes(), limits(settings)), sender)
        except (TriggerscopeError, OSError) as error:
            failed = True
            print(f"{path}: {error.detail if isinstance(error, TriggerscopeError) else 'the file cannot be read'}")
            continue
        print(f"{path}: {explain(route(rules, facts), facts)}")
    return SOME_FAILED if failed else 0


def _list_results(settings: "Settings", arguments: Arguments) -> int:
    from service.app import open_database
    from service.records import pacs_queries

    with open_database(settings) as database, database.read() as session:
        for row in pacs_queries.deliveries(session, arguments.state, arguments.limit):
            print(
                f"{row.id}\t{row.state}\t{row.kind}\t{row.destination}\taudit {row.job_id}\t"
                f"{row.attempts} attempts\t{row.proof or 'no proof'}\t{row.error_code or ''}\t{row.error_detail or ''}"
            )
    return 0


def _resend(settings: "Settings", arguments: Arguments) -> int:
    from service.app import open_database
    from service.pacs.results.outbox import resend

    with open_database(settings) as database:
        resend(database, arguments.id, ACTOR)
    return 0


def _forget(settings: "Settings", arguments: Arguments) -> int:
    from service.app import open_acceptance, open_database
    from service.pacs import identity

    with open_database(settings) as database:
        acceptance = open_acceptance(settings, database)
        count = identity.forget(
            database, acceptance.storage, acceptance.pseudonyms, arguments.study_instance_uid, ACTOR
        )
    print(f"originals and identifiers of {count} films removed; their audits stay")
    return 0
