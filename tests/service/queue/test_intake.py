"""There is one way in: by REST, decoded first, and from a PACS, by the header, films are accepted alike."""

import hashlib
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from sqlalchemy import update

from service.errors import RadiographError
from service.films.radiograph import Decoder
from service.pacs.acceptance import Acceptance
from service.pacs.identity import Sender
from service.queue.intake import Accepted, QueueFull, Submission
from service.queue.uploads import DecodedFilms, Uploads
from service.records import queries
from service.records.session import Database, utc_now
from service.records.tables import FilmRow, JobRow
from service.settings import Settings
from tests.service.pacs.conftest import count, make_acceptance, opened, settings
from tests.service.pacs.films import film

__all__ = ["opened", "settings"]
Accept = Callable[[bytes], Accepted]


@pytest.fixture
def acceptance(opened: Database, settings: Settings) -> Acceptance:
    return make_acceptance(opened, settings, depth=2)


@pytest.fixture(params=["rest", "pacs"])
def accept(request: pytest.FixtureRequest, acceptance: Acceptance, decoder: Decoder) -> Accept:
    """One of the two callers of the one way in."""

    def by_rest(data: bytes) -> Accepted:
        uploads = Uploads(intake=acceptance.intake, decode=decoder.decode, decoded=DecodedFilms(), tolerance=0.01)
        return uploads.submit(Submission(data, hashlib.sha256(data).hexdigest(), "ward", "key:ward"))

    def from_a_pacs(data: bytes) -> Accepted:
        return acceptance.accept(data, acceptance.read(data), Sender("dimse", "dimse:CT7", "CT7"))

    return by_rest if request.param == "rest" else from_a_pacs


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(1) as decoder:
        yield decoder


def fail(database: Database, job_id: str) -> None:
    with database.write() as unit:
        failed = {"state": "failed", "error_code": "decode_failed", "error_detail": "it would not decode"}
        unit.session.execute(update(JobRow).where(JobRow.id == job_id).values(**failed))


def test_a_film_comes_in_once(accept: Accept, opened: Database) -> None:
    first, again = accept(film(1)), accept(film(1))
    assert (first.is_new, again.is_new, first.job_id) == (True, False, again.job_id)
    assert (count(opened, FilmRow), count(opened, JobRow)) == (1, 1)


def test_a_full_queue_refuses_new_films_and_knows_those_that_are_here(accept: Accept) -> None:
    known = accept(film(1))
    accept(film(2))
    with pytest.raises(QueueFull):
        accept(film(3))
    assert accept(film(1)) == Accepted(known.job_id, is_new=False)


def test_a_film_whose_audit_failed_is_queued_again_where_there_is_room(accept: Accept, opened: Database) -> None:
    failed = accept(film(1))
    fail(opened, failed.job_id)
    assert accept(film(1)) == Accepted(failed.job_id, is_new=True)
    with opened.read() as session:
        job = queries.job(session, failed.job_id)
    assert job is not None
    assert (job.state, job.error_code, job.error_detail) == ("queued", None, None)


def test_a_film_whose_audit_failed_waits_for_room_in_a_full_queue(accept: Accept, opened: Database) -> None:
    failed = accept(film(1))
    fail(opened, failed.job_id)
    accept(film(2))
    accept(film(3))
    with pytest.raises(QueueFull):
        accept(film(1))


def test_an_original_stays_from_when_it_came_last(accept: Accept, acceptance: Acceptance, opened: Database) -> None:
    data = film(1)
    digest = hashlib.sha256(data).hexdigest()
    accept(data)
    acceptance.storage.remove_original(digest)
    with opened.write() as unit:
        unit.session.execute(update(FilmRow).values(original_expires_at=None))
    accept(data)
    assert acceptance.storage.original_path(digest).read_bytes() == data
    with opened.read() as session:
        row = queries.film(session, digest)
    assert row is not None
    assert row.original_expires_at is not None
    assert row.original_expires_at > utc_now() + acceptance.intake.retention - timedelta(minutes=1)


def test_nothing_is_kept_of_a_film_that_is_refused(accept: Accept, acceptance: Acceptance, opened: Database) -> None:
    with pytest.raises(RadiographError):
        accept(film(1)[:200])
    assert (count(opened, FilmRow), count(opened, JobRow)) == (0, 0)
    assert list(acceptance.storage.originals_older_than(-10)) == []
