import io
import subprocess
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from service.pacs.results.report import (
    AUDIT,
    CAPTION_PX,
    CONCENTRATION,
    P_VALUE,
    SCORE,
    VERDICT,
    VERDICTS,
    Findings,
    file_bytes,
    presentation_state,
    read_source,
    result_uid,
    secondary_capture,
    structured_report,
)
from tests.conftest import REPOSITORY
from tests.service.pacs.films import film
from tests.service.pacs.peers import program

CLASSIFIER, POLICY = "a" * 64, "b" * 64
SUSPICIOUS = Findings("suspicious", 7.1, 0.0033, "Atelectasis", (10, 20, 30, 40), "nih", CLASSIFIER, POLICY, ("why",))
UNREMARKABLE = Findings("unremarkable", 1.2, None, "Mass", None, "nih", CLASSIFIER, "", ())


def overlay() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def made(kind: str, source: Dataset, findings: Findings) -> Dataset:
    if kind == "sc":
        return secondary_capture(source, findings, overlay())
    return (structured_report if kind == "sr" else presentation_state)(source, findings)


@pytest.mark.parametrize("modality", ["DX", "CR"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("kind", ["sr", "sc", "gsps"])
@pytest.mark.parametrize("findings", [SUSPICIOUS, UNREMARKABLE])
def test_dciodvfy_finds_no_errors(
    tmp_path: Path, kind: str, modality: str, photometric: str, findings: Findings
) -> None:
    source = read_source(film(1, modality=modality, photometric=photometric))
    path = tmp_path / "result.dcm"
    path.write_bytes(file_bytes(made(kind, source, findings)))
    found = subprocess.run([program("dciodvfy"), str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert [line for line in found.stderr.splitlines() if line.startswith("Error")] == []


def test_the_report_reads_back_with_verdict_and_region() -> None:
    source = read_source(film(1))
    dataset = pydicom.dcmread(io.BytesIO(file_bytes(structured_report(source, SUSPICIOUS))))
    document = highdicom.sr.Comprehensive3DSR.from_dataset(dataset)
    [group] = document.content.get_planar_roi_measurement_groups()
    [verdict] = group.get_qualitative_evaluations(VERDICT)
    assert verdict.value == VERDICTS["suspicious"]
    box = np.asarray(group.roi.value)
    assert (box.min(axis=0).tolist(), box.max(axis=0).tolist()) == ([10, 20], [40, 60])
    assert [measurement.value for measurement in group.get_measurements()] == pytest.approx([7.1, 0.0033])
    assert dataset.StudyInstanceUID == source.StudyInstanceUID
    assert dataset.SeriesInstanceUID != source.SeriesInstanceUID


def test_uids_follow_from_film_classifier_policy_and_kind() -> None:
    source = read_source(film(1))
    again = [made(kind, source, SUSPICIOUS).SOPInstanceUID for kind in ("sr", "sr", "sc")]
    assert again[0] == again[1] != again[2]
    uids = {
        result_uid("1.2", SUSPICIOUS, "sr", "instance"),
        result_uid("1.3", SUSPICIOUS, "sr", "instance"),
        result_uid("1.2", UNREMARKABLE, "sr", "instance"),
        result_uid("1.2", SUSPICIOUS, "sr", "series"),
    }
    assert len(uids) == 4
    assert all(uid.startswith("2.25.") and len(uid) <= 44 for uid in uids)


def test_the_picture_is_the_overlay_under_its_caption() -> None:
    dataset = pydicom.dcmread(io.BytesIO(file_bytes(secondary_capture(read_source(film(1)), SUSPICIOUS, overlay()))))
    assert (dataset.Rows, dataset.Columns, dataset.BurnedInAnnotation) == (96 + CAPTION_PX, 128, "YES")
    assert "not for diagnosis" in dataset.SeriesDescription
    drawn = np.asarray(Image.open(io.BytesIO(overlay()))).astype(int)
    assert np.abs(dataset.pixel_array[CAPTION_PX:].astype(int).mean() - drawn.mean()) < 3


def test_the_coding_scheme_is_published() -> None:
    published = (REPOSITORY / "docs" / "pacs.md").read_text()
    for concept in (AUDIT, VERDICT, SCORE, P_VALUE, CONCENTRATION, *VERDICTS.values()):
        assert f"| {concept.value} | {concept.meaning} |" in published
