"""Checkpoints and events reach a real socket and a file, once, in order, and also after the server was away."""

import base64
import json
import re
import socket
import ssl
import threading
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from service.ledger import verify
from service.ledger.dicom_message import audit_message
from service.ledger.forwarding import Forwarder, Syslog, Take, UnusableSyslogAddress, file_receiver
from service.ledger.signing import Signer
from service.records.session import Database, utc_now

RFC_5424 = re.compile(
    rb"<85>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z \S+ triggerscope \d+ (\S+) - \xef\xbb\xbf(.*)", re.DOTALL
)


class Server:
    """Takes connections one by one and reads each to its end; `refuse` cuts the next ones off at once."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.tls, self.refuse, self.received = tls, False, b""
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            try:
                self._read(connection)
            except OSError:
                connection.close()

    def _read(self, connection: socket.socket) -> None:
        connection.settimeout(30)
        if self.refuse:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # a reset
            connection.close()
            return
        with self.tls.wrap_socket(connection, server_side=True) if self.tls else connection as opened:
            self.received += b"".join(iter(lambda: opened.recv(65536), b""))

    def take_messages(self) -> list[tuple[str, str]]:
        """Message id and text of each message since the last call, unframed by octet counting."""
        found, data, self.received = [], self.received, b""
        while data:
            size, _, data = data.partition(b" ")
            parts = RFC_5424.fullmatch(data[: int(size)])
            assert parts, data[:200]
            found.append((parts[1].decode(), parts[2].decode()))
            data = data[int(size) :]
        return found


@contextmanager
def listening(tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    server = Server(tls)
    try:
        yield server
    finally:
        server.listening.shutdown(socket.SHUT_RDWR)
        server.listening.close()
        server.thread.join()


def forwarder(database: Database, folder: Path, **receivers: Take) -> Forwarder:
    return Forwarder(database, Signer.open(folder), receivers, with_events=True, checkpoint_every=timedelta(hours=1))


def happen(database: Database, *subjects: str) -> None:
    with database.write() as unit:
        for subject in subjects:
            unit.record("account.linked", subject, "account:ada", issuer="https://idp.example", subject_sha256="0")


def lines(database: Database) -> list[str]:
    with database.read() as session:
        return list(verify.export(session))


def test_each_event_is_an_audit_message_and_comes_once(sqlite_database: Database, tmp_path: Path) -> None:
    happen(sqlite_database, "one", "<&>")
    with listening() as server:
        forward = forwarder(sqlite_database, tmp_path, syslog=Syslog.parse(f"tcp://127.0.0.1:{server.port}", None).take)
        assert forward.turn()
        (kind, checkpoint), *events = server.take_messages()
        assert kind == "checkpoint"
        document = verify.read_checkpoint(json.dumps(json.loads(checkpoint)["checkpoint"]).encode())
        assert verify.verify(sqlite_database, forward.signer.public_pem, [document]).faults == ()
        messages = [ET.fromstring(text) for _, text in events]
        details = [message.find(".//ParticipantObjectDetail") for message in messages]
        assert [base64.b64decode(detail.attrib["value"]).decode() for detail in details] == lines(sqlite_database)
        assert {kind for kind, _ in events} == {"DICOM+RFC3881"}
        assert messages[1].find("EventIdentification/EventID").attrib == {
            "csd-code": "110113", "codeSystemName": "DCM", "originalText": "Security Alert",
        }  # fmt: skip
        assert messages[1].find("ActiveParticipant").attrib["UserID"] == "account:ada"
        assert messages[1].find("ParticipantObjectIdentification").attrib["ParticipantObjectID"] == "<&>"
        assert forward.turn()
        assert server.take_messages() == []
        happen(sqlite_database, "two")
        assert forward.turn()
        assert len(server.take_messages()) == 1


def test_nothing_is_lost_while_a_server_is_away(sqlite_database: Database, tmp_path: Path) -> None:
    kept = tmp_path / "kept.jsonl"
    with listening() as server:
        syslog = Syslog.parse(f"tcp://127.0.0.1:{server.port}", None)
        forward = forwarder(sqlite_database, tmp_path, file=file_receiver(kept), syslog=syslog.take)
        server.refuse = True
        happen(sqlite_database, "one")
        assert not forward.turn()
        assert [line for line in kept.read_text().splitlines() if 'checkpoint":' not in line] == lines(sqlite_database)
        happen(sqlite_database, "two")
        assert not forward.turn()
        server.refuse = False
        assert forward.turn()
        assert [kind for kind, _ in server.take_messages()] == ["checkpoint", *["DICOM+RFC3881"] * 3]
    happen(sqlite_database, "three")
    assert not forward.turn()  # nobody listens any more
    assert kept.read_text().count("\n") == 5


def test_tls_is_checked_and_datagrams_go_out(sqlite_database: Database, tmp_path: Path) -> None:
    own, other = (certificate(tmp_path / name) for name in ("own", "other"))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(own, own.with_suffix(".key"))
    with listening(tls) as server:
        address = f"tls://localhost:{server.port}"
        assert not forwarder(sqlite_database, tmp_path, syslog=Syslog.parse(address, other).take).turn()
        assert server.take_messages() == []
        assert forwarder(sqlite_database, tmp_path, syslog=Syslog.parse(address, own).take).turn()
        assert [kind for kind, _ in server.take_messages()] == ["checkpoint", "DICOM+RFC3881"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(30)
        syslog = Syslog.parse(f"udp://127.0.0.1:{receiver.getsockname()[1]}", None)
        assert forwarder(sqlite_database, tmp_path, datagrams=syslog.take).turn()
        assert RFC_5424.fullmatch(receiver.recv(65536))


def certificate(path: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = (
        builder.serial_number(1).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    )
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    made = builder.sign(key, hashes.SHA256())
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    path.with_suffix(".key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


@pytest.mark.parametrize("address", ["log.example.org", "http://log.example.org", "tcp://", "tls://host:port"])
def test_an_address_that_makes_no_sense_is_refused(address: str) -> None:
    with pytest.raises(UnusableSyslogAddress):
        Syslog.parse(address, None)


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [("result.given_up", "4"), ("result.not_committed", "4"), ("film.refused", "4"), ("result.delivered", "0")],
)
def test_an_audit_message_says_what_failed(kind: str, outcome: str) -> None:
    message = ET.fromstring(audit_message(utc_now(), "outbox", kind, "a film", "{}", "here"))
    found = message.find("EventIdentification")
    assert found is not None
    assert found.attrib["EventOutcomeIndicator"] == outcome
