"""Events of the log as audit messages of DICOM PS3.15, section A.5, carried by syslog (RFC 5424)."""

import base64
import os
from datetime import UTC, datetime
from xml.etree.ElementTree import Element, SubElement, tostring

PRIORITY = 10 * 8 + 5  # facility: security; severity: notice
OWN_CODES = "99TRIGGERSCOPE"
Code = tuple[str, str]
ACTIVITY: Code = ("110100", "Application Activity")
EVENT_IDS: dict[str, Code] = {  # by the first word of our kind of event; PS3.16, CID 400
    "film": ("110107", "Import"),
    "review": ("110103", "DICOM Instances Accessed"),
    "result": ("110104", "DICOM Instances Transferred"),
    "login": ("110114", "User Authentication"),
    "account": ("110113", "Security Alert"),
    "key": ("110113", "Security Alert"),
    "log": ("110101", "Audit Log Used"),
}
EXPORT: Code = ("110106", "Export")
MINOR_FAILURE, SUCCESS = "4", "0"
FAILURES = (".failed", ".refused", ".upload_refused", ".given_up", ".not_committed")


def audit_message(at: datetime, actor: str, kind: str, subject: str, line: str, host: str) -> str:
    """The XML of one event; `line`, which holds the event whole, travels with it in base64."""
    code, words = EXPORT if kind.endswith(".exported") else EVENT_IDS.get(kind.partition(".")[0], ACTIVITY)
    failed = kind.endswith(FAILURES)
    message = Element("AuditMessage")
    event = SubElement(
        message,
        "EventIdentification",
        EventActionCode="E",
        EventDateTime=at.astimezone(UTC).isoformat(timespec="milliseconds"),
        EventOutcomeIndicator=MINOR_FAILURE if failed else SUCCESS,
    )
    _coded(event, "EventID", code, "DCM", words)
    _coded(event, "EventTypeCode", kind, OWN_CODES, kind)
    SubElement(message, "ActiveParticipant", UserID=actor, UserIsRequestor="true")
    SubElement(message, "AuditSourceIdentification", AuditSourceID=host)
    names = {"ParticipantObjectID": subject, "ParticipantObjectTypeCode": "2"}  # a system object
    about = SubElement(message, "ParticipantObjectIdentification", names)
    _coded(about, "ParticipantObjectIDTypeCode", "subject", OWN_CODES, "subject of the event")
    value = base64.b64encode(line.encode()).decode()
    SubElement(about, "ParticipantObjectDetail", type="event", value=value)
    return tostring(message, encoding="unicode")


def _coded(parent: Element, name: str, code: str, system: str, words: str) -> None:
    SubElement(parent, name, {"csd-code": code, "codeSystemName": system, "originalText": words})


def syslog_message(at: datetime, host: str, message_id: str, text: str) -> bytes:
    """RFC 5424 with a UTF-8 text."""
    stamp = at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds")
    head = f"<{PRIORITY}>1 {stamp}Z {host} triggerscope {os.getpid()} {message_id} - "
    return head.encode() + b"\xef\xbb\xbf" + text.encode()
