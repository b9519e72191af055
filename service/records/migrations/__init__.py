"""Alembic migrations, run from code so that an installed package carries them."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

_LOCK = 0x74726967  # any constant: PostgreSQL's advisory lock that makes concurrent upgrades wait


def config(connection: Connection) -> Config:
    settings = Config()
    settings.set_main_option("script_location", str(Path(__file__).parent))
    settings.attributes["connection"] = connection
    return settings


def upgrade(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    command.upgrade(config(connection), "head")


def revisions(connection: Connection) -> tuple[str | None, str | None]:
    """The revision that the database is at, and the newest one."""
    current = MigrationContext.configure(connection).get_current_revision()
    return current, ScriptDirectory.from_config(config(connection)).get_current_head()
