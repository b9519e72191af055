"""The C-STORE and C-ECHO SCP: an association's films are committed as queued before they are answered Success."""

import hashlib
import socket
import socketserver
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import structlog
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made when they are imported
    StorageCommitmentPushModel,
    Verification,
)
from pynetdicom.transport import ThreadedAssociationServer
from sqlalchemy.exc import SQLAlchemyError

from service.errors import RadiographError, TriggerscopeError
from service.films.codestreams import DECODERS
from service.films.dicom import NATIVE
from service.pacs.acceptance import Acceptance
from service.pacs.identity import Sender
from service.pacs.instance import FILM_CLASSES, Instance, UidMismatch
from service.pacs.peers import Peer, may_associate, may_connect
from service.pacs.results.proof import on_report
from service.pacs.statuses import OUT_OF_RESOURCES, SUCCESS, status_of

ENVELOPE_BYTES = 1024 * 1024  # PDU headers and the command set
HANDSHAKE_SECONDS = 5.0
ACSE_SECONDS = 5.0
NETWORK_SECONDS = 60.0
MAX_PDU_BYTES = 128 * 1024
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Port:
    """Where the SCP listens, and to whom."""

    host: str
    port: int
    ae_title: str
    peers: tuple[Peer, ...]
    max_associations: int
    max_bytes: int
    tls: ssl.SSLContext | None = None


class StoreServer(ThreadedAssociationServer):
    """Accepts plainly; a TLS handshake runs in the connection's own thread, so that an idle peer delays nobody."""

    daemon_threads = True
    request_queue_size = 128
    peers: tuple[Peer, ...] = ()

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        if self.socket is None:
            raise OSError("the server is closed")
        return self.socket.accept()

    def verify_request(self, _request: object, client_address: Any) -> bool:
        return may_connect(self.peers, client_address[0])

    def finish_request(self, request: Any, client_address: Any) -> None:
        secured = self._secured(request) if self.ssl_context else request
        if secured is None:
            self.shutdown_request(request)
        else:
            super().finish_request(secured, client_address)

    def handle_error(self, _request: object, _client_address: object) -> None:
        error = sys.exception()
        log.error("dimse.connection_failed", error=type(error).__name__)

    def stop_accepting(self) -> None:
        socketserver.BaseServer.shutdown(self)
        self.server_close()

    def _secured(self, request: socket.socket) -> socket.socket | None:
        request.settimeout(HANDSHAKE_SECONDS)
        try:
            secured = self.ssl_context.wrap_socket(request, server_side=True) if self.ssl_context else request
        except OSError as error:
            log.warning("dimse.handshake_failed", error=type(error).__name__)
            return None
        secured.settimeout(None)
        return secured


class ByteCap:
    """Counts what arrives for one message; an association that sends more than is allowed is aborted."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes + ENVELOPE_BYTES
        self._received: WeakKeyDictionary[Association, int] = WeakKeyDictionary()

    def on_data(self, event: Event) -> None:
        count = self._received.get(event.assoc, 0) + len(event.data)
        self._received[event.assoc] = count
        if count > self._max_bytes:
            log.warning("dimse.too_many_bytes")
            event.assoc.abort()

    def on_message(self, event: Event) -> None:
        self._received[event.assoc] = 0


@contextmanager
def serving(port: Port, acceptance: Acceptance, shutdown_seconds: float) -> Iterator[StoreServer]:
    """Listens until the block ends; then accepts nobody more and lets open associations finish."""
    application = _application(port)
    cap = ByteCap(port.max_bytes)
    handlers: list[Any] = [
        (evt.EVT_REQUESTED, on_requested, [port.peers]),
        (evt.EVT_C_ECHO, on_echo),
        (evt.EVT_C_STORE, on_store, [acceptance]),
        (evt.EVT_N_EVENT_REPORT, on_report, [acceptance.database]),
        (evt.EVT_DATA_RECV, cap.on_data),
        (evt.EVT_DIMSE_RECV, cap.on_message),
    ]
    address = (port.host, port.port)
    server = StoreServer(
        application, address, port.ae_title, application.supported_contexts, port.tls, evt_handlers=handlers
    )
    server.peers = port.peers
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="dimse")
    thread.start()
    log.info("dimse.started", ae_title=port.ae_title, port=server.server_address[1], tls=port.tls is not None)
    try:
        yield server
    finally:
        server.stop_accepting()
        thread.join()
        _finish(application, shutdown_seconds)


def tls_context(certificate: Path, key: Path, client_ca: Path | None) -> ssl.SSLContext:
    """With `client_ca`, only peers with a certificate of it get through."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def on_requested(event: Event, peers: tuple[Peer, ...]) -> None:
    requestor = event.assoc.requestor
    title = requestor.primitive.calling_ae_title.strip() if requestor.primitive else ""
    if not may_associate(peers, title, requestor.address):
        log.warning("dimse.peer_refused", address=requestor.address)
        event.assoc.acse.send_reject(0x01, 0x01, 0x03)  # permanent, by the user, calling AE title not recognised
        event.assoc.kill()


