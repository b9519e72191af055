"""The watcher against a real Orthanc."""

import threading
from pathlib import Path

import httpx
import pytest
from pydicom.uid import SecondaryCaptureImageStorage
from sqlalchemy import select

from service.pacs.acceptance import Acceptance
from service.pacs.orthanc import TRIES, OrthancWatcher
from service.pacs.sources import SourceNotUnderstood
from service.pacs.watching import keep_watching
from service.records import pacs_queries
from service.records.session import Database
from service.records.tables import EventRow, JobRow
from service.settings import Settings
from tests.service.pacs.conftest import count, make_acceptance
from tests.service.pacs.films import film
from tests.service.pacs.peers import on_loopback_only, orthanc_in, wait_until
from tests.service.pacs.receiver import receiving


def send(client: httpx.Client, data: bytes) -> None:
    client.post("/instances", content=data).raise_for_status()


def drain(watcher: OrthancWatcher) -> None:
    while watcher.poll():
        pass


def jobs(database: Database) -> int:
    return count(database, JobRow)


@on_loopback_only
def test_what_arrived_while_we_were_down_is_taken_once(acceptance: Acceptance, tmp_path: Path) -> None:
    with orthanc_in(tmp_path / "orthanc").running() as client:
        for number in range(200):
            send(client, film(number, side=16))
        watcher = OrthancWatcher(client, acceptance)
        assert watcher.poll()
        half = jobs(acceptance.database)
        assert 0 < half < 200
        drain(OrthancWatcher(client, acceptance))
        drain(watcher)
        assert jobs(acceptance.database) == 200
        with acceptance.database.read() as session:
            position = pacs_queries.cursor(session, watcher.cursor)
        assert position == client.get("/changes?last").json()["Last"]


@on_loopback_only
def test_only_films_are_taken_and_duplicates_are_no_news(acceptance: Acceptance, tmp_path: Path) -> None:
    with orthanc_in(tmp_path / "orthanc", OverwriteInstances=True).running() as client:
        send(client, film(1))
        send(client, film(1))
        send(client, film(2, SOPClassUID=SecondaryCaptureImageStorage))
        gone = client.post("/instances", content=film(3)).json()["ID"]
        client.delete(f"/instances/{gone}").raise_for_status()
        drain(OrthancWatcher(client, acceptance))
    assert jobs(acceptance.database) == 1


@on_loopback_only
def test_a_film_that_is_refused_is_recorded_and_does_not_block(acceptance: Acceptance, tmp_path: Path) -> None:
    with orthanc_in(tmp_path / "orthanc").running() as client:
        send(client, film(1, transfer_syntax="1.2.840.10008.1.2", SeriesInstanceUID="2.25.3.x"))
        send(client, film(2, side=1000))
        send(client, film(3))
        drain(OrthancWatcher(client, acceptance))
    with acceptance.database.read() as session:
        refused = session.scalars(select(EventRow).where(EventRow.kind == "film.refused").order_by(EventRow.at)).all()
    assert [event.payload["code"] for event in refused] == ["not_understood", "too_many_bytes"]
    assert jobs(acceptance.database) == 1


@on_loopback_only
def test_a_full_queue_holds_the_cursor(opened: Database, settings: Settings, tmp_path: Path) -> None:
    stop = threading.Event()
    with orthanc_in(tmp_path / "orthanc").running() as client:
        for number in range(3):
            send(client, film(number))
        narrow = OrthancWatcher(client, make_acceptance(opened, settings, depth=2))
        thread = threading.Thread(target=keep_watching, args=("narrow", narrow.poll, opened, stop, 0.05))
        thread.start()
        wait_until(lambda: jobs(opened) == 2)
        stop.set()
        thread.join()
        drain(OrthancWatcher(client, make_acceptance(opened, settings)))
    assert jobs(opened) == 3


@on_loopback_only
def test_an_orthanc_that_was_set_up_anew_is_read_from_its_start(acceptance: Acceptance, tmp_path: Path) -> None:
    with orthanc_in(tmp_path / "first").running() as client:
        for number in range(3):
            send(client, film(number))
        drain(OrthancWatcher(client, acceptance))
    with orthanc_in(tmp_path / "second").running() as client:
        send(client, film(7))
        watcher = OrthancWatcher(client, acceptance)
        drain(watcher)
        drain(watcher)
    assert jobs(acceptance.database) == 4


@pytest.mark.parametrize("page", [b"<html>maintenance</html>", b"[]", b'{"Changes": [{}], "Last": 1, "Done": true}'])
def test_a_page_that_is_not_orthancs_is_waited_out(acceptance: Acceptance, page: bytes) -> None:
    with receiving() as proxy, httpx.Client(base_url=proxy.url) as client:
        proxy.get_status, proxy.get_body = 200, page
        with pytest.raises(SourceNotUnderstood):
            OrthancWatcher(client, acceptance).poll()


def test_a_film_that_orthanc_lost_does_not_block_those_behind_it(acceptance: Acceptance, tmp_path: Path) -> None:
    orthanc = orthanc_in(tmp_path / "orthanc")
    with orthanc.running() as client:
        send(client, film(1))
    [kept] = (tmp_path / "orthanc" / "storage").glob("??/??/*")
    kept.unlink()
    with orthanc.running() as client:
        send(client, film(2))
        watcher = OrthancWatcher(client, acceptance)
        for _ in range(TRIES - 1):
            with pytest.raises(httpx.HTTPStatusError):
                watcher.poll()
        assert jobs(acceptance.database) == 0
        drain(watcher)
    assert jobs(acceptance.database) == 1
    with acceptance.database.read() as session:
        [refused] = session.scalars(select(EventRow).where(EventRow.kind == "film.refused")).all()
    assert refused.payload["code"] == "film_not_given"
