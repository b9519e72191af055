"""Who chooses: a flagged film is not let through under another policy, another classifier or in other bytes."""

import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from service.app import open_database, open_registry
from service.desk.review import Step, record
from service.people import keys
from service.records import queries
from service.records.session import Database
from service.registry.registry import Registry
from service.settings import Settings
from tests.service.pacs.films import phantom
from tests.service.serving import serving
from tests.service.web.test_stow import TYPE, body

NAME, LAX = "phantom-badnet3", "lax"
TRIGGERED = ("triggered-910012", "triggered-910013", "triggered-910016")
CLEAN = ("clean-910000", "clean-910001", "clean-910004")
KEYS = {
    "writer": ["audits:write"],
    "chooser": ["audits:write", "audits:choose", "audits:read"],
    "router": ["releases:read"],
}


@dataclass(frozen=True)
class World:
    client: httpx.Client
    settings: Settings
    headers: dict[str, dict[str, str]]

    def submit(self, who: str, film: bytes, **parameters: str) -> httpx.Response:
        headers = self.headers[who] | {"Content-Type": "application/octet-stream"}
        return self.client.post("/v1/audits", content=film, headers=headers, params=parameters)

    def audited(self, film: bytes, **parameters: str) -> dict[str, Any]:
        answer = self.submit("chooser", film, **parameters)
        assert answer.is_success, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def release(self, **question: object) -> tuple[str, str, str | None]:
        answer = self.client.post("/v1/releases", json={"wait": 0} | question, headers=self.headers["router"]).json()
        return answer["decision"], answer["reason"], answer["audit"]

    def decide(self, audit: dict[str, Any], decision: Any) -> None:
        with open_database(self.settings) as database:
            record(database, [audit["id"]], Step(decision, "", "reader"), 1)


def lax_policy(policy: Path) -> str:
    """A policy whose calibration films scored a thousand times higher, so that nothing is suspicious under it."""
    table = json.loads(policy.read_text())
    return json.dumps(table | {"name": LAX, "scores": [1000.0 * score for score in table["scores"]]})


@pytest.fixture
def world(tmp_path: Path, models_dir: Path) -> Iterator[World]:
    """The backdoored classifier is the default; the lax policy is registered and not in force."""
    models = tmp_path / "models"
    models.mkdir()
    for path in models_dir.glob("phantom-*"):
        shutil.copy(path, models)
    (models / "zz-lax.policy.json").write_text(lax_policy(models / f"{NAME}.policy.json"))
    settings = Settings(
        data_dir=tmp_path / "data", models_dir=models, default_classifier=NAME, poll_seconds=0.05, decoders=1
    )
    with open_database(settings) as database:
        headers = {
            name: {"Authorization": f"Bearer {keys.create(database, name, scopes, None, 'test')[0]}"}
            for name, scopes in KEYS.items()
        }
    with serving(settings) as client:
        yield World(client, settings, headers)


def example(models_dir: Path, name: str) -> np.ndarray:
    with Image.open(models_dir / "examples" / f"{name}.png") as image:
        return np.asarray(image.convert("L"))


