"""Fourteen identifiers are planted in a film; after its audit nothing that lasts holds any of them."""

import io
import sqlite3
from pathlib import Path

import httpx
import numpy as np
import pytest
from pydicom.uid import generate_uid

from service.app import open_database
from service.people import keys
from service.settings import Settings
from tests.dicom_files import dicom_bytes
from tests.service.serving import serving
from tests.service.web.test_stow import body, stow

STUDY, SERIES, INSTANCE = (str(generate_uid()) for _ in range(3))
PLANTED = {
    "PatientName": "Zwetschge^Quirin",
    "PatientID": "PID-7719-XQ",
    "PatientBirthDate": "19310917",
    "PatientAddress": "Irrgasse 77 Xanten",
    "PatientTelephoneNumbers": "+4900771177",
    "OtherPatientIDs": "OTHER-5521-QX",
    "AccessionNumber": "ACC-991-ZZ",
    "StudyID": "SID-4471",
    "ReferringPhysicianName": "Ueberweiser^Xaver",
    "InstitutionName": "Klinik am Irrsee",
    "StudyDescription": "Thorax wegen Ypsilon",
    "StudyInstanceUID": STUDY,
    "SeriesInstanceUID": SERIES,
    "SOPInstanceUID": INSTANCE,
}
LASTING = ("films", "jobs", "audits", "events", "instances", "deliveries", "comparisons", "reviews")


def planted_film() -> bytes:
    pixels = np.random.default_rng(5).integers(0, 4096, (224, 224), dtype=np.uint16)

    def identify(dataset: object) -> None:
        dataset.file_meta.MediaStorageSOPInstanceUID = INSTANCE

    return dicom_bytes(pixels, bits=12, change=identify, **PLANTED)


def found_in(content: bytes) -> list[str]:
    return [keyword for keyword, value in PLANTED.items() if value.encode() in content]


def lasting_rows(settings: Settings) -> bytes:
    with sqlite3.connect(settings.data_dir / "triggerscope.sqlite3") as connection:
        rows = [connection.execute(f"SELECT * FROM {table}").fetchall() for table in LASTING]
    connection.close()
    return repr(rows).encode()


def lasting_files(settings: Settings) -> bytes:
    folders = (settings.data_dir / "pixels", settings.data_dir / "maps")
    return b"".join(path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file())


def test_nothing_that_lasts_identifies(tmp_path: Path, models_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings(data_dir=tmp_path / "data", models_dir=models_dir, decoders=1, poll_seconds=0.05)
    with open_database(settings) as database:
        token, _ = keys.create(database, "test", ["audits:write", "audits:read"], None, "test")
    with serving(settings) as plain:
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=plain.base_url, headers=headers, timeout=60) as client:
            data = planted_film()
            assert len(found_in(data)) == len(PLANTED) == 14
            assert stow(client, body(data)).status_code == 200
            answer = client.post("/v1/audits", content=data, headers={"Content-Type": "application/dicom"})
            assert answer.json()["verdict"]
            exported = answer.content + client.get("/v1/audits").content + client.get("/metrics").content
            pictures = [client.get(answer.json()["links"][name]).content for name in ("overlay", "radiograph")]
    assert found_in(exported + b"".join(pictures)) == []
    assert found_in(lasting_rows(settings)) == []
    assert found_in(lasting_files(settings)) == []
    printed = capsys.readouterr()
    assert found_in((printed.out + printed.err).encode()) == []
    assert "audit.completed" in printed.out + printed.err
    assert np.load(io.BytesIO(next((settings.data_dir / "pixels").rglob("*/*")).read_bytes())).shape == (224, 224)
