"""Real peers for tests: a network with nothing but loopback, an Orthanc in it, DCMTK's clients, certificates."""

import ctypes
import functools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import httpx
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import DigitalXRayImageStorageForPresentation

from service.pacs.results.destinations import close
from service.settings import Settings
from tests.conftest import unavailable

CLONE_NEWNET = 0x40000000
START_SECONDS = 60
P = ParamSpec("P")
T = TypeVar("T")


def program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        unavailable(f"{name} is not installed")
    return found


def on_loopback_only(test: Callable[P, T]) -> Callable[P, T]:
    """Runs a test in a thread whose network is a namespace of its own: Orthanc binds every interface that there is."""

    @functools.wraps(test)
    def run(*arguments: P.args, **keywords: P.kwargs) -> T:
        ip = program("ip")

        def isolated() -> T:
            if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
                unavailable(f"no network namespace: {os.strerror(ctypes.get_errno())}")
            subprocess.run([ip, "link", "set", "lo", "up"], check=True)
            return test(*arguments, **keywords)

        with ThreadPoolExecutor(1) as pool:
            return pool.submit(isolated).result()

    return run


@dataclass(frozen=True)
class Orthanc:
    """An Orthanc that answers at 127.0.0.1, and how to stop and start it."""

    folder: Path
    http_port: int = 8042
    dicom_port: int = 4242

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def write_configuration(self, **extra: object) -> None:
        plugins = [str(path) for path in Path("/usr/share/orthanc/plugins").glob("*.so")]
        settings = {
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "storage"),
            "HttpPort": self.http_port,
            "DicomPort": self.dicom_port,
            "DicomAet": "ORTHANC",
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAlwaysAllowStore": True,
            "DicomCheckCalledAet": False,
            "StableAge": 1,
            "Plugins": plugins,
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        (self.folder / "orthanc.json").write_text(json.dumps(settings | extra))

    @contextmanager
    def running(self, auth: tuple[str, str] | None = None) -> Iterator[httpx.Client]:
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen([program("Orthanc"), str(self.folder / "orthanc.json")], stdout=log, stderr=log)
        try:
            with httpx.Client(base_url=self.url, auth=auth, timeout=60, trust_env=False) as client:
                _wait_for(client, process)
                yield client
        finally:
            process.terminate()
            process.wait(60)


def _wait_for(client: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        assert process.poll() is None, "Orthanc ended"
        try:
            if client.get("/system").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise TimeoutError("Orthanc did not start")


def orthanc_in(folder: Path, **extra: object) -> Orthanc:
    program("Orthanc")
    folder.mkdir(parents=True)
    (folder / "storage").mkdir()
    orthanc = Orthanc(folder)
    orthanc.write_configuration(**extra)
    return orthanc


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for localhost and its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = [
        program("openssl"),
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    subprocess.run(
        [
            *command,
            "-addext",
            "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-keyout",
            str(key),
            "-out",
            str(certificate),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come about in time"
        time.sleep(0.02)


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A disk of 64 kB at `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        unavailable("only root can mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def associated(settings: Settings) -> Iterator[Association]:
    """A sender of DX films at our own port; whether it was accepted is for the caller to ask."""
    application = AE("SENDER")
    application.acse_timeout = application.dimse_timeout = application.network_timeout = 20
    application.add_requested_context(DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian)
    association = application.associate("127.0.0.1", settings.dimse_port)
    try:
        yield association
    finally:
        association.release()
        close(association)
