"""A policy with warnings, over the API and on the page: it goes into force for a reason, which everybody sees."""

import json
from pathlib import Path

import pytest

from service.app import open_database
from service.people import keys
from service.settings import Settings
from tests.service.serving import serving

NAME = "phantom-clean"
WARNING = "6 of 472 films stand apart from the others, as films with a trigger would, and were left out"
BODY = {"policy": "ward"}


@pytest.fixture
def settings(shared_settings: Settings, models_dir: Path, tmp_path: Path) -> Settings:
    models = tmp_path / "models"
    models.mkdir()
    (models / f"{NAME}.onnx").symlink_to(models_dir / f"{NAME}.onnx")
    table = json.loads((models_dir / f"{NAME}.policy.json").read_bytes())
    table |= {"name": "ward", "warnings": [WARNING], "left_out": [2, 4]}
    (models / f"{NAME}.policy.json").write_text(json.dumps(table))
    return shared_settings.model_copy(update={"data_dir": tmp_path / "data", "models_dir": models})


def test_it_goes_into_force_for_a_reason_that_everybody_sees(settings: Settings) -> None:
    with serving(settings) as client, open_database(settings) as database:
        token, _ = keys.create(database, "root", ["admin", "audits:read"], None, "test")
        client.headers["Authorization"] = f"Bearer {token}"
        [policy] = client.get("/v1/policies").json()["items"]
        assert (policy["active"], policy["warnings"], policy["films_left_out"]) == (False, [WARNING], 6)
        page = client.get("/classifiers").text
        assert WARNING in page
        assert 'name="despite_warnings"' in page
        refused = client.post(f"/v1/classifiers/{NAME}/policy/activate", json=BODY)
        assert (refused.status_code, refused.json()["code"]) == (409, "warned_policy")
        refused = client.post(f"/classifiers/{NAME}", data={"change": "activate-policy", "target": policy["sha256"]})
        assert refused.status_code == 409

        reason = "all six hold the same pacemaker"
        done = client.post(f"/v1/classifiers/{NAME}/policy/activate", json=BODY | {"despite_warnings": reason})
        assert done.json() == {"name": NAME, "target": policy["sha256"]}
        [policy] = client.get("/v1/policies").json()["items"]
        assert policy["active"]
        assert (policy["override"]["by"], policy["override"]["reason"]) == ("key:root", reason)
        assert "despite its warnings by key:root" in client.get("/classifiers").text
        assert reason in client.get("/classifiers").text
