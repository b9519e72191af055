"""Evidence bundles: a ZIP of what audits rest on, signed, that verifies without the service and its database."""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from service import __version__
from service.audit.errors import TriggerscopeError
from service.audit_log import event_line
from service.db.chain import Event, audit_record, canonical, event_hash
from service.db.session import utc_now
from service.db.tables import AuditRow, EventRow
from service.signing import Signer, fingerprint, is_signed

FORMAT = 1
MANIFEST = "manifest.json"
MOST_BYTES = 512 * 1024 * 1024
README = """This bundle holds the evidence of one or more Triggerscope audits.

manifest.json lists the SHA-256 of every other file and is signed with Ed25519.
audits/ID/record.json is the audit as recorded; events.jsonl is its history, each event with its hash;
radiograph.png, overlay.png and maps.npz are what was looked at; policies/ holds what it was compared with.

Check it with `triggerscope bundle verify FILE --public-key KEY.pem`, or by hand: the signature is over the canonical
JSON (sorted keys, no spaces) of "content" in manifest.json.
"""


class UnreadableBundle(TriggerscopeError):
    """The file is no evidence bundle."""

    code = "unreadable_bundle"


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One audit with its history and its pictures."""

    audit: AuditRow
    events: Sequence[EventRow]
    pictures: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class BundleReport:
    """key: the fingerprint of the key that signed. faults: what does not hold; none for a sound bundle."""

    audits: tuple[str, ...]
    made_at: str
    key: str
    faults: tuple[str, ...]


def make(exhibits: Sequence[Exhibit], policies: Mapping[str, bytes], signer: Signer) -> bytes:
    files = {"README.txt": README.encode()}
    for exhibit in exhibits:
        folder = f"audits/{exhibit.audit.id}"
        files[f"{folder}/record.json"] = canonical(audit_record(exhibit.audit))
        files[f"{folder}/events.jsonl"] = "".join(f"{event_line(row)}\n" for row in exhibit.events).encode()
        files |= {f"{folder}/{name}": data for name, data in exhibit.pictures.items()}
    files |= {f"policies/{sha256}.json": data for sha256, data in policies.items()}
    files[MANIFEST] = _manifest(files, [exhibit.audit.id for exhibit in exhibits], signer)
    return _zipped(files)


def verify(data: bytes, public_pem: str | None = None) -> BundleReport:
    """Check signature, files, history and records; under the bundle's own key where none is given."""
    files = _unzipped(data)
    try:
        manifest = json.loads(files.pop(MANIFEST))
        content, signature, key = manifest["content"], manifest["signature"], public_pem or manifest["public_key"]
        listed: dict[str, str] = content["files"]
        faults = [] if is_signed(canonical(content), signature, key) else ["the manifest is not signed by this key"]
        faults += _file_faults(files, listed)
        faults += [fault for audit_id in content["audits"] for fault in _audit_faults(files, audit_id)]
        return BundleReport(tuple(content["audits"]), content["made_at"], fingerprint(key), tuple(faults))
    except (KeyError, TypeError, ValueError):
        raise UnreadableBundle("the bundle's manifest or records cannot be read") from None


def _manifest(files: Mapping[str, bytes], audits: list[str], signer: Signer) -> bytes:
    content = {
        "format": FORMAT,
        "made_at": utc_now().isoformat(timespec="seconds"),
        "code_version": __version__,
        "audits": audits,
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    document = {"content": content, "signature": signer.sign(canonical(content)), "public_key": signer.public_pem}
    return json.dumps(document, indent=1, sort_keys=True).encode()


def _zipped(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _unzipped(data: bytes) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MOST_BYTES:
                raise UnreadableBundle("the bundle unpacks to more than is allowed")
            return {name: archive.read(name) for name in archive.namelist()}
    except zipfile.BadZipFile:
        raise UnreadableBundle("the file is not a ZIP archive, or it is damaged") from None


def _file_faults(files: Mapping[str, bytes], listed: Mapping[str, str]) -> list[str]:
    faults = [f"{name} is missing" for name in listed if name not in files]
    for name, data in files.items():
        if name not in listed:
            faults.append(f"{name} is not in the manifest")
        elif hashlib.sha256(data).hexdigest() != listed[name]:
            faults.append(f"{name} has been changed")
    return faults


def _audit_faults(files: Mapping[str, bytes], audit_id: str) -> list[str]:
    """The history hashes to what it says, and the record to what the history says."""
    record = files.get(f"audits/{audit_id}/record.json", b"")
    lines = files.get(f"audits/{audit_id}/events.jsonl", b"").decode().splitlines()
    events: list[dict[str, Any]] = [json.loads(line) for line in lines]
    faults = [f"event {e['writer']}/{e['sequence']} has been changed" for e in events if _rehashed(e) != e["hash"]]
    wanted = [e["payload"].get("record_sha256") for e in events if e["kind"] == "audit.completed"]
    if wanted and wanted[-1] and wanted[-1] != hashlib.sha256(record).hexdigest():
        faults.append(f"the record of {audit_id} is not the one in its history")
    return faults


def _rehashed(event: Mapping[str, Any]) -> str:
    at = datetime.fromisoformat(event["at"])
    content = Event(at, event["actor"], event["kind"], event["subject"], event["payload"])
    return event_hash(event["writer"], event["sequence"], event["previous_hash"], content)
