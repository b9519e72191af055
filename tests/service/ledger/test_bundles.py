import hashlib
import io
import json
import subprocess
import sys
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from service.ledger import bundles
from service.ledger.bundles import Exhibit
from service.ledger.signing import Signer
from service.ledger.verify import signed
from service.records import chain, queries
from service.records.session import Database
from service.records.storage import Kept
from service.records.tables import ClassifierRow
from tests.service.records.rows import add_audit, add_classifier, add_job, sha


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer.open(tmp_path)


FILES = {"radiograph.png": b"picture", "pixels.npy": b"pixels", "maps.npz": b"maps"}


@pytest.fixture
def exhibit(sqlite_database: Database) -> Exhibit:
    with sqlite_database.write() as unit:
        add_classifier(unit.session)
        files = {name: asdict(Kept.of(name.encode())) for name in ("pixels", "maps")}
        audit = add_audit(unit.session, add_job(unit.session, 1), files=files)
        unit.record("audit.completed", audit.id, "worker", record_sha256=chain.record_hash(audit), files=files)
    with sqlite_database.read() as session:
        return Exhibit(audit, queries.events_about(session, audit.id), FILES, {})


def written(exhibit: Exhibit, signer: Signer) -> bytes:
    report = {"identity": sha(1), "file_sha256": sha(9), "map_error": 1e-07}
    signature = signer.sign(chain.canonical(report))
    classifier = ClassifierRow(sha256=sha(1), report=report, report_signature=signature)
    buffer = io.BytesIO()
    bundles.write([exhibit], {"abc": b"{}"}, signer, buffer, [classifier])
    return buffer.getvalue()


@pytest.fixture
def bundle(exhibit: Exhibit, signer: Signer) -> bytes:
    return written(exhibit, signer)


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


@pytest.mark.parametrize(
    ("files", "left_out", "fault"),
    [
        (FILES | {"pixels.npy": b"another"}, {}, "pixels.npy is not the file in its history"),
        (FILES | {"maps.npz": b"another"}, {}, "maps.npz is not the file in its history"),
        ({"pixels.npy": b"pixels"}, {}, "maps.npz is missing"),
        ({"pixels.npy": b"pixels"}, {"maps.npz": "it was changed"}, "maps.npz was left out: it was changed"),
    ],
)
def test_a_signature_does_not_stand_for_the_stored_files(
    exhibit: Exhibit, signer: Signer, files: dict[str, bytes], left_out: dict[str, str], fault: str
) -> None:
    """Whoever signs, the files have to be those that the history names."""
    report = bundles.verify(written(replace(exhibit, files=files, left_out=left_out), signer), signer.public_pem)
    assert report.faults == (f"audits/{exhibit.audit.id}/{fault}",)


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
