import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select

from service.app import open_acceptance, open_database, watch_sources, watched_sources
from service.films.radiograph import Limits
from service.pacs.acceptance import Acceptance
from service.pacs.identity import open_pseudonyms
from service.pacs.rules import Rules
from service.queue.intake import Intake
from service.records.session import Database
from service.records.storage import Storage
from service.records.tables import ActivationRow, Tables
from service.settings import Settings
from tests.service.records.rows import START, add_classifier, sha

MAX_BYTES = 300_000


@pytest.fixture
def settings(tmp_path: Path, empty_database_url: str) -> Settings:
    return Settings(
        data_dir=tmp_path / "data",
        models_dir=tmp_path,
        database_url=empty_database_url,
        auto_upgrade=True,
        max_bytes=MAX_BYTES,
    )


@pytest.fixture
def opened(settings: Settings) -> Iterator[Database]:
    """A database in which the classifier `small` is active."""
    with open_database(settings) as database:
        with database.write() as unit:
            add_classifier(unit.session)
            for slot, target in (("classifier/small", sha(1)), ("default", "small")):
                unit.session.add(ActivationRow(slot=slot, target=target, previous_id=None, at=START, actor="test"))
        yield database


@pytest.fixture
def acceptance(opened: Database, settings: Settings) -> Acceptance:
    return make_acceptance(opened, settings)


def make_acceptance(
    database: Database, settings: Settings, rules: Rules | None = None, depth: int = 1000
) -> Acceptance:
    return Acceptance(
        intake=Intake(
            database=database,
            storage=Storage(settings.data_dir),
            retention=timedelta(hours=1),
            max_queue_depth=depth,
        ),
        pseudonyms=open_pseudonyms(settings.data_dir / "identity.key"),
        rules=rules or Rules(),
        limits=Limits(max_bytes=settings.max_bytes),
    )


def count(database: Database, table: type[Tables]) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


@contextmanager
def watching(settings: Settings) -> Iterator[None]:
    """What `triggerscope watch` runs, in threads of this process and with a connection of its own to the database."""
    stop = threading.Event()
    with open_database(settings) as database:
        arguments = (watched_sources(settings), open_acceptance(settings, database), stop)
        thread = threading.Thread(target=watch_sources, args=arguments)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
