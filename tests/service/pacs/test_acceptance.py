import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, SecondaryCaptureImageStorage
from sqlalchemy import select, update

from service.errors import RadiographError
from service.pacs.acceptance import Acceptance
from service.pacs.identity import Sender, UnknownStudy, forget, open_pseudonyms
from service.pacs.instance import NotUnderstood, UnsupportedSopClass, read_instance
from service.pacs.rules import Rule, Rules, When
from service.queue.intake import Accepted, QueueFull
from service.queue.sweep import sweep
from service.records import pacs_queries, queries
from service.records.session import Database, utc_now
from service.records.tables import (
    BY_RULE,
    NAMED,
    NO_POLICY,
    NO_RULE,
    EventRow,
    FilmRow,
    IdentityRow,
    InstanceRow,
    JobRow,
)
from service.settings import Settings
from tests.dicom_files import PLANTED_ID, PLANTED_NAME
from tests.service.pacs.conftest import make_acceptance
from tests.service.pacs.films import STUDY, film

SENDER = Sender("dimse", "dimse:CT7", "CT7", calling_ae="CT7", called_ae="TRIGGERSCOPE", address="10.2.0.1")


def accept(acceptance: Acceptance, data: bytes, sender: Sender = SENDER) -> Accepted:
    return acceptance.accept(data, acceptance.read(data), sender)


def test_a_film_is_queued_undecoded_with_its_original(acceptance: Acceptance) -> None:
    data = film(1)
    accepted = accept(acceptance, data)
    with acceptance.database.read() as session:
        job = queries.job(session, accepted.job_id)
        assert job is not None
        assert (job.state, job.rule, job.film.pixels_sha256) == ("queued", None, "")
        assert (job.film.width, job.film.height, job.film.attributes["modality"]) == (96, 96, "DX")
        assert [e.kind for e in queries.events_about(session, job.id)] == ["film.received"]
        film_sha256 = job.film_sha256
    assert acceptance.storage.original_path(film_sha256).read_bytes() == data


def test_the_same_film_twenty_times_is_one_job(acceptance: Acceptance) -> None:
    jobs = {accept(acceptance, film(1)).job_id for _ in range(20)}
    assert len(jobs) == 1
    with acceptance.database.read() as session:
        for table in (FilmRow, JobRow, InstanceRow, IdentityRow):
            assert len(session.scalars(select(table)).all()) == 1


def test_what_belongs_to_the_acceptance_is_committed_with_it(acceptance: Acceptance) -> None:
    data = film(1)

    def fail(_unit: object) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        acceptance.accept(data, acceptance.read(data), SENDER, fail)
    with acceptance.database.read() as session:
        assert session.scalars(select(JobRow)).all() == []


def test_a_full_queue_refuses_new_films_only(opened: Database, settings: Settings) -> None:
    acceptance = make_acceptance(opened, settings, depth=1)
    accept(acceptance, film(1))
    accept(acceptance, film(1))
    with pytest.raises(QueueFull):
        accept(acceptance, film(2))


def test_identifiers_are_kept_apart_and_hashed(acceptance: Acceptance) -> None:
    accept(acceptance, film(1))
    with acceptance.database.read() as session:
        [row], [raw] = session.scalars(select(InstanceRow)).all(), session.scalars(select(IdentityRow)).all()
        assert raw.study_instance_uid == STUDY
        assert row.study_hmac == acceptance.pseudonyms.of(STUDY)
        assert (row.calling_ae, row.address) == ("CT7", "10.2.0.1")
        [stored] = session.scalars(select(FilmRow)).all()
        lasting = [vars(kept) for kept in (*session.scalars(select(EventRow)), row, stored)]
    for planted in (PLANTED_NAME, PLANTED_ID, STUDY, "2.25.1000001"):
        assert planted not in str(lasting)


def test_the_key_is_made_once(settings: Settings) -> None:
    path = settings.data_dir / "identity.key"
    first, second = open_pseudonyms(path), open_pseudonyms(path)
    assert first.of(STUDY) == second.of(STUDY) != open_pseudonyms(settings.data_dir / "other.key").of(STUDY)
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(kept.name for kept in settings.data_dir.iterdir()) == ["identity.key", "other.key"]


