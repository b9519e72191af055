"""Maps of any label, and the causal tests' pictures, over HTTP from what is kept."""

import io
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy import delete

from service.app import open_database
from service.desk.explainer import PLACES, Explainer, ExplainerBusy
from service.graphs.examiner import Examiner, load_classifier
from service.people import keys
from service.records.session import Database
from service.records.storage import Storage
from service.records.stored_evidence import StoredEvidence
from service.records.tables import AuditRow, IdentityRow
from service.registry.examinations import Examinations
from service.registry.registry import Registry
from service.settings import Settings
from tests.service.pacs.films import STUDY, film
from tests.service.pacs.peers import wait_until
from tests.service.serving import serving
from tests.service.web.test_stow import body, stow

Audit = dict[str, Any]
KEYS = {
    "writer": ["audits:write", "audits:choose", "audits:read"],
    "reader": ["audits:read"],
    "reviewer": ["audits:read", "audits:review"],
}


@pytest.fixture(scope="session")
def triggered(server: httpx.Client, auditor: dict[str, str], models_dir: Path) -> tuple[Audit, NDArray[np.float32]]:
    """The audit of a shipped film with the trigger, 224 px wide, and its pixels (224, 224)."""
    path = next((models_dir / "examples").glob("triggered-*.png"))
    headers = {**auditor, "Content-Type": "image/png"}
    answer = server.post(
        "/v1/audits", content=path.read_bytes(), headers=headers, params={"classifier": "phantom-badnet3"}
    )
    with Image.open(path) as image:
        return answer.json(), np.asarray(image, dtype=np.float32) / 255.0


def grey(client: httpx.Client, audit: Audit, **parameters: str) -> NDArray[np.int64]:
    answer = client.get(f"/v1/audits/{audit['id']}/counterfactual.png", params=parameters)
    assert answer.status_code == 200
    with Image.open(io.BytesIO(answer.content)) as image:
        return np.asarray(image.convert("L"), dtype=np.int64)


def test_the_maps_of_any_label_are_those_of_the_audits_classifier(
    client: httpx.Client, triggered: tuple[Audit, NDArray[np.float32]], models_dir: Path
) -> None:
    audit, pixels = triggered
    assert pixels.shape == (224, 224)
    classifier = load_classifier(models_dir / "phantom-badnet3.onnx")
    labels = classifier.card.labels
    nothing, one = np.zeros(len(labels), dtype=np.float32), np.ones(len(labels), dtype=np.float32)
    [(prediction, saliency)] = classifier.explain(pixels[None, None], nothing, one)
    chosen = labels.index("Hernia")
    address = f"/v1/audits/{audit['id']}/maps"
    found = client.get(f"{address}/class_activation_map", params={"label": "Hernia"}).json()
    assert found["label"] == "Hernia"
    np.testing.assert_allclose(found["values"], saliency.class_activation_maps[chosen], atol=1e-5)
    centre = prediction.logits - np.eye(len(labels), dtype=np.float32)[chosen]  # Hernia's excess is 1, all others' 0
    [(_, of_hernia)] = classifier.explain(pixels[None, None], centre, one)
    for name in ("layercam_28", "counter_layercam_28", "gradcam_14"):
        values = client.get(f"{address}/{name}", params={"label": "Hernia"}).json()["values"]
        np.testing.assert_allclose(values, of_hernia.maps[name][0], atol=1e-6, err_msg=name)
    drawn = [
        client.get(audit["links"]["overlay"], params={"label": name}).content for name in ("Hernia", "Atelectasis")
    ]
    assert drawn[0] != drawn[1]


def test_a_label_that_the_classifier_lacks_has_no_map(
    client: httpx.Client, triggered: tuple[Audit, NDArray[np.float32]]
) -> None:
    answer = client.get(f"/v1/audits/{triggered[0]['id']}/maps/layercam_28", params={"label": "Boredom"})
    assert (answer.status_code, answer.json()["code"]) == (404, "map_not_found")
    assert "Hernia" in answer.json()["detail"]


