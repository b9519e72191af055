"""What goes back into the study: a structured report of the verdict, a picture of the overlay, and a box on the film.

UIDs follow from film, classifier and policy, so that sending a result twice makes one object. The private coding
scheme 99TRIGSC is published in docs/pacs.md: no standard scheme has words for backdoors.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import highdicom
import numpy as np
import pydicom
from highdicom import PresentationLUTTransformation, pr, sr
from highdicom.sr.coding import CodedConcept
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit

from service import __version__
from service.desk import reasons
from service.records.tables import AuditRow, ComparisonRow

SCHEME = "99TRIGSC"
MANUFACTURER = "Triggerscope"
DESCRIPTION = "Backdoor audit, not for diagnosis"
SERIES_NUMBERS = {"sr": 9901, "sc": 9902, "gsps": 9903}
AUDIT = CodedConcept("TS001", SCHEME, "Backdoor audit of an image classifier")
VERDICT = CodedConcept("TS002", SCHEME, "Verdict of the backdoor audit")
SCORE = CodedConcept("TS003", SCHEME, "Backdoor score")
P_VALUE = CodedConcept("TS004", SCHEME, "p-value of the backdoor score among clean films")
CONCENTRATION = CodedConcept("TS005", SCHEME, "Region that carries the classifier's evidence")
VERDICTS = {
    "unremarkable": CodedConcept("TS010", SCHEME, "Unremarkable"),
    "suspicious": CodedConcept("TS011", SCHEME, "Suspicious"),
    "indeterminate": CodedConcept("TS012", SCHEME, "Indeterminate"),
}
CHEST_RADIOGRAPHY = CodedConcept("399208008", "SCT", "Plain X-ray of chest")
NO_UNIT = CodedConcept("1", "UCUM", "no units")
CAPTION_PX = 18


@dataclass(frozen=True, slots=True)
class Findings:
    """An audit as results name it."""

    verdict: str
    score: float
    p_value: float | None
    explained_label: str
    region: tuple[int, int, int, int] | None  # x, y, width, height in the film's pixels
    classifier_name: str
    classifier_sha256: str
    policy_sha256: str
    reasons: tuple[str, ...]


def findings_of(row: AuditRow, comparisons: Sequence[ComparisonRow]) -> Findings:
    region = row.region
    return Findings(
        verdict=row.verdict,
        score=row.score,
        p_value=row.p_value,
        explained_label=row.explained_label,
        region=(region["x"], region["y"], region["width"], region["height"]) if region else None,
        classifier_name=row.classifier_name,
        classifier_sha256=row.classifier_sha256,
        policy_sha256=row.policy_sha256,
        reasons=tuple(reasons.told(row, comparisons)),
    )


def read_source(original: bytes) -> Dataset:
    """The film's data set without its pixels; like the decoder, this asks for no preamble."""
    return pydicom.dcmread(io.BytesIO(original), stop_before_pixels=True, force=True)


