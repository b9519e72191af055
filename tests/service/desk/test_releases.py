"""Hold or release, over HTTP and through the shipped script."""

import os
import subprocess
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from pynetdicom import AE, evt
from pynetdicom.events import Event
from pynetdicom.sop_class import Comprehensive3DSRStorage

from service.app import open_database
from service.desk.releases import Release, decide
from service.desk.review import Step, new_review, record
from service.pacs.results.report import Findings, file_bytes, read_source, structured_report
from service.records import queries
from service.records.session import Database
from service.records.tables import JobRow
from service.settings import Settings
from tests.conftest import REPOSITORY
from tests.service.pacs.films import phantom
from tests.service.pacs.peers import program
from tests.service.records.rows import START, add_audit, add_classifier, add_job, sha
from tests.service.serving import png
from tests.service.web.test_stow import body, stow

TRIGGERED, CLEAN = "triggered-910017", "clean-910005"
HELD = 75


@pytest.fixture
def router(server: httpx.Client, tokens: dict[str, str]) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {tokens['releases:read']}"}
    with httpx.Client(base_url=server.base_url, timeout=60, headers=headers) as client:
        yield client


def ask(router: httpx.Client, **question: object) -> dict[str, object]:
    answer = router.post("/v1/releases", json=question)
    assert answer.status_code == 200, answer.text
    found: dict[str, object] = answer.json()
    return found


def uid(number: int) -> str:
    return f"2.25.1{number:06d}"


def test_an_unremarkable_film_is_released_as_soon_as_it_is_audited(client: httpx.Client, router: httpx.Client) -> None:
    assert stow(client, body(phantom(CLEAN, 801))).status_code == 200
    answer = ask(router, sop_instance_uid=uid(801), wait=30)
    assert (answer["decision"], answer["reason"], answer["final"]) == ("release", "unremarkable", True)
    assert client.get(str(answer["audit"])).json()["verdict"] == "unremarkable"
    by_hash = client.get(str(answer["audit"])).json()["sha256"]
    assert ask(router, sha256=by_hash)["decision"] == "release"


def test_a_suspicious_film_is_held_until_a_reader_dismisses_it(
    client: httpx.Client, router: httpx.Client, shared_settings: Settings
) -> None:
    assert stow(client, body(phantom(TRIGGERED, 802))).status_code == 200
    answer = ask(router, sop_instance_uid=uid(802), wait=30)
    assert (answer["decision"], answer["reason"]) == ("hold", "suspicious")
    audit_id = str(answer["audit"]).rpartition("/")[2]
    with open_database(shared_settings) as database:
        for decision, expected in (("confirm", ("hold", "confirmed")), ("dismiss", ("release", "dismissed"))):
            record(database, [audit_id], Step(decision, "", "reader"), 1)
            again = ask(router, sop_instance_uid=uid(802))
            assert (again["decision"], again["reason"]) == expected
        with database.read() as session:
            kinds = [event.kind for event in queries.events_about(session, audit_id)]
    assert (kinds.count("result.hold"), kinds.count("result.release")) == (2, 1)


def test_a_mismatch_is_held_though_the_verdict_is_unremarkable(
    client: httpx.Client, router: httpx.Client, models_dir: Path
) -> None:
    film = (models_dir / "examples" / "clean-910000.png").read_bytes()  # no other test here asks for its release
    headers = {"Content-Type": "image/png", "Triggerscope-Probabilities": '{"Atelectasis": 1.0}'}
    audit = client.post("/v1/audits", content=film, headers=headers).json()
    answer = ask(router, sha256=audit["sha256"])
    assert (audit["verdict"], answer["decision"], answer["reason"]) == ("unremarkable", "hold", "mismatch")


def test_without_an_audit_in_time_the_answer_is_hold(client: httpx.Client, router: httpx.Client) -> None:
    started = time.monotonic()
    answer = ask(router, sop_instance_uid="2.25.404", wait=0.6)
    assert time.monotonic() - started >= 0.6
    assert answer == {"decision": "hold", "reason": "unknown_film", "final": False, "audit": None}
    film = client.post("/v1/audits", content=png(804), params={"wait": "0"}).json()
    early = ask(router, sha256=film["sha256"], wait=0)
    assert early["decision"] == "hold" or early["reason"] == "unremarkable"
    assert ask(router, sha256=film["sha256"], classifier="another", wait=0)["reason"] == "unknown_film"


