"""Evidence bundles: a ZIP of what audits rest on, signed, that verifies without the service and its database."""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from service import __version__
from service.errors import TriggerscopeError
from service.ledger import bundle_verifier
from service.ledger.bundle_verifier import MANIFEST, Report
from service.ledger.signing import Signer, require_public_key
from service.ledger.verify import event_line, signed
from service.records.chain import audit_record, canonical
from service.records.session import utc_now
from service.records.tables import AuditRow, ClassifierRow, EventRow

FORMAT = 2
README = """This bundle holds the evidence of one or more Triggerscope audits.

manifest.json lists the SHA-256 of every other file and is signed with Ed25519.
audits/ID/record.json is the audit as recorded; events.jsonl is its history, each event with its hash;
pixels.npy and maps.npz are the stored files, whose SHA-256 the history names; radiograph.png and overlay.png are
drawn from them. A stored file that was no longer what was recorded, or missing, is left out, with all that is drawn
from it, and "left_out" in manifest.json says why. policies/ holds what the audit was compared with;
classifiers/ the report of each classifier's examination, with the installation's signature of it.

Check it with `triggerscope bundle verify FILE --public-key KEY.pem`; or without Triggerscope, with Python and its
package `cryptography`: `python verify.py FILE --public-key KEY.pem`. Take the key, and verify.py too
(service/bundle_verifier.py in the source), from elsewhere than a bundle that may have been changed. By hand: the
signature is over the canonical JSON (sorted keys, no spaces) of "content" in manifest.json.
"""


class UnreadableBundle(TriggerscopeError):
    """The file is no evidence bundle."""

    code = "unreadable_bundle"


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One audit with its history. files: by their name in the bundle. left_out: why a stored file is not among them."""

    audit: AuditRow
    events: Sequence[EventRow]
    files: Mapping[str, bytes]
    left_out: Mapping[str, str]


def write(
    exhibits: Iterable[Exhibit],
    policies: Mapping[str, bytes],
    signer: Signer,
    target: IO[bytes],
    classifiers: Sequence[ClassifierRow] = (),
) -> None:
    """One exhibit after the other, so that only one is in memory. classifiers: whose reports go with them."""
    hashes: dict[str, str] = {}
    audits: list[str] = []
    left_out: dict[str, str] = {}
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:

        def add(name: str, data: bytes) -> None:
            archive.writestr(name, data)
            hashes[name] = hashlib.sha256(data).hexdigest()

        add("README.txt", README.encode())
        add("verify.py", Path(bundle_verifier.__file__).read_bytes())
        for sha256, data in policies.items():
            add(f"policies/{sha256}.json", data)
        for row in classifiers:
            if row.report is not None and row.report_signature is not None:
                add(f"classifiers/{row.sha256}.json", canonical(row.report))
                add(f"classifiers/{row.sha256}.signature", row.report_signature.encode())
        for exhibit in exhibits:
            folder = f"audits/{exhibit.audit.id}"
            audits.append(exhibit.audit.id)
            add(f"{folder}/record.json", canonical(audit_record(exhibit.audit)))
            add(f"{folder}/events.jsonl", "".join(f"{event_line(row)}\n" for row in exhibit.events).encode())
            for name, data in exhibit.files.items():
                add(f"{folder}/{name}", data)
            left_out |= {f"{folder}/{name}": reason for name, reason in exhibit.left_out.items()}
        content = {
            "format": FORMAT,
            "made_at": utc_now().isoformat(timespec="seconds"),
            "code_version": __version__,
            "audits": audits,
            "files": hashes,
            "left_out": left_out,
        }
        archive.writestr(MANIFEST, json.dumps(signed(content, signer), indent=1, sort_keys=True))


def verify(data: bytes, public_pem: str | None = None) -> Report:
    """As `bundle_verifier.check`. Raises UnreadableBundle and UnusableKey."""
    if public_pem is not None:
        require_public_key(public_pem)
    try:
        return bundle_verifier.check(io.BytesIO(data), public_pem)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UnreadableBundle("the file is not an evidence bundle, or it is damaged") from None
