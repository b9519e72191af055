"""Statements over both databases; films as they are, and over HTTP: stories/test_choosing.py."""

import numpy as np

from service.audit.likeness import SAME_FILM
from service.desk.review import Step, open_review, record
from service.desk.siblings import other_jobs
from service.records import queries
from service.records.session import Database, Unit
from service.records.tables import NOT_DECODED, FilmRow, InstanceRow, JobRow
from tests.service.records.rows import START, add_audit, add_classifier, add_job, sha


def add_film(unit: Unit, number: int, verdict: str, bits: int | None = None) -> JobRow:
    """A film with an audit whose fingerprint has as many bits set, all over the film; on the desk where flagged."""
    job = add_job(unit.session, number)
    places = np.random.default_rng(0).permutation(1024)[: bits or 0]
    fingerprint = None if bits is None else f"{sum(1 << int(place) for place in places):0256x}"
    audit = add_audit(unit.session, job, verdict, fingerprint=fingerprint)
    open_review(unit, job, audit, "test")
    return job


def add_instance(unit: Unit, number: int, uid: str) -> None:
    values = dict.fromkeys(("sop_class_uid", "calling_ae", "called_ae", "address", "certificate_sha256"), "")
    hashes = {"study_hmac": "s", "series_hmac": "s", "sop_hmac": uid}
    unit.session.add(InstanceRow(film_sha256=sha(number), received_at=START, **values, **hashes))


def others(database: Database, number: int, classifier: str | None = None) -> list[str]:
    with database.read() as session:
        jobs = queries.jobs_of_films(session, [sha(number)], None)
        return [job.film_sha256 for job in other_jobs(session, jobs, classifier)]


def test_by_sop_instance_and_by_pixels(database: Database) -> None:
    with database.write() as unit:
        add_classifier(unit.session)
        for number in range(1, 6):
            add_film(unit, number, "unremarkable")
        for number, uid in ((1, "a"), (2, "a"), (3, "b")):
            add_instance(unit, number, uid)
        for number, pixels in ((3, sha(4)), (5, NOT_DECODED)):
            film = queries.film(unit.session, sha(number))
            assert isinstance(film, FilmRow)
            film.pixels_sha256 = pixels
    assert others(database, 1) == [sha(2)]
    assert others(database, 3) == [sha(4)]
    assert others(database, 4) == [sha(3)]
    assert others(database, 5) == []
    assert others(database, 1, "small") == [sha(2)]
    assert others(database, 1, "large") == []


def test_by_fingerprint_only_what_is_on_the_desk_or_confirmed(database: Database) -> None:
    with database.write() as unit:
        add_classifier(unit.session)
        add_film(unit, 1, "unremarkable", 0)
        near, far = add_film(unit, 2, "suspicious", SAME_FILM), add_film(unit, 3, "suspicious", SAME_FILM + 1)
        unflagged = add_film(unit, 4, "unremarkable", 0)
        add_film(unit, 5, "suspicious")
    assert far.film_sha256 not in others(database, 1)
    assert others(database, 1) == [near.film_sha256]
    record(database, [near.id], Step("confirm", "", "reader"), 1)
    assert others(database, 1) == [near.film_sha256]
    record(database, [near.id], Step("dismiss", "", "reader"), 1)
    assert others(database, 1) == []
    record(database, [unflagged.id], Step("confirm", "", "reader"), 1)
    assert others(database, 1) == [unflagged.film_sha256]
    assert others(database, 5) == []
