"""How fast the C-STORE port takes films, alone and while the worker audits: `make bench-pacs`.

300 DX films of 12.5 MB (2500 x 2500 pixels of noise, 16 bits, uncompressed) go over one association to the real
`triggerscope dimse`, each of them into a data folder of its own, first without and then with `triggerscope worker`.
Needs about 4 GB of disk, which it frees; prints a table.
"""

import argparse
import io
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from sqlalchemy import func, select

from service.app import open_database
from service.records.tables import AuditRow, JobRow
from service.settings import Settings
from tests.conftest import REPOSITORY
from tests.service.pacs.films import STUDY, film_of
from tests.service.pacs.peers import associated, wait_until
from tests.service.stories.test_killed import free_port

SIDE = 2500
WAIT_SECONDS = 120


@dataclass(frozen=True)
class Rates:
    """What one run came to. `audited`: films that got their verdict in the `seconds` from first film to last.

    The rate of acceptance leaves out the time in which the sender makes its next film.
    """

    seconds: float
    store_seconds: list[float]
    audited: int

    def row(self, name: str) -> str:
        times = sorted(1000 * seconds for seconds in self.store_seconds)
        p95 = times[min(len(times) - 1, int(0.95 * len(times)))]
        count = len(times)
        middle, rate = statistics.median(times), count / sum(self.store_seconds)
        return (
            f"| {name} | {rate:.1f} | {middle:.0f} | {p95:.0f} | {times[-1]:.0f} | {self.audited / self.seconds:.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--films", type=int, default=300)
    arguments = parser.parse_args()
    print(f"load before: {' '.join(f'{load:.1f}' for load in os.getloadavg())}, {os.cpu_count()} cores")
    alone = measure(arguments.films, with_worker=False)
    auditing = measure(arguments.films, with_worker=True)
    print(f"load after: {' '.join(f'{load:.1f}' for load in os.getloadavg())}")
    print("| | films/s | C-STORE median ms | p95 ms | max ms | audits/s |")
    print("| --- | --- | --- | --- | --- | --- |")
    print(alone.row("port alone"))
    print(auditing.row("while the worker audits"))
    print(f"ratio of acceptance: {sum(alone.store_seconds) / sum(auditing.store_seconds):.2f}")


def measure(films: int, *, with_worker: bool) -> Rates:
    folder = Path(tempfile.mkdtemp(prefix="bench-pacs-"))
    settings = Settings(data_dir=folder, models_dir=REPOSITORY / "models", dimse_port=free_port())
    try:
        with running(settings, "dimse"):
            wait_until(lambda: accepts(settings), WAIT_SECONDS)
            if not with_worker:
                return send(settings, films)
            with running(settings, "worker"):
                send(settings, 1, first=films)  # until it audits
                wait_until(lambda: audits(settings) == 1, WAIT_SECONDS)
                return send(settings, films)
    finally:
        shutil.rmtree(folder)


def send(settings: Settings, films: int, first: int = 0) -> Rates:
    pixels = np.random.default_rng(0).integers(0, 4096, (SIDE, SIDE), dtype=np.uint16)
    dataset = pydicom.dcmread(io.BytesIO(film_of(pixels, first, STUDY)))
    before = audits(settings)
    times = []
    with associated(settings) as association:
        started = time.perf_counter()
        for number in range(first, first + films):
            pixels[0, :2] = number, number >> 8  # no two films are the same
            dataset.PixelData, dataset.SOPInstanceUID = pixels.tobytes(), f"2.25.1{number:06d}"
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            begun = time.perf_counter()
            status = association.send_c_store(dataset).Status
            times.append(time.perf_counter() - begun)
            if status != 0x0000:
                raise RuntimeError(f"film {number} was answered {status:04x}")
        seconds = time.perf_counter() - started
        audited = audits(settings) - before
    with open_database(settings) as database, database.read() as session:
        kept = session.scalar(select(func.count()).select_from(JobRow)) or 0
    if kept < films:
        raise RuntimeError(f"{films} films were accepted and {kept} are here")
    return Rates(seconds, times, audited)


def audits(settings: Settings) -> int:
    with open_database(settings) as database, database.read() as session:
        return session.scalar(select(func.count()).select_from(AuditRow)) or 0


def accepts(settings: Settings) -> bool:
    with associated(settings) as association:
        return association.is_established


@contextmanager
def running(settings: Settings, command: str) -> Iterator[None]:
    given = {
        "TRIGGERSCOPE_DATA_DIR": str(settings.data_dir),
        "TRIGGERSCOPE_MODELS_DIR": str(settings.models_dir),
        "TRIGGERSCOPE_DIMSE_PORT": str(settings.dimse_port),
        "TRIGGERSCOPE_LOG_LEVEL": "warning",
    }
    environment = {**os.environ, **given}
    process = subprocess.Popen(
        [sys.executable, "-m", "service", command], cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(WAIT_SECONDS)


if __name__ == "__main__":
    main()