def test_forgetting_removes_original_and_identity_and_leaves_the_record(acceptance: Acceptance) -> None:
    job_id = accept(acceptance, film(1)).job_id
    accept(acceptance, film(2, study="2.25.21"))
    forgotten = forget(acceptance.database, acceptance.storage, acceptance.pseudonyms, STUDY, "test")
    assert forgotten == 1
    with acceptance.database.read() as session:
        job = queries.job(session, job_id)
        assert job is not None
        assert job.film.original_expires_at is None
        assert [raw.study_instance_uid for raw in session.scalars(select(IdentityRow))] == ["2.25.21"]
        assert pacs_queries.instance(session, job.film_sha256) is not None
        subjects = session.scalars(select(EventRow.subject).where(EventRow.kind == "study.forgotten")).all()
        assert list(subjects) == [acceptance.pseudonyms.of(STUDY)]
    assert list(acceptance.storage.originals_older_than(-10)) != [job.film_sha256]
    with pytest.raises(UnknownStudy):
        forget(acceptance.database, acceptance.storage, acceptance.pseudonyms, "1.2.3", "test")


def test_identities_go_with_their_originals(acceptance: Acceptance) -> None:
    job_id = accept(acceptance, film(1)).job_id
    with acceptance.database.write() as unit:
        job = queries.job(unit.session, job_id)
        assert job is not None
        job.state = "done"
        queries.extend_original(unit.session, job.film_sha256, utc_now())
        [raw] = unit.session.scalars(select(IdentityRow)).all()
        raw.expires_at = utc_now()
    sweep(acceptance.database, acceptance.storage)
    with acceptance.database.read() as session:
        assert session.scalars(select(IdentityRow)).all() == []


def test_a_rule_chooses(opened: Database, settings: Settings) -> None:
    rules = Rules(rule=(Rule(name="ct", when=When(calling_ae=("CT*",)), classifier="small"),))
    acceptance = make_acceptance(opened, settings, rules)
    fitting = accept(acceptance, film(1))
    other = accept(acceptance, film(2), Sender("dimse", "dimse:XR", "XR", calling_ae="XR"))
    with opened.read() as session:
        jobs = [queries.job(session, accepted.job_id) for accepted in (fitting, other)]
    assert [job.rule for job in jobs if job] == ["ct", NO_RULE]
    assert [job.policy_sha256 for job in jobs if job] == [NO_POLICY, NO_POLICY]
    assert [job.chosen_by for job in jobs if job] == [BY_RULE, BY_RULE]


def test_a_film_that_somebody_named_counts_as_chosen_by_a_rule_once_a_rule_chooses_the_same(
    opened: Database, settings: Settings
) -> None:
    data = film(1)
    rules = Rules(rule=(Rule(name="all"),))
    acceptance = make_acceptance(opened, settings, rules)
    job_id = accept(acceptance, data).job_id
    for stored, expected in ((NAMED, BY_RULE), (None, BY_RULE), (BY_RULE, BY_RULE)):
        with opened.write() as unit:
            unit.session.execute(update(JobRow).values(chosen_by=stored))
        accept(acceptance, data)
        with opened.read() as session:
            job = queries.job(session, job_id)
            kinds = [event.kind for event in queries.events_about(session, job_id)]
        assert job is not None
        assert job.chosen_by == expected
    assert kinds == ["film.received", "audit.chosen_again", "audit.chosen_again"]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(200), NotUnderstood),
        (film(1)[:300], NotUnderstood),
        (film(1, StudyInstanceUID=None), NotUnderstood),
        (film(1, SOPInstanceUID="not a uid"), NotUnderstood),
    ],
)
def test_what_cannot_be_understood_leaves_a_trace(acceptance: Acceptance, data: bytes, error: type) -> None:
    with pytest.raises(error) as caught:
        acceptance.read(data)
    assert isinstance(caught.value, RadiographError)
    acceptance.refuse(data, SENDER, caught.value)
    with acceptance.database.read() as session:
        [event] = session.scalars(select(EventRow)).all()
    assert (event.kind, event.payload["code"]) == ("film.refused", "not_understood")


def test_a_result_of_ours_is_no_film(acceptance: Acceptance) -> None:
    data = film(1, SOPClassUID=SecondaryCaptureImageStorage)
    with pytest.raises(UnsupportedSopClass):
        accept(acceptance, data)


def test_a_deflated_file_is_refused_before_it_is_inflated(acceptance: Acceptance) -> None:
    data = film(1).replace(b"1.2.840.10008.1.2.1\x00", (DeflatedExplicitVRLittleEndian + "\0\0").encode()[:20])
    with pytest.raises(RadiographError):
        read_instance(data, acceptance.limits)
