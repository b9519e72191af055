"""`triggerscope classifiers`: registered classifiers."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from service.commands.parser import ACTOR, Arguments, Commands, command, group

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from service.settings import Settings


def add(commands: "Commands[argparse.ArgumentParser]") -> None:
    actions = group(commands, "classifiers", "registered classifiers")
    command(actions, "list", _list, "all versions")
    parser = command(actions, "add", _add, "examine an ONNX file and register it")
    parser.add_argument("file", type=Path)
    parser.add_argument(
        "--description", type=Path, metavar="JSON", help="labels and preprocessing, where the file does not say them"
    )
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
    from service.graphs.description import description_of

    description = description_of(arguments.description.read_text()) if arguments.description else None
    with open_database(settings) as database:
        row = open_registry(settings, database).add_classifier_file(arguments.file, ACTOR, description)
        print(f"{row.name}\t{row.sha256}")
        for line in summary(row.report or {}):
            print(f"  {line}")
    return 0


def summary(report: "Mapping[str, Any]") -> list[str]:
    """An examination's report for people."""
    graph, cost = report["graph"], report["cost"]
    lines = [
        f"{graph['multiply_adds']:.2e} multiply-adds and {graph['parameters']} numbers; {graph['head']} head"
        + (f", {graph['ended_in']} taken off" if graph["ended_in"] else "")
    ]
    for found in graph["explained"]:
        side = str(found["cells"])
        slopes, places = report["slopes"][side], report["places"][side]
        lines.append(
            f"explained at {found['operator']} {found['tensor']}, {side} x {side} cells: gradients within "
            f"{slopes['error']:.1e} of differences ({slopes['kinks']:.0%} cross a kink), "
            f"{places['near']:.0%} of {places['windows']} disturbed windows answered in their place"
        )
    lines.append(f"{cost['explain_ms']:.0f} ms a film with maps, {cost['forward_ms']:.0f} ms without, on one core")
    if report["box"]["missing"]:
        lines.append(f"the examining process could not give up: {', '.join(report['box']['missing'])}")
    if report["changes"]:
        lines += [f"against the version in force: {name}: {value}" for name, value in report["changes"].items()]
    return lines


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