def on_echo(_event: Event) -> int:
    return SUCCESS


def on_store(event: Event, acceptance: Acceptance) -> int:
    """Success only after the commit; where disk or database are away the peer keeps the film."""
    try:
        return _store(event, acceptance)
    except (SQLAlchemyError, OSError) as error:
        log.error("dimse.cannot_store", error=type(error).__name__)
        return OUT_OF_RESOURCES


def _store(event: Event, acceptance: Acceptance) -> int:
    data, sender = event.encoded_dataset(), _sender(event.assoc)
    try:
        instance = acceptance.read(data)
        _require_same_uids(event.request, instance)
        accepted = acceptance.accept(data, instance, sender)
    except RadiographError as error:
        acceptance.refuse(data, sender, error)
        return status_of(error.code)
    except TriggerscopeError as error:
        log.error("dimse.cannot_accept", code=error.code, detail=error.detail)
        return status_of(error.code)
    log.info("dimse.stored", audit=accepted.job_id, is_new=accepted.is_new)
    return SUCCESS


def _require_same_uids(request: Any, instance: Instance) -> None:
    asked = (request.AffectedSOPClassUID, request.AffectedSOPInstanceUID)
    if asked != (instance.sop_class_uid, instance.sop_instance_uid):
        raise UidMismatch("the data set's UIDs are not those of the request")


def _sender(association: Association) -> Sender:
    title, asked = association.requestor.ae_title.strip(), association.requestor.primitive
    return Sender(
        channel="dimse",
        actor=f"dimse:{title}",
        source="".join(c if c.isalnum() or c in "._-" else "_" for c in title) or "dimse",
        calling_ae=title,
        called_ae=asked.called_ae_title.strip() if asked else "",
        address=str(association.requestor.address),
        certificate_sha256=_certificate(association),
    )


def _certificate(association: Association) -> str:
    connection = association.dul.socket.socket if association.dul.socket else None
    certificate = connection.getpeercert(binary_form=True) if isinstance(connection, ssl.SSLSocket) else None
    return hashlib.sha256(certificate).hexdigest() if certificate else ""


def _application(port: Port) -> AE:
    application = AE(port.ae_title)
    application.acse_timeout = ACSE_SECONDS
    application.dimse_timeout = application.network_timeout = NETWORK_SECONDS
    application.maximum_associations = port.max_associations
    application.maximum_pdu_size = MAX_PDU_BYTES
    application.add_supported_context(Verification)
    application.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)  # archives' reports
    for sop_class in FILM_CLASSES:
        application.add_supported_context(sop_class, [*sorted(NATIVE), *sorted(DECODERS)])
    return application


def _finish(application: AE, seconds: float) -> None:
    until = time.monotonic() + seconds
    while application.active_associations and time.monotonic() < until:
        time.sleep(0.05)
    for association in application.active_associations:
        association.abort()
