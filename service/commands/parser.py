"""The parser of `triggerscope`, and how a command gets its settings."""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from service.errors import ClassifierError, TriggerscopeError

if TYPE_CHECKING:
    from service.graphs.description import Description
    from service.settings import Settings

ACTOR = "command-line"
Arguments = argparse.Namespace
Commands = argparse._SubParsersAction  # noqa: SLF001  # argparse names this type only so


def new_parser(description: str | None) -> "tuple[argparse.ArgumentParser, Commands[argparse.ArgumentParser]]":
    """The parser with the options that every command takes, and the place of its commands."""
    parser = argparse.ArgumentParser(prog="triggerscope", description=description, epilog="Settings: docs/settings.md.")
    parser.add_argument("--models-dir", type=Path)
    parser.add_argument("--data-dir", type=Path)
    return parser, parser.add_subparsers(required=True, metavar="COMMAND")


def offline_command(
    commands: "Commands[argparse.ArgumentParser]", name: str, run: Callable[[Arguments], int], text: str
) -> argparse.ArgumentParser:
    """A command that asks for no settings of the service. run: returns the exit status."""
    parser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    return parser


def command(
    commands: "Commands[argparse.ArgumentParser]", name: str, run: "Callable[[Settings, Arguments], int]", text: str
) -> argparse.ArgumentParser:
    """A command of the service, run with its settings."""
    return offline_command(commands, name, partial(_with_settings, run), text)


def group(commands: "Commands[argparse.ArgumentParser]", name: str, text: str) -> "Commands[argparse.ArgumentParser]":
    """A noun whose actions are commands."""
    return commands.add_parser(name, help=text).add_subparsers(required=True, metavar="ACTION")


def add_description(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--description",
        type=Path,
        metavar="JSON",
        help="labels and preprocessing, where the classifier's file does not say them (docs/classifiers.md)",
    )


def read_description(arguments: Arguments) -> "Description | None":
    """The description that was named. Raises ClassifierError."""
    from service.graphs.description import description_of

    path: Path | None = arguments.description
    if path is None:
        return None
    try:
        return description_of(path.read_text())
    except (OSError, UnicodeDecodeError):
        raise ClassifierError("The description cannot be read.") from None


def read_file(path: Path, error: type[TriggerscopeError]) -> bytes:
    """The bytes of a file that was named. Raises `error` where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        raise error("the file cannot be read") from None


def _with_settings(run: "Callable[[Settings, Arguments], int]", arguments: Arguments) -> int:
    """Options win over environment variables; what is wrong with either is said, one line a setting."""
    from pydantic import ValidationError

    from service.settings import Settings

    given = {name: getattr(arguments, name, None) for name in ("host", "port", "models_dir", "data_dir")}
    if getattr(arguments, "allow_anonymous", False):
        given["allow_anonymous"] = True
    try:
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        for fault in error.errors():
            print(f"setting {'.'.join(map(str, fault['loc'])) or '(all)'}: {fault['msg']}", file=sys.stderr)
        return 1
    return run(settings, arguments)
