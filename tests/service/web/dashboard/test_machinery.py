"""The pages about the machinery: whether policies still fit, destinations, and results that were given up."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import httpx
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification
from sqlalchemy import delete

from service.app import open_database
from service.audit.calibration import Policy
from service.people import keys
from service.records.session import utc_now
from service.records.tables import DeliveryRow, DriftBlockRow
from service.settings import Settings
from tests.service.pacs.receiver import receiving
from tests.service.serving import png, serving

ALERT = re.compile(r'triggerscope_calibration_alert\{classifier="phantom-badnet3",source="portable"\} (\S+)')


def test_a_policy_that_no_longer_fits_is_told_everywhere(
    client: httpx.Client, shared_settings: Settings, models_dir: Path
) -> None:
    policy = Policy.load(models_dir / "phantom-badnet3.policy.json")
    values = {"scores": policy.scores[:100].tolist(), "distances": (policy.distances[:100] + 1).tolist()}
    alarming = DriftBlockRow(
        policy_sha256=policy.sha256, source="portable", number=1, from_at=utc_now(), to_at=utc_now(),
        p_values={"reached": 1.0, "scores": 0.5, "likeness": 1e-9}, alarms=["likeness"], **values,
    )  # fmt: skip
    with open_database(shared_settings) as database:
        with database.write() as unit:
            unit.session.add(alarming)
        page = client.get("/classifiers").text
        assert "its films do not look like the calibration films" in page
        assert "What clean films show" in page
        assert "no longer fits the films from portable" in client.get("/system").text
        assert ALERT.findall(client.get("/metrics").text) == ["1.0"]
        with database.write() as unit:
            unit.session.execute(delete(DriftBlockRow).where(DriftBlockRow.source == "portable"))
        assert "portable" not in client.get("/system").text


def test_a_result_that_was_given_up_is_sent_again_by_an_administrator(
    server: httpx.Client, client: httpx.Client, tokens: dict[str, str], shared_settings: Settings
) -> None:
    job = client.post("/v1/audits", content=png(210), headers={"Content-Type": "image/png"}).json()["id"]
    row = DeliveryRow(
        id="d" * 32, job_id=job, destination="archive", kind="sr", state="dead", attempts=12, due_at=utc_now(),
        error_code="delivery_failed", created_at=utc_now() - timedelta(hours=3),
    )  # fmt: skip
    with open_database(shared_settings) as database:
        with database.write() as unit:
            unit.session.add(row)
        assert "given up" in client.get("/system").text
        admin = {"Authorization": f"Bearer {tokens['admin']}"}
        answer = server.post(f"/system/deliveries/{row.id}/resend", headers=admin)
        assert (answer.status_code, answer.headers["location"]) == (303, "/system")
        assert "given up" not in client.get("/system").text
        again = server.post(f"/system/deliveries/{row.id}/resend", headers=admin)
        assert (again.status_code, again.json()["code"]) == (404, "unknown_delivery")
        with database.write() as unit:
            unit.session.execute(delete(DeliveryRow))


@contextmanager
def archive() -> Iterator[int]:
    """A DICOM peer that answers C-ECHO; its port."""
    application = AE("ARCHIVE")
    application.add_supported_context(Verification)
    server = application.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_ECHO, lambda _: 0)])
    try:
        yield server.socket.getsockname()[1]
    finally:
        server.shutdown()


def test_destinations_are_asked_whether_they_answer(shared_settings: Settings, tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    settings = shared_settings.model_copy(update={"data_dir": tmp_path / "data", "rules_file": rules})
    with archive() as port, receiving() as receiver:
        receiver.get_status = 200
        rules.write_text(
            f'[[destination]]\nname = "archive"\nhost = "127.0.0.1"\nport = {port}\nae_title = "ARCHIVE"\n'
            f'[[destination]]\nname = "web"\nstow_url = "{receiver.url}/studies"\n'
            '[[destination]]\nname = "gone"\nstow_url = "http://127.0.0.1:1/studies"\n'
        )
        with serving(settings) as client, open_database(settings) as database:
            token, _ = keys.create(database, "root", ["admin", "audits:read"], None, "test")
            client.headers["Authorization"] = f"Bearer {token}"
            assert f"ARCHIVE at 127.0.0.1, port {port}" in client.get("/system").text
            for name, words in (("archive", "answered C-ECHO, "), ("web", "answered 200, "), ("gone", "reached, ")):
                assert words in client.post(f"/system/peers/{name}/echo").text
            receiver.get_status = 401
            assert 'class="bad">answered 401' in client.post("/system/peers/web/echo").text
