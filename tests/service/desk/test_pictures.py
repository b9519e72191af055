"""There is one picture of an audit: the API's, the bundle's and the secondary capture's show the same map."""

import httpx
import numpy as np

from service.app import open_database
from service.desk.pictures import finest
from service.pacs.results import outbox
from service.records import queries
from service.records.storage import Storage
from service.records.stored_evidence import StoredEvidence
from service.settings import Settings
from tests.service.serving import png


def test_the_finest_map_is_the_layercam_with_the_most_cells() -> None:
    sides = {"layercam_14": 14, "layercam_28": 28, "gradcam_56": 56, "counter_layercam_28": 28}
    assert finest({name: np.zeros((side, side), np.float32) for name, side in sides.items()}) == "layercam_28"


def test_what_goes_back_to_the_pacs_is_the_picture_of_the_api(client: httpx.Client, shared_settings: Settings) -> None:
    audit = client.post("/v1/audits", content=png(761), headers={"Content-Type": "image/png"}).json()
    with open_database(shared_settings) as database, database.read() as session:
        row = queries.audit(session, audit["id"])
        assert row is not None
        sent = outbox._picture(session, StoredEvidence(database, Storage(shared_settings.data_dir)), row)
    assert client.get(audit["links"]["overlay"]).content == sent
