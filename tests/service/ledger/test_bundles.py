import hashlib
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from service.ledger import bundles
from service.ledger.bundles import Exhibit
from service.ledger.signing import Signer
from service.ledger.verify import signed
from service.records import chain, queries
from service.records.session import Database
from tests.service.records.rows import add_audit, add_classifier, add_job, sha


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer.open(tmp_path)


@pytest.fixture
def bundle(sqlite_database: Database, signer: Signer) -> bytes:
    with sqlite_database.write() as unit:
        add_classifier(unit.session)
        classifier = queries.registered_classifier(unit.session, sha(1))
        classifier.report = {"identity": sha(1), "file_sha256": sha(9), "map_error": 1e-07}
        classifier.report_signature = signer.sign(chain.canonical(classifier.report))
        audit = add_audit(unit.session, add_job(unit.session, 1))
        unit.record("audit.completed", audit.id, "worker", record_sha256=chain.record_hash(audit))
    with sqlite_database.read() as session:
        exhibit = Exhibit(audit, queries.events_about(session, audit.id), {"radiograph.png": b"picture"})
    buffer = io.BytesIO()
    bundles.write([exhibit], {"abc": b"{}"}, signer, buffer, [classifier])
    return buffer.getvalue()


def rewritten(bundle: bytes, changes: dict[str, bytes | None]) -> bytes:
    """The bundle with files changed, added, or (None) left out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(bundle)) as old, zipfile.ZipFile(buffer, "w") as new:
        files: dict[str, bytes | None] = {name: old.read(name) for name in old.namelist()}
        for name, data in (files | changes).items():
            if data is not None:
                new.writestr(name, data)
    return buffer.getvalue()


def test_a_fresh_bundle_is_sound(bundle: bytes, signer: Signer) -> None:
    for key in (None, signer.public_pem):
        report = bundles.verify(bundle, key)
        assert report.faults == ()
        assert report.audits == (f"{1:032x}",)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({f"audits/{1:032x}/radiograph.png": b"another"}, "has been changed"),
        ({f"audits/{1:032x}/radiograph.png": None}, "is missing"),
        ({"policies/abc.json": b"[]"}, "has been changed"),
        ({"audits/more.json": b"{}"}, "is not in the manifest"),
        ({f"audits/{1:032x}/events.jsonl": b""}, "is not the one in its history"),
        ({f"audits/{1:032x}/events.jsonl": None}, "has no record or no history"),
        ({f"audits/{1:032x}/record.json": b"{}"}, "is not the one in its history"),
    ],
)
def test_a_changed_bundle_is_not(bundle: bytes, changes: dict[str, bytes | None], fault: str) -> None:
    faults = bundles.verify(rewritten(bundle, changes)).faults
    assert any(fault in found for found in faults), faults


def with_report(bundle: bytes, signer: Signer, changes: dict[str, bytes]) -> bytes:
    """The bundle with other files for its classifier's report, in a manifest that is signed anew."""
    changed = rewritten(bundle, {f"classifiers/{name}": data for name, data in changes.items()})
    with zipfile.ZipFile(io.BytesIO(changed)) as archive:
        content = json.loads(archive.read("manifest.json"))["content"]
        names = [name for name in archive.namelist() if name != "manifest.json"]
        content["files"] = {name: hashlib.sha256(archive.read(name)).hexdigest() for name in names}
    return rewritten(changed, {"manifest.json": json.dumps(signed(content, signer)).encode()})


def test_each_classifiers_report_is_signed_by_itself(bundle: bytes, signer: Signer) -> None:
    """Also where whoever makes bundles has changed it before."""
    sound, another = f"{sha(1)}.json", f"{sha(2)}.json"
    report = {"identity": sha(1), "file_sha256": sha(9), "map_error": 1e-07}
    signature = signer.sign(chain.canonical(report)).encode()
    assert bundles.verify(with_report(bundle, signer, {sound: chain.canonical(report)})).faults == ()
    for changes, fault in (
        ({sound: chain.canonical({**report, "map_error": 0.0})}, "is not signed by this key"),
        ({another: chain.canonical(report), f"{sha(2)}.signature": signature}, "is of another classifier"),
        ({another: chain.canonical(report)}, "cannot be read, or has no signature"),
        ({f"{sha(1)}.signature": b"none"}, "cannot be read, or has no signature"),
    ):
        [found] = bundles.verify(with_report(bundle, signer, changes)).faults
        assert fault in found


def test_it_verifies_without_the_service(bundle: bytes, signer: Signer, tmp_path: Path) -> None:
    """The script out of the bundle, in a Python that finds nothing of ours."""
    file, key, script = (tmp_path / name for name in ("evidence.zip", "key.pem", "verify.py"))
    key.write_text(signer.public_pem)
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        script.write_bytes(archive.read("verify.py"))
    command = [sys.executable, "-I", str(script), str(file), "--public-key", str(key)]
    for data, status, said in (
        (bundle, 0, "0 faults"),
        (rewritten(bundle, {"policies/abc.json": b"[]"}), 3, "has been changed"),
        (b"PK", 1, "not a readable bundle"),
    ):
        file.write_bytes(data)
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert (ended.returncode, said in ended.stdout + ended.stderr) == (status, True)


def test_another_key_did_not_sign_it(bundle: bytes, tmp_path: Path) -> None:
    other = Signer.open(tmp_path / "other")
    faults = bundles.verify(bundle, other.public_pem).faults
    assert faults[0] == "the manifest is not signed by this key"
    assert faults[1:] == (f"the report classifiers/{sha(1)}.json is not signed by this key",)


def test_what_is_no_bundle_is_refused(bundle: bytes) -> None:
    odd = rewritten(bundle, {"manifest.json": b'{"content": {"files": []}, "public_key": 1, "signature": ""}'})
    for data in (b"", b"PK", bundle[:200], rewritten(bundle, {"manifest.json": b"{}"}), odd):
        with pytest.raises(bundles.UnreadableBundle):
            bundles.verify(data)
