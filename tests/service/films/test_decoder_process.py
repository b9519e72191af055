"""The pool of decoder processes: limits, deaths, threads, and its end."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import JPEG2000Lossless

import service.films.radiograph as radiograph_module
from service.errors import DecodeFailed, UnsupportedRadiograph
from service.films.radiograph import Decoder, Limits
from tests.conftest import REPOSITORY
from tests.dicom_files import dicom_bytes

FILM = (np.arange(64 * 80).reshape(64, 80) % 4096).astype(np.uint16)
SMALL = dicom_bytes(FILM, bits=12)
PATIENT = Limits(decode_seconds=200)  # machines that run tests may be very busy


@pytest.fixture(scope="module")
def slow_film() -> bytes:
    """A JPEG 2000 of noise: around half a second to decode on an idle machine."""
    noise = np.random.default_rng(0).integers(0, 4096, (1600, 1600)).astype(np.uint16)
    return dicom_bytes(noise, bits=12, transfer_syntax=JPEG2000Lossless)


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    with Decoder(1) as decoder:
        yield decoder


def pids(decoder: Decoder) -> set[int]:
    return {process.pid for process in decoder._started}


def test_one_process_serves_many_films(decoder: Decoder) -> None:
    before = pids(decoder)
    films = [decoder.decode(SMALL) for _ in range(20)]
    assert len({film.pixels_sha256 for film in films}) == 1
    assert pids(decoder) == before
    assert len(before) == 1


def test_a_refusal_does_not_cost_the_process(decoder: Decoder) -> None:
    before = pids(decoder)
    with pytest.raises(UnsupportedRadiograph):
        decoder.decode(dicom_bytes(FILM, bits=12, HighBit=15))
    assert decoder.decode(SMALL).width == 80
    assert pids(decoder) == before


def test_the_time_limit(decoder: Decoder, slow_film: bytes) -> None:
    decoder.decode(SMALL)
    (before,) = pids(decoder)
    started = time.monotonic()
    with pytest.raises(DecodeFailed):
        decoder.decode(slow_film, Limits(decode_seconds=0.05))
    assert time.monotonic() - started < 30
    assert decoder.decode(SMALL).width == 80
    assert pids(decoder).isdisjoint({before})
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)


def test_the_memory_limit(decoder: Decoder, slow_film: bytes) -> None:
    with pytest.raises(DecodeFailed):
        decoder.decode(slow_film, Limits(decode_memory_bytes=16 << 20))
    assert decoder.decode(slow_film, PATIENT).width == 1600


def test_the_memory_limit_of_a_picture_that_is_plain(decoder: Decoder) -> None:
    film = dicom_bytes(np.zeros((4000, 4000), np.uint16))
    with pytest.raises(DecodeFailed):
        decoder.decode(film, Limits(decode_memory_bytes=20 << 20))
    assert decoder.decode(film).width == 4000


def test_a_process_that_is_killed_fails_its_film_only(decoder: Decoder, slow_film: bytes) -> None:
    decoder.decode(SMALL)
    (pid,) = pids(decoder)
    timer = threading.Timer(0.1, os.kill, (pid, signal.SIGKILL))
    timer.start()
    with pytest.raises(DecodeFailed):
        decoder.decode(slow_film, PATIENT)
    timer.join()
    assert decoder.decode(SMALL).width == 80


def test_a_process_that_was_killed_while_idle_fails_no_film(decoder: Decoder) -> None:
    decoder.decode(SMALL)
    (process,) = decoder._started
    os.kill(process.pid, signal.SIGKILL)
    process._child._process.wait()
    assert decoder.decode(SMALL).width == 80


def test_a_process_is_replaced_before_it_grows_old(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(radiograph_module, "FILMS_PER_PROCESS", 2)
    seen = [(decoder.decode(SMALL).width, frozenset(pids(decoder)))[1] for _ in range(4)]
    assert seen[0] == seen[1]
    assert seen[2] == seen[3]
    assert seen[1] != seen[2]


def test_eight_threads_share_two_processes() -> None:
    films = [(FILM + np.uint16(index)) % np.uint16(4096) for index in range(8)]
    files = [dicom_bytes(film, bits=12, WindowCenter=2048, WindowWidth=4096) for film in films]
    with Decoder(2) as decoder, ThreadPoolExecutor(8) as threads:
        decoded = list(threads.map(decoder.decode, files * 5))
        assert len(decoder._started) == 2
    for index, film in enumerate(decoded):
        expected = np.clip((films[index % 8] - 2047.5) / 4095 + 0.5, 0, 1)
        np.testing.assert_allclose(film.pixels, expected, atol=1e-7)


def test_deaths_under_load_fail_no_more_films_than_processes_that_died(slow_film: bytes) -> None:
    with Decoder(2) as decoder, ThreadPoolExecutor(4) as threads:
        decoder.decode(SMALL)
        results = [threads.submit(decoder.decode, slow_film, PATIENT) for _ in range(4)]
        time.sleep(0.2)
        killed = pids(decoder)
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        failed = [result for result in results if isinstance(result.exception(), DecodeFailed)]
        assert len(failed) <= len(killed)
        assert all(result.exception() is None for result in results if result not in failed)


def test_closing_ends_the_processes() -> None:
    decoder = Decoder(2)
    with decoder:
        started = pids(decoder)
    assert len(started) == 2
    decoder.close()
    for pid in started:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    with pytest.raises(RuntimeError, match="closed"):
        decoder.decode(SMALL)


def test_at_least_one_process() -> None:
    with pytest.raises(ValueError, match="too few"):
        Decoder(0)


def test_no_secret_reaches_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIGGERSCOPE_DATABASE_URL", "postgresql://user:PLANTED@host/db")
    with Decoder(1) as decoder:
        decoder.decode(SMALL)
        (pid,) = pids(decoder)
        assert b"PLANTED" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_the_default_decoder_ends_with_the_interpreter() -> None:
    program = (
        "import sys; from service.films import radiograph as r; data = sys.stdin.buffer.read();"
        "print(r.decode(data).width, *[p.pid for p in r._default_decoder(__import__('os').getpid())._started])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], input=SMALL, capture_output=True, cwd=REPOSITORY, check=True
    )
    width, pid = (int(word) for word in done.stdout.split())
    assert (width, done.stderr) == (80, b"")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_process_whose_parent_is_gone_ends() -> None:
    program = (
        "import os, sys; from service.films import radiograph as r; r.decode(sys.stdin.buffer.read());"
        "print([p.pid for p in r._default_decoder(os.getpid())._started][0], flush=True); os._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", program], input=SMALL, capture_output=True, cwd=REPOSITORY, check=True)
    deadline = time.monotonic() + 20
    while Path(f"/proc/{int(done.stdout)}/cmdline").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    status = Path(f"/proc/{int(done.stdout)}/status")
    assert not status.exists() or "State:\tZ" in status.read_text()
