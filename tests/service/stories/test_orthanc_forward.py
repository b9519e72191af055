"""deploy/orthanc/forward.lua, run by a real Orthanc: films pushed to our port, also after it was away."""

from pathlib import Path

import httpx
from pydicom.uid import SecondaryCaptureImageStorage

from service.pacs.acceptance import Acceptance
from service.pacs.dimse import Port, serving
from service.pacs.peers import parse_peers
from service.records.tables import JobRow
from tests.conftest import REPOSITORY
from tests.service.pacs.conftest import MAX_BYTES, count
from tests.service.pacs.films import film
from tests.service.pacs.peers import on_loopback_only, orthanc_in, wait_until

PORT = Port("127.0.0.1", 11112, "TRIGGERSCOPE", parse_peers("ORTHANC@127.0.0.1"), 4, MAX_BYTES)


def states(archive: httpx.Client) -> list[str]:
    return [job["State"] for job in archive.get("/jobs?expand").json()]


@on_loopback_only
def test_films_are_pushed_and_a_failed_push_can_be_repeated(acceptance: Acceptance, tmp_path: Path) -> None:
    orthanc = orthanc_in(
        tmp_path / "orthanc",
        LuaScripts=[str(REPOSITORY / "deploy/orthanc/forward.lua")],
        DicomModalities={"triggerscope": ["TRIGGERSCOPE", "127.0.0.1", PORT.port]},
    )
    with orthanc.running() as archive:
        archive.post("/instances", content=film(1)).raise_for_status()  # nobody listens
        wait_until(lambda: states(archive) == ["Failure"])
        with serving(PORT, acceptance, 5):
            archive.post("/instances", content=film(2, SOPClassUID=SecondaryCaptureImageStorage)).raise_for_status()
            archive.post("/instances", content=film(3)).raise_for_status()
            wait_until(lambda: sorted(states(archive)) == ["Failure", "Success"])
            assert count(acceptance.database, JobRow) == 1
            [failed] = [job["ID"] for job in archive.get("/jobs?expand").json() if job["State"] == "Failure"]
            archive.post(f"/jobs/{failed}/resubmit").raise_for_status()
            wait_until(lambda: states(archive) == ["Success", "Success"])
    assert count(acceptance.database, JobRow) == 2
