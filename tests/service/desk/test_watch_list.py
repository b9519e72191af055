"""From a confirmed trigger to the next film that carries it, through the running service."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.app import open_database
from service.desk import review, watch_list
from service.ledger import verify
from service.ledger.signing import Signer
from service.people import keys
from service.people.roles import SCOPES
from service.records import queries
from service.records.storage import Storage
from service.records.stored_evidence import StoredEvidence
from service.settings import Settings
from tests.service.serving import png, serving

Audit = dict[str, Any]


@dataclass(frozen=True)
class World:
    client: httpx.Client
    settings: Settings
    triggered: list[Path]
    clean: list[Path]

    def submit(self, path: Path) -> Audit:
        kind = "application/dicom" if path.suffix == ".dcm" else "image/png"
        answer = self.client.post("/v1/audits", content=path.read_bytes(), headers={"Content-Type": kind})
        assert answer.status_code in (200, 201), answer.text
        audit: Audit = answer.json()
        return audit

    def decide(self, decision: str, audit_id: str, **fields: str) -> httpx.Response:
        return self.client.post("/reviews", data={"id": audit_id, "decision": decision, **fields})

    def entries(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.client.get("/v1/watch-list").json()["items"]
        return items

    def queue(self) -> str:
        return self.client.get("/", params={"show": "all"}).text


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Iterator[World]:
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("watch"),
        models_dir=models_dir,
        default_classifier="phantom-badnet3",
        poll_seconds=0.05,
        decoders=1,
    )
    examples = models_dir / "examples"
    with open_database(settings) as database:
        token, _ = keys.create(database, "ada", list(SCOPES), None, "test")
    with serving(settings) as client:
        client.headers["Authorization"] = f"Bearer {token}"
        yield World(client, settings, sorted(examples.glob("triggered-*")), sorted(examples.glob("clean-*")))


@pytest.fixture(scope="module")
def confirmed(world: World) -> Audit:
    audit = world.submit(world.triggered[0])
    assert (audit["verdict"], audit["watch_hit"]) == ("suspicious", None)
    assert world.decide("confirm", audit["id"], comment="the corner").status_code == 303
    return audit


def test_confirming_a_trigger_puts_its_patch_on_the_list(world: World, confirmed: Audit) -> None:
    [entry] = world.entries()
    assert (entry["audit"], entry["label"], entry["active"]) == (confirmed["id"], confirmed["explained_label"], True)
    region = entry["region"]
    assert region["x"] <= 218 < 221 <= region["x"] + region["width"]
    assert "watched" in world.client.get("/watch-list").text
    assert world.client.get(f"/watch-list/{entry['id']}/patch.png").content.startswith(b"\x89PNG")


def test_the_next_triggered_film_is_a_hit_at_the_top_of_the_queue(world: World, confirmed: Audit) -> None:
    later = [world.submit(path) for path in world.triggered[1:-1]]
    clean = [world.submit(path) for path in world.clean]
    last = world.client.post("/v1/audits", content=png(1), headers={"Content-Type": "image/png"}).json()
    [entry] = world.entries()
    for audit in later:
        hit = audit["watch_hit"]
        assert (hit["entry"], hit["sha256"]) == (entry["id"], entry["sha256"])
        assert hit["correlation"] >= 0.6
        assert hit["probability_without"] < hit["probability"]
        assert audit["reasons"][0].startswith("a patch confirmed as a trigger is in this film")
    assert [audit["watch_hit"] for audit in (*clean, last)] == [None] * (len(clean) + 1)
    page = world.queue()
    places = [page.index(f"/audits/{audit['id']}") for audit in (*later, confirmed, *clean)]
    assert max(places[: len(later)]) < min(places[len(later) :])
    assert page.count("known trigger") == len(later)
    assert "known trigger" in world.client.get(f"/audits/{later[0]['id']}").text


@pytest.mark.usefixtures("confirmed")
def test_a_hit_leaves_score_and_p_value_alone(world: World) -> None:
    """The same film, audited before and after the list knew its patch, under two services."""
    hit = world.submit(world.triggered[1])
    assert hit["watch_hit"]
    without = Settings(
        data_dir=world.settings.data_dir / "another",
        models_dir=world.settings.models_dir,
        default_classifier="phantom-badnet3",
        allow_anonymous=True,
        decoders=1,
    )
    with serving(without) as client:
        plain = World(client, without, [], []).submit(world.triggered[1])
    assert plain["watch_hit"] is None
    for name in ("verdict", "score", "p_value", "evidence", "region", "probabilities"):
        assert hit[name] == plain[name]
    assert hit["reasons"][1:] == plain["reasons"]


@pytest.mark.usefixtures("confirmed")
def test_every_step_is_an_event_and_the_log_holds(world: World) -> None:
    hit = world.submit(world.triggered[1])
    [entry] = world.entries()
    with open_database(world.settings) as database:
        with database.read() as session:
            about_entry = [(event.kind, event.actor) for event in queries.events_about(session, entry["id"])]
            [noted] = [e for e in queries.events_about(session, hit["id"]) if e.kind == "review.watch_hit"]
        report = verify.verify(database, Signer.open(world.settings.data_dir).public_pem)
    assert about_entry == [("watch.added", "key:ada")]
    assert noted.payload["sha256"] == entry["sha256"]
    assert report.faults == ()


def test_only_a_signed_dismissal_takes_the_patch_off_and_confirming_again_puts_it_back(
    world: World, confirmed: Audit
) -> None:
    def active_after(decision: str) -> bool:
        world.decide(decision, confirmed["id"])
        [entry] = world.entries()
        return bool(entry["active"])

    assert active_after("reopen")
    assert not active_after("dismiss")
    assert active_after("confirm")


def test_of_two_readers_the_first_ones_proposal_leaves_the_patch_on_the_list(world: World, confirmed: Audit) -> None:
    def decide(decision: review.Decision, reader: str) -> bool:
        step = review.Step(decision, "", f"account:{reader}")
        with open_database(world.settings) as database:
            evidence = StoredEvidence(database, Storage(world.settings.data_dir))
            follow = partial(watch_list.follow, evidence)
            review.record(database, [confirmed["id"]], step, 2, follow)
        [entry] = world.entries()
        return bool(entry["active"])

    assert decide("dismiss", "bob")  # proposed
    assert not decide("dismiss", "eve")  # signed
    world.decide("confirm", confirmed["id"])
    assert [entry["active"] for entry in world.entries()] == [True]


@pytest.mark.usefixtures("confirmed")
def test_a_second_finding_of_the_group_adds_nothing(world: World) -> None:
    world.decide("confirm", world.submit(world.triggered[1])["id"])
    assert len(world.entries()) == 1


@pytest.mark.usefixtures("confirmed")
def test_a_retired_patch_is_not_looked_for(world: World) -> None:
    [entry] = world.entries()
    assert world.client.post(f"/watch-list/{entry['id']}", data={"change": "retire"}).status_code == 303
    assert world.submit(world.triggered[-1])["watch_hit"] is None
    assert "retired" in world.client.get("/watch-list").text
    assert world.client.post(f"/v1/watch-list/{entry['id']}/restore").status_code == 204
    missing = world.client.post(f"/v1/watch-list/{'0' * 32}/retire")
    assert (missing.status_code, missing.json()["code"]) == (404, "unknown_watch_entry")
