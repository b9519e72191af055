"""Fixtures: databases built by the real migrations, on SQLite and on a real PostgreSQL server."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest
from sqlalchemy import create_engine, text

from service.records.session import Database

REPOSITORY = Path(__file__).parent.parent


def unavailable(reason: str) -> NoReturn:
    """Skips on a user's machine; in CI everything that tests need has to be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)  # reason: a part that CI must have (it fails above) is missing on a user's machine; it is named


def _postgresql_programs() -> Path:
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not folders:
        unavailable("PostgreSQL's server programs are not installed")
    return folders[-1]


def _as_server_user(command: list[str]) -> None:
    """The server refuses to run as root."""
    prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
    subprocess.run([*prefix, *command], check=True, capture_output=True, cwd="/")


@contextmanager
def _postgresql_server(programs: Path) -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    data = str(folder / "data")
    options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c max_connections=200"
    _as_server_user([str(programs / "initdb"), "-D", data, "-U", "postgres", "--auth=trust", "--no-sync"])
    _as_server_user([str(programs / "pg_ctl"), "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start"])
    try:
        yield f"postgresql+psycopg://postgres@/postgres?host={folder}"
    finally:
        _as_server_user([str(programs / "pg_ctl"), "-D", data, "-w", "-m", "immediate", "stop"])
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    pytest.importorskip("psycopg")
    with _postgresql_server(_postgresql_programs()) as url:
        yield url


@pytest.fixture
def empty_postgresql_url(postgresql_server: str) -> Iterator[str]:
    """A database of its own for one test."""
    engine = create_engine(postgresql_server, isolation_level="AUTOCOMMIT")
    name = f"t{os.urandom(6).hex()}"
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield postgresql_server.replace("/postgres?", f"/{name}?")
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.sqlite3'}"
    url = request.getfixturevalue("empty_postgresql_url")
    assert isinstance(url, str)
    return url


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file that the real migrations made once; tests get copies."""
    path = tmp_path_factory.mktemp("migrated") / "test.sqlite3"
    database = Database(f"sqlite:///{path}")
    database.upgrade()
    database.close()
    return path


@pytest.fixture
def database(empty_database_url: str, migrated: Path, tmp_path: Path) -> Iterator[Database]:
    if empty_database_url.startswith("sqlite"):
        shutil.copyfile(migrated, tmp_path / "test.sqlite3")
    database = Database(empty_database_url)
    database.upgrade()
    yield database
    database.close()


@pytest.fixture
def sqlite_database(migrated: Path, tmp_path: Path) -> Iterator[Database]:
    shutil.copyfile(migrated, tmp_path / "test.sqlite3")
    database = Database(f"sqlite:///{tmp_path / 'test.sqlite3'}")
    yield database
    database.close()


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped classifiers of phantoms and their policies: small, so that servers start and audit quickly."""
    folder = tmp_path_factory.mktemp("shipped")
    for path in (REPOSITORY / "models").iterdir():
        if path.is_dir() or path.name.startswith("phantom-"):
            (folder / path.name).symlink_to(path)
    return folder
