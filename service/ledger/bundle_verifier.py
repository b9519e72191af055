"""Checks an evidence bundle of Triggerscope: needs Python 3.11 with `cryptography`, and nothing of the service.

python verify.py BUNDLE.zip --public-key KEY.pem

The key comes from the hospital that made the bundle, not from the bundle. The exit status is 3 where there are faults.
"""

import argparse
import hashlib
import json
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

MANIFEST = "manifest.json"
MOST_BYTES = 2 * 1024**3
COMPLETED = ("audit.completed", "carried.audit.completed")
STORED = {"pixels": "pixels.npy", "maps": "maps.npz"}  # what a history calls them, and the bundle
FAULTS_FOUND = 3


@dataclass(frozen=True, slots=True)
class Report:
    """key: the SHA-256 of the public key's PEM text. faults: what does not hold, or was left out; none for a sound
    bundle. notes: what could not be checked."""

    audits: tuple[str, ...]
    made_at: str
    key: str
    faults: tuple[str, ...]
    notes: tuple[str, ...] = ()


def check(bundle: str | Path | IO[bytes], public_pem: str | None = None) -> Report:
    """Check signature, files, histories and records; under the bundle's own key where none is given.

    Raises ValueError, KeyError, TypeError or AttributeError where the file is no bundle, or the key no Ed25519 key.
    """
    try:
        with zipfile.ZipFile(bundle) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MOST_BYTES:
                raise ValueError("the bundle unpacks to more than is allowed")
            return _check(archive, public_pem)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError):  # also another compression, or a password
        raise ValueError("the file is not a ZIP archive, or it is damaged") from None


def _check(archive: zipfile.ZipFile, public_pem: str | None) -> Report:
    manifest = json.loads(archive.read(MANIFEST))
    content, pem = manifest["content"], public_pem or manifest["public_key"]
    listed: Mapping[str, str] = content["files"]
    faults = [] if _is_signed(content, manifest["signature"], pem) else ["the manifest is not signed by this key"]
    names = archive.namelist()
    faults += [f"{name} is there twice" for name in set(names) if names.count(name) > 1]
    faults += [f"{name} is missing" for name in listed if name not in names]
    for name in sorted(set(names) - {MANIFEST}):
        if name not in listed:
            faults.append(f"{name} is not in the manifest")
        elif hashlib.sha256(archive.read(name)).hexdigest() != listed[name]:
            faults.append(f"{name} has been changed")
    left_out: Mapping[str, str] = content.get("left_out", {})
    faults += [f"{name} was left out: {reason}" for name, reason in left_out.items()]
    notes: list[str] = []
    for audit_id in content["audits"]:
        files, found = _history(archive, set(names), audit_id)
        faults += found
        if files is None:
            notes.append(f"the files of {audit_id} are from before evidence was bound to the record: not checked")
        else:
            faults += _file_faults(archive, set(names), set(left_out), audit_id, files)
    faults += _report_faults(archive, names, pem)
    key = hashlib.sha256(pem.strip().encode()).hexdigest()
    return Report(tuple(content["audits"]), content["made_at"], key, tuple(faults), tuple(notes))


def _history(archive: zipfile.ZipFile, names: set[str], audit_id: str) -> tuple[dict[str, Any] | None, list[str]]:
    """What an audit's history says of its stored files, None where it is from before that; and what does not hold: the
    history hashes to what it says, and the record to what the history says."""
    record, history = f"audits/{audit_id}/record.json", f"audits/{audit_id}/events.jsonl"
    if not {record, history} <= names:
        return {}, [f"audit {audit_id} has no record or no history"]
    events: list[dict[str, Any]] = [json.loads(line) for line in archive.read(history).splitlines()]
    faults = [f"event {e['writer']}/{e['sequence']} has been changed" for e in events if _hash(e) != e["hash"]]
    told: list[dict[str, Any]] = [e["payload"] for e in events if e["kind"] in COMPLETED]
    if not told or told[-1].get("record_sha256") != hashlib.sha256(archive.read(record)).hexdigest():
        faults.append(f"the record of {audit_id} is not the one in its history")
    return (told[-1].get("files") if told else {}), faults


def _file_faults(
    archive: zipfile.ZipFile, names: set[str], left_out: set[str], audit_id: str, told: Mapping[str, Any]
) -> list[str]:
    """The stored files are those of the history, or it is said that they were left out."""
    faults = []
    for kind in STORED.keys() & told.keys():
        name = f"audits/{audit_id}/{STORED[kind]}"
        if name in names:
            if hashlib.sha256(archive.read(name)).hexdigest() != told[kind]["sha256"]:
                faults.append(f"{name} is not the file in its history")
        elif name not in left_out:
            faults.append(f"{name} is missing")
    return faults


def _report_faults(archive: zipfile.ZipFile, names: list[str], pem: str) -> list[str]:
    """Each report of a classifier's examination is signed by itself, and of the classifier that it is filed under."""
    reports = [name for name in names if name.startswith("classifiers/") and name.endswith(".json")]
    return [f"the report {name} {fault}" for name in reports if (fault := _report_fault(archive, name, pem))]


def _report_fault(archive: zipfile.ZipFile, name: str, pem: str) -> str | None:
    try:
        report = json.loads(archive.read(name))
        signature = archive.read(name.removesuffix(".json") + ".signature").decode()
        if not _is_signed(report, signature, pem):
            return "is not signed by this key"
        return None if Path(name).stem in (report["identity"], report["file_sha256"]) else "is of another classifier"
    except (KeyError, TypeError, ValueError):
        return "cannot be read, or has no signature"


def _hash(event: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical({name: value for name, value in event.items() if name != "hash"})).hexdigest()


def canonical(content: Mapping[str, Any]) -> bytes:
    """The one JSON text of a document that is hashed or signed."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def _is_signed(content: Mapping[str, Any], signature: str, public_pem: str) -> bool:
    key = load_pem_public_key(public_pem.encode())
    if not isinstance(key, Ed25519PublicKey):
        raise TypeError("the public key is not an Ed25519 key")
    try:
        key.verify(bytes.fromhex(signature), canonical(content))
    except InvalidSignature:
        return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--public-key", type=Path, help="default: the one in the bundle, which proves less")
    arguments = parser.parse_args()
    try:
        report = check(arguments.bundle, arguments.public_key.read_text() if arguments.public_key else None)
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        print(f"not a readable bundle or key: {error}", file=sys.stderr)
        return 1
    for line in report.faults + report.notes:
        print(line)
    print(f"{len(report.audits)} audits, made {report.made_at}, key {report.key}: {len(report.faults)} faults")
    return FAULTS_FOUND if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
