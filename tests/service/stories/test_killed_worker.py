"""SIGKILL of `triggerscope worker` in mid-audit, and when the archive has a result that the outbox does not know of."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pynetdicom import AE, evt
from pynetdicom.events import Event
from pynetdicom.sop_class import Comprehensive3DSRStorage
from sqlalchemy import select, update

from service.app import open_acceptance, open_database, open_registry
from service.pacs.identity import Sender
from service.records.session import Database, utc_now
from service.records.tables import AuditRow, DeliveryRow, JobRow
from service.settings import Settings
from tests.conftest import REPOSITORY
from tests.service.pacs.films import film
from tests.service.pacs.peers import wait_until

FILMS = 4
RULES = """
[[rule]]
name = "all"
results = [{{kinds = ["sr"], destination = "archive"}}]

[[destination]]
name = "archive"
host = "127.0.0.1"
port = {port}
ae_title = "ARCHIVE"
"""


class DeadlyArchive:
    """Keeps what it is sent; kills the sender of the first object before it answers."""

    def __init__(self) -> None:
        self.kept: list[str] = []
        self.victim: subprocess.Popen[bytes] | None = None
        application = AE("ARCHIVE")
        application.add_supported_context(Comprehensive3DSRStorage)
        handlers = [(evt.EVT_C_STORE, self._store)]
        self.server = application.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)

    def _store(self, event: Event) -> int:
        self.kept.append(str(event.request.AffectedSOPInstanceUID))
        if self.victim is not None:
            self.victim.kill()
            self.victim = None
        return 0x0000


@pytest.fixture
def archive() -> Iterator[DeadlyArchive]:
    archive = DeadlyArchive()
    yield archive
    archive.server.shutdown()


def start(settings: Settings) -> subprocess.Popen[bytes]:
    given = {
        "TRIGGERSCOPE_DATA_DIR": str(settings.data_dir),
        "TRIGGERSCOPE_MODELS_DIR": str(settings.models_dir),
        "TRIGGERSCOPE_RULES_FILE": str(settings.rules_file),
        "TRIGGERSCOPE_LEASE_SECONDS": "1",
        "TRIGGERSCOPE_POLL_SECONDS": "0.05",
        "TRIGGERSCOPE_WORKERS": "1",
        "TRIGGERSCOPE_DECODERS": "1",
    }
    command = [sys.executable, "-m", "service", "worker"]
    return subprocess.Popen(command, cwd=REPOSITORY, env={**os.environ, **given}, stdout=subprocess.DEVNULL)


def states(database: Database, table: type[JobRow] | type[DeliveryRow]) -> list[str]:
    with database.read() as session:
        return [row.state for row in session.scalars(select(table))]


def test_each_film_has_one_verdict_and_its_result_is_there_once(
    tmp_path: Path, models_dir: Path, archive: DeadlyArchive
) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text(RULES.format(port=archive.server.server_address[1]))
    settings = Settings(data_dir=tmp_path / "data", models_dir=models_dir, rules_file=rules)
    with open_database(settings) as database:
        open_registry(settings, database).synchronise()
        acceptance = open_acceptance(settings, database)
        for data in (film(number, side=512) for number in range(FILMS)):
            acceptance.accept(data, acceptance.read(data), Sender("dimse", "dimse:CT7", "CT7"))

        worker = start(settings)
        wait_until(lambda: "leased" in states(database, JobRow))
        worker.kill()  # in mid-audit
        worker.wait(60)
        assert states(database, JobRow).count("done") < FILMS

        archive.victim = worker = start(settings)
        assert worker.wait(120) == -signal.SIGKILL  # by the archive, which has an object that nobody knows of
        assert "delivered" not in states(database, DeliveryRow)
        with database.write() as unit:  # its claim lapses
            unit.session.execute(update(DeliveryRow).values(due_at=utc_now()))

        worker = start(settings)
        try:
            wait_until(lambda: states(database, DeliveryRow) == ["delivered"] * FILMS)
        finally:
            worker.terminate()
            worker.wait(60)
        with database.read() as session:
            audits = list(session.scalars(select(AuditRow.film_sha256)))
        assert len(audits) == len(set(audits)) == FILMS
        assert len(archive.kept) == FILMS + 1
        assert len(set(archive.kept)) == FILMS
