"""Engines and units of work. `Database.write` is the only place that commits."""

import secrets
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from service.errors import TriggerscopeError
from service.records import migrations
from service.records.chain import Event, Head, extend

BUSY_MS = 30_000


class DatabaseNotReady(TriggerscopeError):
    """The schema is not the one that this version of the service needs."""

    code = "database_not_ready"


def utc_now() -> datetime:
    return datetime.now(UTC)


class Unit:
    """One transaction: its session, and the events that become part of it when it commits."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.events: list[Event] = []

    def record(self, kind: str, subject: str, actor: str, **payload: Any) -> None:
        self.events.append(Event(utc_now(), actor, kind, subject, payload))


class Database:
    def __init__(self, url: str) -> None:
        self.engine = _engine(url)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        self._writing = self.engine.execution_options(begin_immediate=True)
        self._one_writer: AbstractContextManager[object] = threading.Lock() if self.is_sqlite else nullcontext()
        self._chain = threading.Lock()
        self._head = Head(writer=secrets.token_hex(8))

    @contextmanager
    def read(self) -> Iterator[Session]:
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """As `read`, but every statement sees the database as it was at the first one."""
        with self.read() as session:
            if not self.is_sqlite:  # whose transactions always do
                session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            yield session

    @contextmanager
    def write(self) -> Iterator[Unit]:
        """Commits when the block ends, rolls back when it raises."""
        with self._one_writer, Session(self._writing, expire_on_commit=False) as session:
            unit = Unit(session)
            yield unit
            session.flush()
            self._commit(unit)

    def upgrade(self) -> None:
        """Bring the schema to this version; concurrent callers wait for each other."""
        with self._one_writer, self._writing.begin() as connection:
            migrations.upgrade(connection)

    def require_current_schema(self) -> None:
        with self.engine.connect() as connection:
            current, head = migrations.revisions(connection)
        if current != head:
            raise DatabaseNotReady(f"schema revision is {current}, needed is {head}: run `triggerscope db upgrade`")

    def close(self) -> None:
        self.engine.dispose()

    def _commit(self, unit: Unit) -> None:
        if not unit.events:
            unit.session.commit()
            return
        with self._chain:
            rows, head = extend(self._head, unit.events)
            unit.session.add_all(rows)
            unit.session.commit()
            self._head = head


def _engine(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite_engine(url)
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    return create_engine(parsed, pool_size=20, max_overflow=30, pool_pre_ping=True)


def _sqlite_engine(url: str) -> Engine:
    engine = create_engine(url, pool_size=20, max_overflow=30)
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # the driver's own BEGIN would come too late for BEGIN IMMEDIATE
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_MS}"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("begin_immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
