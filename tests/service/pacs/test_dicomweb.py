"""The vendor-neutral watcher against the DICOMweb plugin of a real Orthanc, and against an archive that means harm."""

import gzip
import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from pydicom.uid import SecondaryCaptureImageStorage
from sqlalchemy import select

from service.app import open_database, watched_sources
from service.pacs.acceptance import Acceptance
from service.pacs.dicomweb import DicomwebWatcher
from service.pacs.sources import DicomwebSource, SourceNotUnderstood, SourcesError, load_sources, open_client
from service.records import pacs_queries
from service.records.session import utc_now
from service.records.tables import EventRow, JobRow, SeenRow
from service.settings import Settings
from tests.service.pacs.conftest import MAX_BYTES, count, watching
from tests.service.pacs.films import film
from tests.service.pacs.peers import certificate, on_loopback_only, orthanc_in, wait_until
from tests.service.serving import start_process

BEFORE, DURING = 20, 4
ON_SQLITE = pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
STUDY, SERIES, INSTANCE = "2.25.20", "2.25.20.1", "2.25.1000001"
SOURCES = """
[[dicomweb]]
name = "archive"
url = "http://127.0.0.1:8042/dicom-web"
username = "triggerscope"
password_file = "{password_file}"
seconds = 0.2
"""


def day(days_ago: int = 0) -> str:
    return f"{utc_now().date() - timedelta(days=days_ago):%Y%m%d}"


def store(client: httpx.Client, number: int, **changes: str) -> None:
    given = {"StudyDate": day()} | changes
    client.post("/instances", content=film(number, side=16, **given)).raise_for_status()


@contextmanager
def watcher(client: httpx.Client, acceptance: Acceptance) -> Iterator[DicomwebWatcher]:
    source = DicomwebSource(name="archive", url=f"{client.base_url}/dicom-web")
    with open_client(source) as own:
        yield DicomwebWatcher(source, own, acceptance)


@on_loopback_only
def test_a_watcher_that_is_killed_loses_no_film_and_takes_none_twice(tmp_path: Path, models_dir: Path) -> None:
    password, sources = tmp_path / "password", tmp_path / "sources.toml"
    password.write_text("secret\n")
    sources.write_text(SOURCES.format(password_file=password))
    settings = Settings(data_dir=tmp_path / "data", models_dir=models_dir, sources_file=sources)
    given = {name: str(getattr(settings, name)) for name in ("data_dir", "models_dir", "sources_file")}
    users = {"AuthenticationEnabled": True, "RegisteredUsers": {"triggerscope": "secret"}}
    orthanc = orthanc_in(tmp_path / "orthanc", **users)
    with orthanc.running(("triggerscope", "secret")) as client, open_database(settings) as db:
        for number in range(BEFORE):
            store(client, number)
        process = start_process(0, given, "watch")
        wait_until(lambda: count(db, JobRow) > 0, seconds=200)
        process.kill()
        process.wait(60)
        assert count(db, JobRow) < BEFORE
        with watching(settings):
            for number in range(BEFORE, BEFORE + DURING):
                store(client, number, study=f"2.25.{number}")
            store(client, 999, SOPClassUID=SecondaryCaptureImageStorage)  # as our own results are
            wait_until(lambda: count(db, JobRow) == BEFORE + DURING)
        with db.read() as session:
            kinds = list(session.scalars(select(EventRow.kind).where(EventRow.kind.startswith("film."))))
        assert kinds == ["film.received"] * (BEFORE + DURING)


@on_loopback_only
def test_the_watched_days_reach_back_to_the_last_complete_pass(acceptance: Acceptance, tmp_path: Path) -> None:
    database = acceptance.database
    with orthanc_in(tmp_path / "orthanc").running() as client:
        store(client, 1, study="2.25.31")
        store(client, 2, study="2.25.32", StudyDate=day(2))
        store(client, 3, study="2.25.33", StudyDate=day(30))
        with watcher(client, acceptance) as first:
            first.poll()
        assert count(database, JobRow) == 2
        with database.write() as unit:  # as if nobody had watched for forty days
            before = utc_now().date() - timedelta(days=40)
            pacs_queries.move_cursor(unit.session, "dicomweb/archive", before.toordinal(), utc_now())
        with watcher(client, acceptance) as again:
            again.poll()
            assert count(database, JobRow) == 3
            assert count(database, SeenRow) == 2  # what no later pass will ask for is forgotten
            store(client, 4, study="2.25.31")  # into a study that was settled
            again.poll()
        assert count(database, JobRow) == 4


