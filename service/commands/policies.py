"""`triggerscope policies`: registered policies."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from service.commands.parser import ACTOR, Arguments, Commands, command, group

if TYPE_CHECKING:
    from service.settings import Settings


def add(commands: "Commands[argparse.ArgumentParser]") -> None:
    actions = group(commands, "policies", "registered policies")
    command(actions, "list", _list, "all policies")
    command(actions, "add", _add, "register a policy file").add_argument("file", type=Path)
    parser = command(actions, "activate", _activate, "put a policy in force for a classifier")
    parser.add_argument("classifier")
    parser.add_argument("policy", metavar="NAME|SHA256")
    parser.add_argument(
        "--despite-warnings", default="", metavar="REASON", help="why a policy with warnings goes into force"
    )
    command(actions, "rollback", _rollback, "return to the policy before").add_argument("classifier")


def _list(settings: "Settings", _arguments: Arguments) -> int:
    from service.app import open_database, open_registry
    from service.records import queries
    from service.registry.registry import in_force, policy_slot

    with open_database(settings) as database:
        open_registry(settings, database).synchronise(settings.default_classifier)
        with database.read() as session:
            for row in queries.policies(session):
                active = "active" if in_force(session, policy_slot(row.classifier_sha256)) == row.sha256 else "-"
                print(f"{row.name}\t{row.sha256}\t{active}\t{row.source}\tfor {row.classifier_sha256}")
    return 0


def _add(settings: "Settings", arguments: Arguments) -> int:
    from service.app import open_database, open_registry

    with open_database(settings) as database:
        row = open_registry(settings, database).add_policy(arguments.file, ACTOR)
        print(f"{row.name}\t{row.sha256}")
    return 0


def _activate(settings: "Settings", arguments: Arguments) -> int:
    from service.app import open_database, open_registry

    with open_database(settings) as database:
        registry, reason = open_registry(settings, database), arguments.despite_warnings
        print(registry.activate_policy(arguments.classifier, arguments.policy, ACTOR, reason))
    return 0


def _rollback(settings: "Settings", arguments: Arguments) -> int:
    from service.app import open_database, open_registry

    with open_database(settings) as database:
        print(open_registry(settings, database).rollback_policy(arguments.classifier, ACTOR) or "none is active")
    return 0