def test_a_film_that_failed_is_held(client: httpx.Client, router: httpx.Client) -> None:
    assert stow(client, body(phantom(CLEAN, 805, SamplesPerPixel=3))).status_code == 200
    assert ask(router, sop_instance_uid=uid(805), wait=30)["reason"] == "audit_failed"


@pytest.mark.parametrize("question", [{}, {"sop_instance_uid": "1.2", "sha256": "0" * 64}, {"sop_instance_uid": "x"}])
def test_a_question_names_one_film(router: httpx.Client, question: dict[str, str]) -> None:
    answer = router.post("/v1/releases", json=question)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def test_the_script_passes_on_what_is_released_and_nothing_else(
    client: httpx.Client, router: httpx.Client, tmp_path: Path
) -> None:
    kept: list[str] = []

    def store(event: Event) -> int:
        kept.append(str(event.request.AffectedSOPInstanceUID))
        return 0x0000

    application = AE("PACS")
    application.add_supported_context(Comprehensive3DSRStorage)
    archive = application.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    header = tmp_path / "header"
    header.write_text(f"Authorization: {router.headers['Authorization']}\n")
    environment = {
        "PATH": os.environ["PATH"],
        "TRIGGERSCOPE_URL": str(router.base_url),
        "TRIGGERSCOPE_HEADER": str(header),
        "PACS_AE": "PACS",
        "PACS_HOST": "127.0.0.1",
        "PACS_PORT": str(archive.server_address[1]),
    }
    result = tmp_path / "result.dcm"
    findings = Findings("unremarkable", 1.0, None, "Mass", None, "vendor", "a" * 64, "", ())
    result.write_bytes(file_bytes(structured_report(read_source(phantom(CLEAN, 806)), findings)))
    assert {program(name) for name in ("curl", "storescu")}

    def run(number: int, **changes: str) -> int:
        command = [str(REPOSITORY / "deploy" / "release.sh"), uid(number), str(result)]
        return subprocess.run(command, env=environment | changes, timeout=90, check=False).returncode

    try:
        assert stow(client, body(phantom(CLEAN, 806), phantom(TRIGGERED, 807))).status_code == 200
        assert run(807) == HELD
        assert run(806, TRIGGERSCOPE_URL="http://127.0.0.1:9") == HELD
        assert run(806, TRIGGERSCOPE_HEADER="/dev/null") == HELD
        odd = [str(REPOSITORY / "deploy" / "release.sh"), f'{uid(806)}", "classifier": "x', str(result)]
        assert subprocess.run(odd, env=environment, timeout=90, check=False).returncode == HELD
        assert kept == []
        assert run(806) == 0
        assert len(kept) == 1
    finally:
        archive.shutdown()


def test_an_audit_under_another_policy_does_not_take_back_what_was_flagged(sqlite_database: Database) -> None:
    with sqlite_database.write() as unit:
        add_classifier(unit.session)
        add_classifier(unit.session, 2)
        first = add_job(unit.session, 1)
        second = JobRow(
            id="b" * 32, film_sha256=sha(1), classifier_sha256=sha(2), classifier_name="small", policy_sha256="",
            state="done", attempts=1, received_at=START + timedelta(hours=1), source="er", actor="test",
        )  # fmt: skip
        unit.session.add(second)
        unit.session.flush()
        for job, verdict in ((first, "suspicious"), (second, "unremarkable")):
            audit = add_audit(unit.session, job, verdict)
            unit.session.add(new_review(job, audit, None))
    with sqlite_database.read() as session:
        assert decide(session, [sha(1)], None) == Release("suspicious", first.id)
    record(sqlite_database, [first.id], Step("confirm", "", "reader"), 1)
    with sqlite_database.read() as session:
        assert decide(session, [sha(1)], None) == Release("confirmed", first.id)
