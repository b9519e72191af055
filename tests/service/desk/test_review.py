from dataclasses import replace

import pytest

from service.desk.review import Review, SameReader, Step, UnsuitableReader, advance, assign, group_key, record
from service.people import accounts
from service.records import queries, review_queries
from service.records.review_queries import DeskFilters
from service.records.session import Database
from service.records.tables import AuditRow, FilmRow, ReviewRow
from tests.service.records.rows import START, add_audit, add_classifier, add_job, sha

OPEN = Review("open")


def test_one_reader_decides_at_once() -> None:
    confirmed = advance(OPEN, "confirm", "ada", START, readers=1)
    assert (confirmed.state, confirmed.decided_by, confirmed.decided_at) == ("confirmed", "ada", START)
    assert advance(OPEN, "dismiss", "ada", START, readers=1).state == "dismissed"


def test_two_readers_have_to_be_two_people_who_agree() -> None:
    first = advance(OPEN, "confirm", "ada", START, readers=2)
    assert first == Review("second_reader", "confirmed", "ada")
    with pytest.raises(SameReader):
        advance(first, "confirm", "ada", START, readers=2)
    assert advance(first, "confirm", "bob", START, readers=2).state == "confirmed"
    assert advance(first, "dismiss", "bob", START, readers=2) == OPEN


def test_a_referred_film_waits_for_somebody_else() -> None:
    referred = advance(OPEN, "refer", "ada", START, readers=1)
    assert referred.state == "second_reader"
    with pytest.raises(SameReader):
        advance(referred, "dismiss", "ada", START, readers=1)
    assert advance(referred, "dismiss", "bob", START, readers=1).state == "dismissed"


def test_with_two_readers_a_referral_is_no_signature() -> None:
    referred = advance(OPEN, "refer", "ada", START, readers=2)
    proposed = advance(referred, "confirm", "bob", START, readers=2)
    assert proposed == Review("second_reader", "confirmed", "bob")
    assert advance(proposed, "confirm", "ada", START, readers=2).state == "confirmed"


def test_reopening_forgets_the_decision() -> None:
    confirmed = advance(OPEN, "confirm", "ada", START, readers=1)
    assert advance(confirmed, "reopen", "bob", START, readers=1) == OPEN


def on_the_desk(database: Database, count: int) -> list[str]:
    with database.write() as unit:
        add_classifier(unit.session)
        for number in range(1, count + 1):
            audit = add_audit(unit.session, add_job(unit.session, number, seconds=number), "suspicious")
            unit.session.add(review_of(audit))
    return [f"{number:032x}" for number in range(1, count + 1)]


def review_of(audit: AuditRow, **changes: object) -> ReviewRow:
    values: dict[str, object] = {
        "id": audit.id,
        "state": "open",
        "priority": 2,
        "received_at": audit.received_at,
        "classifier_name": audit.classifier_name,
        "source": "er",
    }
    return ReviewRow(**(values | changes))


def test_every_change_is_an_event_and_a_comment_changes_no_state(database: Database) -> None:
    ids = on_the_desk(database, 3)
    assert record(database, ids[:2], Step("confirm", "the corner again", "ada"), readers=1) == 2
    assert record(database, ids[:1], Step(None, "see the other one", "bob"), readers=1) == 1
    with database.read() as session:
        events = [(event.kind, event.actor, event.payload["state"]) for event in queries.events_about(session, ids[0])]
        assert events == [("review.confirm", "ada", "confirmed"), ("review.comment", "bob", "confirmed")]
        assert review_queries.counts(session, [DeskFilters(state="confirmed")])[0] == 2
        assert review_queries.counts(session, [DeskFilters(state="open")])[0] == 1


def test_a_bulk_decision_is_made_for_all_or_none(database: Database) -> None:
    ids = on_the_desk(database, 2)
    record(database, ids[1:], Step("refer", "", "ada"), readers=1)
    with pytest.raises(SameReader):
        record(database, ids, Step("confirm", "", "ada"), readers=1)
    with database.read() as session:
        assert review_queries.counts(session, [DeskFilters(state="open")])[0] == 1


def test_audits_are_taken_given_and_given_back(database: Database) -> None:
    ids = on_the_desk(database, 3)
    for name, role in (("bob", "reviewer"), ("cleo", "auditor"), ("dan", "reviewer")):
        accounts.create(database, name, role, "correct horse battery", "test")
    accounts.change(database, "dan", "test", disabled=True)
    assert assign(database, ids[:2], "account:bob", "yours", "account:ada") == 2
    assert assign(database, ids[2:], "key:desk", "", "key:desk") == 1
    for unsuitable in ("account:cleo", "account:dan", "account:nobody", "bob"):
        with pytest.raises(UnsuitableReader):
            assign(database, ids, unsuitable, "", "account:ada")
    assign(database, ids[:1], None, "", "account:bob")
    with database.read() as session:
        found = {
            who: review_queries.counts(session, [DeskFilters(assignee=who)])[0] for who in ("account:bob", "nobody")
        }
        events = [(event.kind, event.payload["assignee"]) for event in queries.events_about(session, ids[0])]
    assert found == {"account:bob": 1, "nobody": 1}
    assert events == [("review.assign", "account:bob"), ("review.assign", None)]


def test_who_has_signed_once_no_longer_holds_the_film(database: Database) -> None:
    [audit_id] = on_the_desk(database, 1)
    assign(database, [audit_id], "ada", "", "ada")
    record(database, [audit_id], Step("confirm", "", "ada"), readers=2)
    with database.read() as session:
        assert review_queries.counts(session, [DeskFilters(state="second_reader", assignee="nobody")])[0] == 1


def test_findings_alike_share_a_key() -> None:
    film = FilmRow(width=224, height=224)
    corner = AuditRow(
        classifier_sha256=sha(1), explained_label="Mass", region={"x": 200, "y": 200, "width": 24, "height": 24}
    )
    key = group_key(corner, film)
    large = {name: 2 * value for name, value in (corner.region or {}).items()}
    assert key == group_key(with_(corner, region=large), FilmRow(width=448, height=448))
    assert key != group_key(with_(corner, explained_label="Nodule"), film)
    assert key != group_key(with_(corner, region={"x": 0, "y": 200, "width": 24, "height": 24}), film)
    assert group_key(with_(corner, region=None), film) is None


def with_(audit: AuditRow, **changes: object) -> AuditRow:
    kept = {name: getattr(audit, name) for name in ("classifier_sha256", "explained_label", "region")}
    return AuditRow(**(kept | changes))


def test_a_decision_leaves_the_other_fields_alone() -> None:
    decided = advance(OPEN, "confirm", "ada", START, readers=1)
    assert replace(decided, state="open", decided_by=None, decided_at=None) == OPEN