SILENT = 0  # in place of a status: no answer at all


class Archive(ThreadingHTTPServer):
    """Answers by path; everything else is 404. Asks for a token and records what was asked for."""

    daemon_threads = True

    def __init__(self, tls: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Archive

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        self.server.asked.append(address.path)
        status, headers, body = self.server.answers.get(address.path, (404, {}, b""))
        if status == SILENT:
            time.sleep(1.0)
            return
        if self.headers["Authorization"] != "Bearer the-token":
            status, headers, body = 401, {}, b""
        elif body.startswith(b"[{"):  # a list, of which this archive gives one match at a time
            [offset] = parse_qs(address.query)["offset"]
            page = json.loads(body)[int(offset) : int(offset) + 1]
            status, body = (200, json.dumps(page).encode()) if page else (204, b"")
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        pass


def listed(*matches: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
    items = [{tag: {"vr": "UI", "Value": [value]} for tag, value in match.items()} for match in matches]
    return 200, {"Content-Type": "application/dicom+json"}, json.dumps(items).encode()


def parts(*films: bytes, **headers: str) -> tuple[int, dict[str, str], bytes]:
    body = b"".join(b"--b\r\nContent-Type: application/dicom\r\n\r\n" + data + b"\r\n" for data in films) + b"--b--\r\n"
    return 200, {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'} | headers, body


@contextmanager
def archive(tmp_path: Path, acceptance: Acceptance) -> Iterator[tuple[Archive, DicomwebWatcher]]:
    """An archive with one film, which names another address as the one to fetch it from."""
    chain, key = certificate(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(chain, key)
    token = tmp_path / "token"
    token.write_text("the-token\n")
    with Archive(tls) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        url = f"https://localhost:{server.server_address[1]}/web"
        elsewhere = f"https://localhost:{server.server_address[1]}/trap"
        study, series = f"/web/studies/{STUDY}", f"/web/studies/{STUDY}/series/{SERIES}"
        server.answers = {
            "/web/studies": listed({"0020000D": STUDY, "00080020": day(), "00081190": elsewhere}),
            f"{study}/series": listed({"0020000E": SERIES, "00081190": elsewhere}),
            f"{series}/instances": listed({"00080018": INSTANCE, "00081190": elsewhere}),
            f"{series}/instances/{INSTANCE}": parts(film(1)),
        }
        source = DicomwebSource(name="archive", url=url, modalities=("DX",), token_file=token, ca_file=chain)
        try:
            with open_client(source) as client:
                yield server, DicomwebWatcher(source, client, acceptance)
        finally:
            server.shutdown()
            thread.join()


@ON_SQLITE
def test_by_token_and_own_authority_and_never_elsewhere(acceptance: Acceptance, tmp_path: Path) -> None:
    with archive(tmp_path, acceptance) as (server, watching):
        watching.poll()
        assert count(acceptance.database, JobRow) == 1
        before = len(server.asked)
        watching.poll()
        assert not any("trap" in path for path in server.asked)
        assert not any(path.endswith(INSTANCE) for path in server.asked[before:])  # seen


@ON_SQLITE
def test_an_archive_may_cut_its_pages_as_it_likes(acceptance: Acceptance, tmp_path: Path) -> None:
    with archive(tmp_path, acceptance) as (server, watching):
        names = [f"2.25.1{number:06d}" for number in range(3)]
        folder = FILM_PATH.rpartition("/")[0]
        server.answers[folder] = listed(*({"00080018": name} for name in names))
        server.answers |= {f"{folder}/{name}": parts(film(number)) for number, name in enumerate(names)}
        watching.poll()
    assert count(acceptance.database, JobRow) == 3


@ON_SQLITE
def test_an_archive_that_never_ends_its_list_is_left(
    acceptance: Acceptance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.pacs.dicomweb.MOST_MATCHES", 2)
    with archive(tmp_path, acceptance) as (server, watching):
        folder = FILM_PATH.rpartition("/")[0]
        server.answers[folder] = listed(*({"00080018": f"2.25.1{number}"} for number in range(3)))
        with pytest.raises(SourceNotUnderstood):
            watching.poll()


FILM_PATH = f"/web/studies/{STUDY}/series/{SERIES}/instances/{INSTANCE}"
REFUSED = {
    "too large": (parts(bytes(MAX_BYTES + 1)), "too_many_bytes"),
    "endless": (parts(bytes(3 * MAX_BYTES)), "too_many_bytes"),
    "another film": (parts(film(2)), "uid_mismatch"),
    "no film": (parts(b"no DICOM at all"), "unsupported_format"),
}


@ON_SQLITE
@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_the_film_is_refused_once_and_recorded(acceptance: Acceptance, tmp_path: Path, case: str) -> None:
    answer, code = REFUSED[case]
    with archive(tmp_path, acceptance) as (server, watching):
        server.answers[FILM_PATH] = answer
        watching.poll()
        watching.poll()
    with acceptance.database.read() as session:
        [event] = session.scalars(select(EventRow)).all()
    assert (event.kind, event.payload["code"]) == ("film.refused", code)


FAILED = {
    "silent": (FILM_PATH, (SILENT, {}, b"")),
    "away for now": (FILM_PATH, (503, {}, b"")),
    "sent elsewhere": (FILM_PATH, (302, {"Location": "/trap"}, b"")),
    "two films": (FILM_PATH, parts(film(1), film(2))),
    "cut off": (FILM_PATH, (200, parts()[1], parts(film(1))[2][:-30])),
    "another type": (FILM_PATH, (200, {"Content-Type": "text/html"}, b"<html>")),
    "compressed": (FILM_PATH, (200, parts()[1] | {"Content-Encoding": "gzip"}, gzip.compress(parts(film(1))[2]))),
    "no list": (f"/web/studies/{STUDY}/series", (200, {}, b'{"a": 1}')),
    "deep list": (f"/web/studies/{STUDY}/series", (200, {}, b"[" * 100_000)),
    "a path for a UID": (f"/web/studies/{STUDY}/series", listed({"0020000E": "../../../trap"})),
}


@ON_SQLITE
@pytest.mark.parametrize("case", FAILED)
def test_what_fails_is_asked_for_again(acceptance: Acceptance, tmp_path: Path, case: str) -> None:
    path, answer = FAILED[case]
    with archive(tmp_path, acceptance) as (server, watching):
        good = server.answers[path]
        server.answers[path] = answer
        watching.client.timeout = httpx.Timeout(0.5 if case == "silent" else 60)
        with pytest.raises(SourceNotUnderstood):
            watching.poll()
        assert (count(acceptance.database, JobRow), count(acceptance.database, EventRow)) == (0, 0)
        assert not any("trap" in asked for asked in server.asked)
        server.answers[path] = good
        watching.poll()
        assert count(acceptance.database, JobRow) == 1


@pytest.mark.parametrize(
    "text",
    [
        "[[dicomweb]]\nname = 'a'",
        "[[dicomweb]]\nname = 'a'\nurl = 'file:///etc'",
        "[[dicomweb]]\nname = 'a'\nurl = 'http://a'\nmodalities = []",
        "[[dicomweb]]\nname = 'a'\nurl = 'http://a'\nusername = 'b'\ntoken_file = 'c'",
        "[[dicomweb]]\nname = 'a'\nurl = 'http://a'\n[[orthanc]]\nname = 'a'\nurl = 'http://a'",
        "[[orthanc]]\nname = 'a'\nurl = 'http://a'\nunknown = 1",
        "not TOML",
    ],
)
def test_a_list_of_sources_that_cannot_be_used(tmp_path: Path, text: str) -> None:
    path = tmp_path / "sources.toml"
    path.write_text(text)
    with pytest.raises(SourcesError):
        load_sources(path)


def test_nothing_to_watch_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourcesError, match="nothing to watch"):
        watched_sources(Settings(data_dir=tmp_path))