def result_uid(sop_instance_uid: str, findings: Findings, kind: str, level: str) -> str:
    """A UID of the form 2.25.x (PS3.5 annex B.2) that is the same for the same film, classifier, policy and kind."""
    parts = (sop_instance_uid, findings.classifier_sha256, findings.policy_sha256, kind, level)
    digest = hashlib.sha256("/".join(parts).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def structured_report(source: Dataset, findings: Findings) -> Dataset:
    """A Comprehensive 3D SR after TID 1500: verdict, score, p-value, classifier and, if there is one, the region."""
    report = sr.MeasurementReport(
        observation_context=_observer(),
        procedure_reported=CHEST_RADIOGRAPHY,
        imaging_measurements=[_measurements(source, findings)],
        title=codes.DCM.ImagingMeasurementReport,
    )
    document = sr.Comprehensive3DSR(
        evidence=[source],
        content=report,
        series_instance_uid=result_uid(source.SOPInstanceUID, findings, "sr", "series"),
        series_number=SERIES_NUMBERS["sr"],
        sop_instance_uid=result_uid(source.SOPInstanceUID, findings, "sr", "instance"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    document.SeriesDescription = DESCRIPTION
    return document


def secondary_capture(source: Dataset, findings: Findings, overlay_png: bytes) -> Dataset:
    """The overlay with its verdict written on it, as JPEG baseline."""
    picture = highdicom.sc.SCImage.from_ref_dataset(
        source,
        pixel_array=captioned(overlay_png, findings),
        photometric_interpretation="YBR_FULL_422",
        bits_allocated=8,
        coordinate_system="PATIENT",
        series_instance_uid=result_uid(source.SOPInstanceUID, findings, "sc", "series"),
        series_number=SERIES_NUMBERS["sc"],
        sop_instance_uid=result_uid(source.SOPInstanceUID, findings, "sc", "instance"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        patient_orientation=_orientation(source),
        transfer_syntax_uid=JPEGBaseline8Bit,
    )
    picture.SeriesDescription = DESCRIPTION
    picture.BurnedInAnnotation = "YES"
    picture["PixelData"].is_undefined_length = True  # as encapsulated data are, also where pydicom writes no file
    _copy_body_part(source, picture)
    return picture


def presentation_state(source: Dataset, findings: Findings) -> Dataset:
    """A grayscale softcopy presentation state: the film as it is, the region as a box, and the verdict beside it."""
    layer = pr.GraphicLayer("BACKDOOR_AUDIT", order=1, description=DESCRIPTION)
    x, y = findings.region[:2] if findings.region else (0, 0)
    text = pr.TextObject(_caption(findings), "PIXEL", anchor_point=(float(x), float(y)), anchor_point_visible=False)
    box = [pr.GraphicObject("POLYLINE", _outline(findings.region), "PIXEL")] if findings.region else None
    is_negative = source.PhotometricInterpretation == "MONOCHROME1"
    state = pr.GrayscaleSoftcopyPresentationState(
        referenced_images=[source],
        series_instance_uid=result_uid(source.SOPInstanceUID, findings, "gsps", "series"),
        series_number=SERIES_NUMBERS["gsps"],
        sop_instance_uid=result_uid(source.SOPInstanceUID, findings, "gsps", "instance"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER,
        software_versions=__version__,
        device_serial_number="none",
        content_label="BACKDOOR_AUDIT",
        content_description=DESCRIPTION,
        graphic_annotations=[pr.GraphicAnnotation([source], layer, graphic_objects=box, text_objects=[text])],
        graphic_layers=[layer],
        presentation_lut_transformation=PresentationLUTTransformation("INVERSE" if is_negative else "IDENTITY"),
    )
    state.SeriesDescription = DESCRIPTION
    _copy_body_part(source, state)
    return state


def captioned(overlay_png: bytes, findings: Findings) -> np.ndarray:
    """(height + CAPTION_PX, width, 3) uint8."""
    overlay = Image.open(io.BytesIO(overlay_png)).convert("RGB")
    picture = Image.new("RGB", (overlay.width, overlay.height + CAPTION_PX))
    picture.paste(overlay, (0, CAPTION_PX))
    ImageDraw.Draw(picture).text((3, 2), _caption(findings), fill="white")
    return np.asarray(picture)


def _caption(findings: Findings) -> str:
    rank = "" if findings.p_value is None else f", p = {findings.p_value:.4f}"
    return f"{findings.verdict}{rank}, {findings.classifier_name}: {DESCRIPTION}"


def file_bytes(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _observer() -> sr.ObservationContext:
    uid = f"2.25.{int.from_bytes(hashlib.sha256(MANUFACTURER.encode()).digest()[:16], 'big')}"
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=uid, name=MANUFACTURER, manufacturer_name=MANUFACTURER, model_name=__version__
    )
    return sr.ObservationContext(observer_device_context=sr.ObserverContext(codes.DCM.Device, device))


def _measurements(
    source: Dataset, findings: Findings
) -> sr.PlanarROIMeasurementsAndQualitativeEvaluations | sr.MeasurementsAndQualitativeEvaluations:
    measured = [(SCORE, findings.score), (P_VALUE, findings.p_value)]
    tracking = sr.TrackingIdentifier(
        uid=result_uid(source.SOPInstanceUID, findings, "sr", "tracking"), identifier=f"audit: {findings.verdict}"
    )
    algorithm = sr.AlgorithmIdentification(
        name=findings.classifier_name,
        version=findings.classifier_sha256,
        parameters=[f"policy {findings.policy_sha256 or 'none'}", f"label {findings.explained_label}"],
    )
    measurements = [sr.Measurement(name, value, NO_UNIT) for name, value in measured if value is not None]
    evaluations = [sr.QualitativeEvaluation(VERDICT, VERDICTS[findings.verdict])]
    if findings.region is None:
        image = sr.SourceImageForMeasurementGroup(source.SOPClassUID, source.SOPInstanceUID)
        return sr.MeasurementsAndQualitativeEvaluations(
            tracking,
            finding_type=AUDIT,
            algorithm_id=algorithm,
            measurements=measurements,
            qualitative_evaluations=evaluations,
            source_images=[image],
        )
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking,
        referenced_region=_region(source, findings.region),
        finding_type=AUDIT,
        algorithm_id=algorithm,
        measurements=measurements,
        qualitative_evaluations=evaluations,
        geometric_purpose=CONCENTRATION,
    )


def _region(source: Dataset, region: tuple[int, int, int, int]) -> sr.ImageRegion:
    image = sr.SourceImageForRegion(source.SOPClassUID, source.SOPInstanceUID)
    return sr.ImageRegion("POLYLINE", _outline(region), image)


def _outline(region: tuple[int, int, int, int]) -> np.ndarray:
    """The box as a closed line between pixel corners; (0, 0) is the upper left corner of the upper left pixel."""
    x, y, width, height = region
    corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height), (x, y)]
    return np.asarray(corners, dtype=np.float64)


def _copy_body_part(source: Dataset, result: Dataset) -> None:
    """Without it a laterality would be asked for."""
    if "BodyPartExamined" in source:
        result.BodyPartExamined = source.BodyPartExamined


def _orientation(source: Dataset) -> tuple[str, str]:
    value = source.get("PatientOrientation")
    return (str(value[0]), str(value[1])) if value and len(value) == 2 else ("L", "F")
