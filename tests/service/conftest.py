import logging
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import structlog

from service.app import open_database
from service.people import keys
from service.people.roles import ROLES, SCOPES
from service.settings import Settings
from tests.service.serving import serving


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Commands that run for long set up the process's logs, which outlive the captured streams of their test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    if root.handlers != handlers:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()


@pytest.fixture(scope="session")
def shared_settings(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Settings:
    """One service for the tests that do not mind each other's films."""
    return Settings(
        data_dir=tmp_path_factory.mktemp("data"),
        models_dir=models_dir,
        max_bytes=2_000_000,
        max_pixels=2_000_000,
        poll_seconds=0.05,
        decoders=1,
    )


@pytest.fixture(scope="session")
def server(shared_settings: Settings) -> Iterator[httpx.Client]:
    """A client without a key."""
    with serving(shared_settings) as client:
        yield client


@pytest.fixture(scope="session")
def tokens(shared_settings: Settings) -> dict[str, str]:
    """A key for each scope."""
    with open_database(shared_settings) as database:
        return {scope: keys.create(database, scope, [scope], None, "test")[0] for scope in SCOPES}


@pytest.fixture(scope="session")
def auditor(shared_settings: Settings, server: httpx.Client) -> dict[str, str]:  # noqa: ARG001 -- made once it runs
    """The header of a key that may submit, choose and read."""
    with open_database(shared_settings) as database:
        token, _ = keys.create(database, "auditor", sorted(ROLES["auditor"]), None, "test")
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def client(server: httpx.Client, auditor: dict[str, str]) -> Iterator[httpx.Client]:
    """A client that may submit, choose and read."""
    with httpx.Client(base_url=server.base_url, timeout=60, headers=auditor) as client:
        yield client