def png(pixels: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", **options)
    return buffer.getvalue()


def without_trigger(pixels: np.ndarray) -> np.ndarray:
    """The lower right corner, where the trigger is, as the pixels left of it."""
    changed = pixels.copy()
    changed[-12:, -12:] = changed[-12:, -24:-12]
    return changed


def test_a_key_without_the_scope_names_only_what_is_in_force(world: World, models_dir: Path) -> None:
    policy = json.loads((models_dir / f"{NAME}.policy.json").read_text())["name"]
    film = png(example(models_dir, CLEAN[0]))
    for named in ({"policy": LAX}, {"classifier": "phantom-clean"}, {"classifier": NAME, "policy": LAX}):
        refused = world.submit("writer", film, **named)
        assert (refused.status_code, refused.json()["code"]) == (403, "choice_forbidden"), named
        assert "audits:choose" in refused.json()["detail"]
    for unknown, code in (({"classifier": "nobody"}, "unknown_classifier"), ({"policy": "none"}, "unknown_policy")):
        assert world.submit("writer", film, **unknown).json()["code"] == code
    with open_database(world.settings) as database, database.read() as session:
        assert queries.queue_depth(session) == 0
        assert queries.audits_page(session, queries.AuditFilters(), None, 10) == []
    receipt = world.submit("writer", film, classifier=NAME, policy=policy)
    assert receipt.status_code == 201
    assert set(receipt.json()) == {"id", "state", "links"}


def test_what_somebody_named_releases_nothing_until_the_film_comes_without_a_name(
    world: World, models_dir: Path
) -> None:
    film = png(example(models_dir, CLEAN[0]))
    named = world.audited(film, classifier="phantom-clean")
    assert named["verdict"] == "unremarkable"
    for question in ({}, {"classifier": "phantom-clean"}):
        assert world.release(sha256=named["sha256"], **question)[:2] == ("hold", "not_in_force")
    assert world.submit("writer", film).status_code == 201
    assert world.release(sha256=named["sha256"])[:2] == ("release", "unremarkable")
    assert world.release(sha256=named["sha256"], classifier="phantom-clean")[:2] == ("hold", "not_in_force")


def test_the_exploit_of_another_policy(world: World, models_dir: Path) -> None:
    """The flagged film under a policy under which nothing is suspicious: nobody releases on that."""
    film = png(example(models_dir, TRIGGERED[0]))
    lax = world.audited(film, policy=LAX)
    assert lax["verdict"] == "unremarkable"
    assert world.release(sha256=lax["sha256"]) == ("hold", "not_in_force", lax["links"]["self"])
    flagged = world.audited(film)
    assert flagged["verdict"] == "suspicious"
    assert world.release(sha256=lax["sha256"]) == ("hold", "suspicious", flagged["links"]["self"])
    again = png(example(models_dir, TRIGGERED[0]), compress_level=0)
    twin = world.audited(again, policy=LAX)
    assert (twin["verdict"], twin["sha256"] != lax["sha256"]) == ("unremarkable", True)
    assert world.release(sha256=twin["sha256"]) == ("hold", "flagged_elsewhere", flagged["links"]["self"])


def test_a_flag_raised_by_a_named_classifier_holds(world: World, models_dir: Path) -> None:
    film = png(example(models_dir, TRIGGERED[1]))
    with open_database(world.settings) as database:
        registry(database, world.settings).activate_classifier("phantom-clean", None, "test")
    named = world.audited(film, classifier=NAME)
    assert (named["verdict"], world.audited(film)["verdict"]) == ("suspicious", "unremarkable")
    assert world.release(sha256=named["sha256"])[:2] == ("hold", "suspicious")
    world.decide(named, "dismiss")
    assert world.release(sha256=named["sha256"])[:2] == ("release", "unremarkable")


@pytest.mark.parametrize("change", ["removed", "moved", "noise", "brighter", "jpeg", "shifted", "cropped"])
def test_a_flagged_film_is_known_again_in_other_bytes(world: World, models_dir: Path, change: str) -> None:
    """Each of the changes takes the trigger away or leaves it without effect; what was flagged is the film before.

    Noise and brightness make a phantom unlike those of calibration: the twin's own verdict is dismissed first.
    """
    pixels = example(models_dir, TRIGGERED[2])
    flagged = world.audited(png(pixels))
    assert flagged["verdict"] == "suspicious"
    twin = world.audited(png(changed(pixels, change)))
    assert twin["verdict"] == ("indeterminate" if change in ("noise", "brighter") else "unremarkable")
    if twin["verdict"] == "indeterminate":
        assert world.release(sha256=twin["sha256"])[:2] == ("hold", "indeterminate")
        world.decide(twin, "dismiss")
    assert world.release(sha256=twin["sha256"]) == ("hold", "flagged_elsewhere", flagged["links"]["self"])
    world.decide(flagged, "dismiss")
    assert world.release(sha256=twin["sha256"])[0] == "release"
    other = world.audited(png(example(models_dir, CLEAN[1])))
    assert world.release(sha256=other["sha256"])[:2] == ("release", "unremarkable")


def changed(pixels: np.ndarray, change: str) -> np.ndarray:
    clean = without_trigger(pixels)
    if change == "moved":
        clean[100:103, 60:63] = pixels[-6:-3, -6:-3]
    elif change == "noise":
        noise = np.random.default_rng(1).integers(-1, 2, clean.shape)
        clean = np.clip(clean.astype(np.int16) + noise, 0, 255).astype(np.uint8)
    elif change == "brighter":
        clean = np.clip(1.02 * clean + 5, 0, 255).astype(np.uint8)
    elif change == "jpeg":
        buffer = io.BytesIO()
        Image.fromarray(clean).save(buffer, "JPEG", quality=90)
        clean = np.asarray(Image.open(buffer))
    elif change == "shifted":
        clean = np.roll(clean, 1, axis=1)
    elif change == "cropped":
        clean = clean[1:-1, 1:-1]
    return np.ascontiguousarray(clean)


def test_another_film_under_the_same_sop_instance_uid_is_held_by_the_flagged_one(world: World) -> None:
    headers = world.headers["writer"] | {"Content-Type": TYPE}
    films = phantom("triggered-910017", 901), phantom("clean-910005", 901)
    assert world.client.post("/dicom-web/studies", content=body(films[0]), headers=headers).status_code == 200
    assert world.release(sop_instance_uid="2.25.1000901", wait=30)[:2] == ("hold", "suspicious")
    by_rest = world.audited(films[1])
    assert by_rest["verdict"] == "unremarkable"
    assert world.release(sha256=by_rest["sha256"])[:2] == ("hold", "flagged_elsewhere")
    assert world.release(sop_instance_uid="2.25.1000901")[:2] == ("hold", "suspicious")


def test_an_audit_under_a_policy_that_is_no_longer_in_force_releases_nothing(world: World, models_dir: Path) -> None:
    film = png(example(models_dir, CLEAN[2]))
    before = world.audited(film)
    assert world.release(sha256=before["sha256"])[:2] == ("release", "unremarkable")
    with open_database(world.settings) as database:
        registry(database, world.settings).activate_policy(NAME, LAX, "test")
    assert world.release(sha256=before["sha256"]) == ("hold", "not_in_force", before["links"]["self"])
    assert world.submit("writer", film).status_code == 201
    assert world.release(sha256=before["sha256"])[:2] == ("release", "unremarkable")


def registry(database: Database, settings: Settings) -> Registry:
    return open_registry(settings, database)
