"""SIGKILL of `triggerscope dimse` within an association: what was answered Success is there, once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from sqlalchemy import func, select

from service.app import open_database
from service.records.tables import FilmRow, JobRow
from service.settings import Settings
from tests.conftest import REPOSITORY
from tests.service.pacs.films import film
from tests.service.pacs.peers import associated, program, wait_until
from tests.service.stories.test_killed import free_port

FILMS, KILL_AFTER = 20, 6


def start(settings: Settings) -> subprocess.Popen[bytes]:
    given = {
        "TRIGGERSCOPE_DATA_DIR": str(settings.data_dir),
        "TRIGGERSCOPE_MODELS_DIR": str(settings.models_dir),
        "TRIGGERSCOPE_DIMSE_PORT": str(settings.dimse_port),
    }
    command = [sys.executable, "-m", "service", "dimse"]
    return subprocess.Popen(command, cwd=REPOSITORY, env={**os.environ, **given}, stderr=subprocess.DEVNULL)


def listening(settings: Settings) -> bool:
    found = subprocess.run([program("ss"), "-ltnH", f"sport = :{settings.dimse_port}"], capture_output=True, check=True)
    return bool(found.stdout.strip())


def test_every_success_is_kept_and_every_film_arrives_once(tmp_path: Path, models_dir: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", models_dir=models_dir, dimse_port=free_port())
    paths = [tmp_path / f"{number}.dcm" for number in range(FILMS)]
    for number, path in enumerate(paths):
        path.write_bytes(film(number))
    process = start(settings)
    try:
        wait_until(lambda: listening(settings))
        with associated(settings) as association:
            for path in paths[:KILL_AFTER]:
                assert association.send_c_store(path).Status == 0
            os.kill(process.pid, signal.SIGKILL)
            process.wait(60)
        assert counts(settings) == (KILL_AFTER, KILL_AFTER)
        process = start(settings)
        wait_until(lambda: listening(settings))
        with associated(settings) as association:
            assert {association.send_c_store(path).Status for path in paths} == {0}
    finally:
        process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        process.wait(60)
    assert time.monotonic() - started < 20
    assert counts(settings) == (FILMS, FILMS)


def counts(settings: Settings) -> tuple[int, ...]:
    with open_database(settings) as database, database.read() as session:
        found = [session.scalar(select(func.count()).select_from(table)) or 0 for table in (FilmRow, JobRow)]
    return tuple(found)
