"""The deployed classifier's probabilities beside ours, over HTTP."""

import json
from typing import Any

import httpx
import pytest

from service.app import open_database
from service.desk.comparison import MOST_COMPARISONS
from service.ledger.signing import Signer
from service.ledger.verify import verify
from service.records import queries, review_queries
from service.settings import Settings
from tests.service.serving import png

HEADER = "Triggerscope-Probabilities"


def submit(client: httpx.Client, film: bytes, deployed: object = None) -> httpx.Response:
    text = deployed if isinstance(deployed, str) else json.dumps(deployed)
    headers = {"Content-Type": "image/png"} | ({HEADER: text} if deployed is not None else {})
    return client.post("/v1/audits", content=film, headers=headers)


def answers(client: httpx.Client, film: bytes) -> dict[str, float]:
    return dict(submit(client, film).json()["probabilities"])


def off(probability: float, by: float) -> float:
    return probability - by if probability > 0.5 else probability + by


def about(settings: Settings, audit_id: str) -> tuple[Any, list[dict[str, Any]]]:
    with open_database(settings) as database, database.read() as session:
        events = [event.payload for event in queries.events_about(session, audit_id) if event.kind == "review.mismatch"]
        return review_queries.review(session, audit_id), events


def test_the_same_answer_agrees(client: httpx.Client, shared_settings: Settings) -> None:
    film = png(701)
    ours = answers(client, film)
    audit = submit(client, film, {label: off(p, 0.009) for label, p in ours.items()} | {"Fracture": 0.9}).json()
    assert audit["deployed"] | {"label": "", "deployed": 0, "audited": 0} == {
        "label": "", "deployed": 0, "audited": 0, "tolerance": 0.01, "mismatch": False,
    }  # fmt: skip
    assert about(shared_settings, audit["id"])[1] == []


@pytest.mark.parametrize("is_known", [False, True])
def test_another_answer_is_reported(client: httpx.Client, shared_settings: Settings, *, is_known: bool) -> None:
    """Whether it comes with the film or when the audit is done already."""
    film, twin = png(702 + is_known), png(702 + is_known)
    if is_known:
        ours = answers(client, film)
        assert client.post("/v1/audits", content=film).json()["deployed"] is None
        sent = {label: off(p, 0.3 if label == "Atelectasis" else 0.001) for label, p in ours.items()}
    else:
        sent = {"Atelectasis": 1.0, "Effusion": 0.0}
    audit = submit(client, twin, sent).json()
    found = audit["deployed"]
    assert found["mismatch"]
    assert found["deployed"] == sent[found["label"]]
    assert found["audited"] == audit["probabilities"][found["label"]]
    assert found["label"] == max(sent, key=lambda label: abs(sent[label] - audit["probabilities"][label]))
    assert audit["reasons"][0].startswith(f"the deployed classifier gave {found['label']}")
    assert client.get(audit["links"]["self"]).json()["deployed"] == found
    review, events = about(shared_settings, audit["id"])
    assert (review.priority, review.state) == (2, "open")
    assert [event["label"] for event in events] == [found["label"]]
    submit(client, twin, sent)
    assert len(about(shared_settings, audit["id"])[1]) == 1
    counted = [line for line in client.get("/metrics").text.splitlines() if line.startswith("triggerscope_probab")]
    assert float(counted[0].split()[-1]) >= 1
    with open_database(shared_settings) as database:
        report = verify(database, Signer.open(shared_settings.data_dir).public_pem)
    assert [fault for fault in report.faults if fault.place == audit["id"]] == []


def test_a_film_keeps_a_bounded_number_of_them(client: httpx.Client) -> None:
    film = png(719)
    sets = [{"Atelectasis": number / 100} for number in range(MOST_COMPARISONS + 1)]
    statuses = [submit(client, film, deployed).status_code for deployed in sets]
    assert statuses[0] in (201, 202)
    assert set(statuses[1:-1]) == {200}
    assert statuses[-1] == 422
    assert submit(client, film, sets[0]).status_code == 200


def test_a_form_carries_them_in_a_field(client: httpx.Client) -> None:
    fields = {"probabilities": json.dumps({"Atelectasis": 1.0})}
    audit = client.post("/v1/audits", files={"file": png(704)}, data=fields).json()
    assert audit["deployed"]["deployed"] == 1.0


@pytest.mark.parametrize(
    "sent",
    [
        "null",
        "[]",
        "{}",
        "{",
        '{"Atelectasis": 1.5}',
        '{"Atelectasis": NaN}',
        '{"Atelectasis": true}',
        '{"Nonsense": 0.5}',
    ],
)
def test_what_cannot_be_compared_is_refused_and_nothing_is_queued(client: httpx.Client, sent: str) -> None:
    film = png(705)
    answer = submit(client, film, sent)
    assert (answer.status_code, answer.json()["code"]) == (422, "unusable_probabilities")
    assert submit(client, film).status_code in (200, 201)