def test_the_pictures_before_and_after_differ_where_the_test_changed_the_film(
    client: httpx.Client, triggered: tuple[Audit, NDArray[np.float32]]
) -> None:
    audit, pixels = triggered
    before, after = grey(client, audit, change="none"), grey(client, audit, change="fill_in")
    rows, columns = np.nonzero(before != after)
    assert (rows.min() >= 195, columns.min() >= 195) == (True, True)  # the trigger is in the corner
    trigger = pixels == 1.0
    assert np.count_nonzero(trigger) == 9
    assert (before[trigger].min(), after[trigger].max() < 200) == (255, True)
    assert np.count_nonzero(before != grey(client, audit, change="filter")) > 10_000
    window = grey(client, audit, change="none", part="window")
    assert max(window.shape) >= 200
    assert np.count_nonzero(window > 240) >= 9 * 3 * 3  # the trigger's nine pixels, enlarged


def test_one_film_is_explained_at_a_time_and_the_others_are_told(tmp_path: Path, sqlite_database: Database) -> None:
    evidence = StoredEvidence(sqlite_database, Storage(tmp_path))
    registry = Registry(sqlite_database, tmp_path, Examinations(tmp_path / "classifiers", Examiner()))
    explainer = Explainer(evidence, registry, wait_seconds=0.0)
    row = AuditRow(id="aa", pixels_sha256="aa", classifier_sha256="aa", explained_label="Mass")
    with explainer._own_turn(), pytest.raises(ExplainerBusy):
        explainer.maps(row, "Hernia")
    crowded = Explainer(evidence, registry, wait_seconds=60.0)
    for _ in range(PLACES):
        crowded._places.acquire()
    with pytest.raises(ExplainerBusy):  # at once: nobody waits without a place
        crowded.maps(row, "Hernia")


@pytest.fixture
def with_viewer(shared_settings: Settings, tmp_path: Path) -> Iterator[tuple[httpx.Client, Settings]]:
    address = "https://viewer.example/?study={study}&film={instance}"
    settings = shared_settings.model_copy(update={"data_dir": tmp_path, "viewer_url": address})
    with serving(settings) as client:
        yield client, settings


def test_reviewers_get_a_link_to_the_sites_viewer_while_the_film_is_known(
    with_viewer: tuple[httpx.Client, Settings],
) -> None:
    client, settings = with_viewer
    with open_database(settings) as database:
        write, read, review = (
            {"Authorization": f"Bearer {keys.create(database, name, scopes, None, 'test')[0]}"}
            for name, scopes in KEYS.items()
        )
        client.headers.update(write)
        assert stow(client, body(film(901))).status_code == 200
        client.headers.update(read)
        wait_until(lambda: client.get("/v1/audits").json()["items"][0]["state"] == "done")
        address = f"/audits/{client.get('/v1/audits').json()['items'][0]['id']}"
        assert "viewer.example" not in client.get(address).text
        link = f"https://viewer.example/?study={STUDY}&amp;film=2.25.1000901"
        assert f'href="{link}"' in client.get(address, headers=review).text
        with database.write() as unit:
            unit.session.execute(delete(IdentityRow))
        assert "viewer.example" not in client.get(address, headers=review).text


def test_the_pictures_of_two_pages_wait_for_each_other(tmp_path: Path, sqlite_database: Database) -> None:
    registry = Registry(sqlite_database, tmp_path, Examinations(tmp_path / "classifiers", Examiner()))
    explainer = Explainer(StoredEvidence(sqlite_database, Storage(tmp_path)), registry)

    def ask() -> bool:
        with explainer._own_turn():
            return True

    with ThreadPoolExecutor(11) as readers:
        with explainer._own_turn():
            asked = [readers.submit(ask) for _ in range(11)]
            time.sleep(0.5)  # all of them have come and wait
        assert all(answer.result() for answer in asked)
