"""`triggerscope classifiers`: registered classifiers."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from service.commands.parser import ACTOR, Arguments, Commands, command, group

if TYPE_CHECKING:
    from service.settings import Settings


def add(commands: "Commands[argparse.ArgumentParser]") -> None:
    actions = group(commands, "classifiers", "registered classifiers")
    command(actions, "list", _list, "all versions")
    command(actions, "add", _add, "register an ONNX file").add_argument("file", type=Path)
    parser = command(actions, "activate", _activate, "put a version in force, as the default")
    parser.add_argument("name")
    parser.add_argument("--sha256", help="default: the newest version")
    command(actions, "retire", _retire, "take a classifier out of use").add_argument("name")
    command(actions, "rollback", _rollback, "return to what was in force before").add_argument("name")


def _list(settings: "Settings", _arguments: Arguments) -> int:
    from service.app import open_database, open_registry
    from service.records import queries
    from service.registry.registry import DEFAULT_SLOT, classifier_slot, in_force

    with open_database(settings) as database:
        open_registry(settings, database).synchronise(settings.default_classifier)
        with database.read() as session:
            default = in_force(session, DEFAULT_SLOT)
            for row in queries.classifiers(session):
                active = "active" if in_force(session, classifier_slot(row.name)) == row.sha256 else "-"
                print(f"{row.name}\t{row.sha256}\t{active}\t{'default' if row.name == default else ''}")
    return 0


def _add(settings: "Settings", arguments: Arguments) -> int:
    from service.app import open_database, open_registry

    with open_database(settings) as database:
        row = open_registry(settings, database).add_classifier(arguments.file, ACTOR)
        print(f"{row.name}\t{row.sha256}")
    return 0


def _activate(settings: "Settings", arguments: Arguments) -> int:
    from service.app import open_database, open_registry

    with open_database(settings) as database:
        print(open_registry(settings, database).activate_classifier(arguments.name, arguments.sha256, ACTOR))
    return 0


def _retire(settings: "Settings", arguments: Arguments) -> int:
    from service.app import open_database, open_registry

    with open_database(settings) as database:
        open_registry(settings, database).retire_classifier(arguments.name, ACTOR)
    return 0


def _rollback(settings: "Settings", arguments: Arguments) -> int:
    from service.app import open_database, open_registry

    with open_database(settings) as database:
        print(open_registry(settings, database).rollback_classifier(arguments.name, ACTOR) or "none is active")
    return 0
