"""`triggerscope classifiers`: registered classifiers, and the examination of files."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from service.commands.parser import (
    ACTOR,
    Arguments,
    Commands,
    add_description,
    command,
    group,
    offline_command,
    read_description,
)
from service.errors import ClassifierError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from sqlalchemy.orm import Session

    from service.records.tables import ClassifierRow
    from service.settings import Settings

REFUSED = 2


def add(commands: "Commands[argparse.ArgumentParser]") -> None:
    actions = group(commands, "classifiers", "registered classifiers")
    command(actions, "list", _list, "all versions")
    parser = command(actions, "add", _add, "examine an ONNX file and register it")
    parser.add_argument("file", type=Path)
    add_description(parser)
    parser = offline_command(actions, "examine", _examine, "examine an ONNX file without server and database")
    parser.add_argument("file", type=Path)
    add_description(parser)
    parser.add_argument("--json", action="store_true", help="every number, as JSON")
    parser = command(actions, "report", _report, "what the examination of a registered version found")
    parser.add_argument("version", metavar="NAME|SHA256", help="a name means the version in force, or the newest")
    parser.add_argument("--json", action="store_true", help="every number and the signature, as JSON")
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

    description = read_description(arguments)
    with open_database(settings) as database:
        row = open_registry(settings, database).add_classifier_file(arguments.file, ACTOR, description).row
        print(f"{row.name}\t{row.sha256}")
        _print_findings(row.report)
    return 0


def _examine(arguments: Arguments) -> int:
    """Needs neither settings nor database; nothing is registered."""
    from service.graphs.examiner import Examiner, read_file
    from service.offline.environment import Environment

    limits = Environment.read(os.environ).examination
    try:
        description = read_description(arguments)
        derived = Examiner(limits).examine(read_file(arguments.file, limits), description)
    except ClassifierError as error:
        print(f"{error.code}: {error.detail}", file=sys.stderr)
        return REFUSED
    hashes = {"identity": derived.identity, "file_sha256": derived.file_sha256, "derived_sha256": derived.sha256}
    if arguments.json:
        print(json.dumps({**hashes, "description": derived.description.as_mapping(), "report": derived.report}))
        return 0
    print(f"{derived.description.name}\t{derived.identity}")
    _print_findings(derived.report)
    return 0


def _report(settings: "Settings", arguments: Arguments) -> int:
    from service.app import open_database
    from service.registry.examinations import waits_because

    with open_database(settings) as database, database.read() as session:
        row = _version(session, arguments.version)
    if arguments.json:
        print(json.dumps({"report": row.report, "signature": row.report_signature, "refusal": waits_because(row)}))
        return 0
    print(f"{row.name}\t{row.sha256}")
    if sentence := waits_because(row):
        print(f"  Its films wait: {sentence}")
    _print_findings(row.report)
    return 0


def _version(session: "Session", wanted: str) -> "ClassifierRow":
    from service.records import queries
    from service.registry.registry import UnknownClassifier, classifier_slot, in_force

    versions = queries.classifiers(session, wanted)
    current = in_force(session, classifier_slot(wanted))
    chosen = next((row for row in versions if row.sha256 == current), next(iter(versions), None))
    row = chosen or queries.classifier_known_as(session, wanted)
    if row is None:
        raise UnknownClassifier("no classifier of this name or hash is registered")
    return row


def _print_findings(report: "Mapping[str, Any] | None") -> None:
    from service.graphs.report import findings

    for finding in findings(report or {}):
        print(f"  {finding}")


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
