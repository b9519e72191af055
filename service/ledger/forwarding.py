"""Checkpoints, and events where asked for, sent on as they come: to a file and to a syslog server.

How far each receiver got is kept in the database and moved on only after it took a batch, so that nothing is left out;
after a failure the last batch may come twice. A syslog server over TCP or TLS took a batch when it has read all of it
and closed the connection; over UDP nobody knows.
"""

import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import structlog
from sqlalchemy.exc import SQLAlchemyError

from service.errors import TriggerscopeError
from service.ledger.dicom_message import audit_message, syslog_message
from service.ledger.signing import Signer
from service.ledger.verify import event_line, sign_checkpoint
from service.loops import Loop
from service.records import log_queries, pacs_queries
from service.records.chain import canonical
from service.records.session import Database, utc_now

ACTOR = "forwarder"
BATCH = 500
TIMEOUT_SECONDS = 20.0
UDP_BYTES = 60_000
PORTS = {"udp": 514, "tcp": 601, "tls": 6514}
log = structlog.get_logger()


class UnusableSyslogAddress(TriggerscopeError):
    """The address of the syslog server is not like tls://log.example.org:6514."""

    code = "unusable_syslog_address"


class NoReceiver(TriggerscopeError):
    """Neither a file nor a syslog server is set."""

    code = "no_receiver"


@dataclass(frozen=True, slots=True)
class Entry:
    """One checkpoint or event. line: all of it as JSON; xml: as an audit message, or empty for a checkpoint."""

    at: datetime
    line: str
    xml: str = ""


Take = Callable[[Sequence[Entry]], None]


@dataclass(frozen=True, slots=True)
class Syslog:
    scheme: str
    host: str
    port: int
    tls: ssl.SSLContext | None

    @classmethod
    def parse(cls, address: str, authority: Path | None) -> "Syslog":
        try:
            parts = urlsplit(address)
            port = parts.port or PORTS[parts.scheme]
        except (KeyError, ValueError):
            raise UnusableSyslogAddress("write udp://, tcp:// or tls://, a host and maybe a port") from None
        if not parts.hostname:
            raise UnusableSyslogAddress("the address has no host")
        tls = ssl.create_default_context(cafile=authority) if parts.scheme == "tls" else None
        return cls(parts.scheme, parts.hostname, port, tls)

    def take(self, entries: Sequence[Entry]) -> None:
        """Raises OSError where the server did not take all of them."""
        own = socket.gethostname()
        messages = [
            syslog_message(entry.at, own, "DICOM+RFC3881" if entry.xml else "checkpoint", entry.xml or entry.line)
            for entry in entries
        ]
        if self.scheme == "udp":
            self._send_datagrams(messages)
        else:
            self._send_stream(b"".join(b"%d %b" % (len(message), message) for message in messages))

    def _send_datagrams(self, messages: Sequence[bytes]) -> None:
        family, kind, _, _, address = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as server:
            for message in messages:
                if len(message) > UDP_BYTES:
                    log.error("forwarding.too_long", bytes=len(message))
                else:
                    server.sendto(message, address)

    def _send_stream(self, data: bytes) -> None:
        """Octet counting (RFC 6587, RFC 5425); returns when the server has read to the end."""
        with socket.create_connection((self.host, self.port), TIMEOUT_SECONDS) as plain:
            if self.tls is None:
                plain.sendall(data)
                plain.shutdown(socket.SHUT_WR)
                _read_to_end(plain)
                return
            with self.tls.wrap_socket(plain, server_hostname=self.host) as secure:
                secure.sendall(data)
                try:
                    secure.unwrap()
                except ssl.SSLEOFError:  # closed without its own farewell, but closed
                    return


def _read_to_end(connection: socket.socket) -> None:
    while connection.recv(4096):
        continue


def file_receiver(path: Path) -> Take:
    """Appends lines of JSON, durably."""

    def take(entries: Sequence[Entry]) -> None:
        with path.open("a") as file:
            file.writelines(f"{entry.line}\n" for entry in entries)
            file.flush()
            os.fsync(file.fileno())

    return take


@dataclass(frozen=True, slots=True)
class Forwarder:
    """receivers: by a name that their cursors go by. checkpoint_every: how old the last checkpoint may get."""

    database: Database
    signer: Signer
    receivers: dict[str, Take]
    with_events: bool
    checkpoint_every: timedelta

    def run(self, stop: threading.Event, seconds: float) -> None:
        def turn() -> bool:
            self.turn()
            return False

        Loop("forwarding").run(turn, stop, seconds)

    def turn(self) -> bool:
        """Sign a checkpoint when it is due, and send on what is new; False where a receiver did not take it."""
        try:
            self._sign_when_due()
        except SQLAlchemyError as error:
            log.error("forwarding.interrupted", error=type(error).__name__)
            return False
        taken = [self._serve(name, take) for name, take in self.receivers.items()]
        return all(taken)

    def _sign_when_due(self) -> None:
        with self.database.read() as session:
            latest = log_queries.latest_checkpoints(session, 1)
        if not latest or latest[0].at <= utc_now() - self.checkpoint_every:
            sign_checkpoint(self.database, self.signer, ACTOR)

    def _serve(self, name: str, take: Take) -> bool:
        try:
            for cursor, position, entries in self._new(name):
                take(entries)
                with self.database.write() as unit:
                    pacs_queries.move_cursor(unit.session, cursor, position, utc_now())
        except (OSError, SQLAlchemyError) as error:
            log.error("forwarding.interrupted", receiver=name, error=type(error).__name__)
            return False
        return True

    def _new(self, name: str) -> Iterator[tuple[str, int, list[Entry]]]:
        """Batches behind the receiver's cursors: checkpoints, then each chain's events in their order."""
        cursor = f"forward/{name}/checkpoints"
        while batch := self._checkpoints(cursor):
            yield cursor, batch[-1][0], [entry for _, entry in batch]
        if not self.with_events:
            return
        with self.database.read() as session:
            heads = log_queries.heads(session)
        for head in heads:
            cursor = f"forward/{name}/{head.writer}"
            while batch := self._events(cursor, head.writer):
                yield cursor, batch[-1][0], [entry for _, entry in batch]

    def _checkpoints(self, cursor: str) -> list[tuple[int, Entry]]:
        with self.database.read() as session:
            rows = log_queries.checkpoints_behind(session, pacs_queries.cursor(session, cursor), BATCH)
            return [(row.id, Entry(row.at, canonical({"checkpoint": row.document}).decode())) for row in rows]

    def _events(self, cursor: str, writer: str) -> list[tuple[int, Entry]]:
        host = socket.gethostname()
        with self.database.read() as session:
            rows = log_queries.events_behind(session, writer, pacs_queries.cursor(session, cursor), BATCH)
        found = []
        for row in rows:
            line = event_line(row)
            xml = audit_message(row.at, row.actor, row.kind, row.subject, line, host)
            found.append((row.sequence, Entry(row.at, line, xml)))
        return found
