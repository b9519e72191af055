"""`triggerscope db`: the database."""

import argparse
from typing import TYPE_CHECKING

from service.commands.parser import Arguments, Commands, command, group

if TYPE_CHECKING:
    from service.settings import Settings


def add(commands: "Commands[argparse.ArgumentParser]") -> None:
    command(group(commands, "db", "the database"), "upgrade", _upgrade, "bring the schema to this version")


def _upgrade(settings: "Settings", _arguments: Arguments) -> int:
    from service.app import open_database

    with open_database(settings.model_copy(update={"auto_upgrade": True})) as database:
        print(f"{database.engine.dialect.name}: the schema is current")
    return 0
