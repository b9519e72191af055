"""The watcher of an Orthanc: reads /changes behind a cursor that moves with each committed film, so nothing is lost."""

from dataclasses import dataclass, field

import httpx
import structlog

from service.errors import RadiographError, TooManyBytes
from service.pacs.acceptance import Acceptance, Also
from service.pacs.identity import Sender
from service.pacs.instance import FILM_CLASSES
from service.pacs.sources import SourceNotUnderstood
from service.records import pacs_queries
from service.records.session import Unit, utc_now

PAGE = 100
TRIES = 5  # for a film that Orthanc lists and answers with an error for, some minutes in all
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Change:
    kind: str
    instance_id: str
    sequence: int


@dataclass(frozen=True, slots=True)
class Changes:
    """One page of /changes. last: the sequence number that it ends with; done: nothing is behind it."""

    changes: tuple[Change, ...]
    last: int
    done: bool


class FilmNotGiven(RadiographError):
    """The archive lists a film and answers with an error whenever it is asked for it."""

    code = "film_not_given"


@dataclass(frozen=True, slots=True)
class OrthancWatcher:
    """name: of the source, as audits record it. client: has Orthanc's address and credentials. failures: how often the
    film at a sequence number was not given."""

    client: httpx.Client
    acceptance: Acceptance
    name: str = "orthanc"
    failures: dict[int, int] = field(default_factory=dict)

    @property
    def cursor(self) -> str:
        return f"orthanc/{self.client.base_url.host}:{self.client.base_url.port or ''}{self.client.base_url.path}"

    def poll(self) -> bool:
        """Take one page of changes; whether there are more."""
        with self.acceptance.database.read() as session:
            since = pacs_queries.cursor(session, self.cursor)
        page = self._changes("/changes", since=since, limit=PAGE)
        for change in page.changes:
            if change.kind == "NewInstance":
                self._take(change.instance_id, change.sequence)
        if not page.changes:
            self._notice_a_new_database(since)
        elif page.last > since:
            with self.acceptance.database.write() as unit:
                self._move_to(page.last)(unit)
        return not page.done

    def _take(self, instance_id: str, sequence: int) -> None:
        move = self._move_to(sequence)
        sender = Sender("orthanc", f"watch:{self.name}", self.name, address=str(self.client.base_url.host)[:45])
        data: bytes | None = None
        try:
            data = self._given(instance_id, sequence)
            if data is not None:
                accepted = self.acceptance.accept(data, self.acceptance.read(data), sender, move)
                log.info("watch.accepted", audit=accepted.job_id, is_new=accepted.is_new)
        except RadiographError as error:
            self.acceptance.refuse(data or b"", sender, error, move)

    def _given(self, instance_id: str, sequence: int) -> bytes | None:
        """The film. Raises httpx.HTTPStatusError for an error of Orthanc's: the cursor stays. Raises FilmNotGiven after
        TRIES of them: what stands behind the film must not wait for ever."""
        try:
            return self._film(instance_id)
        except httpx.HTTPStatusError as error:
            tries = self.failures[sequence] = self.failures.get(sequence, 0) + 1
            if error.response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN) or tries < TRIES:
                raise
            del self.failures[sequence]
            raise FilmNotGiven(f"Orthanc answers {error.response.status_code} for a film that it lists") from None

    def _film(self, instance_id: str) -> bytes | None:
        """None for what is no film, our own results among it, and for what has been deleted meanwhile."""
        kind = self.client.get(f"/instances/{instance_id}/metadata/SopClassUid")
        if kind.status_code == httpx.codes.NOT_FOUND:
            log.warning("watch.instance_gone")
            return None
        if kind.raise_for_status().text.strip() not in FILM_CLASSES:
            return None
        return self._bytes(f"/instances/{instance_id}/file")

    def _bytes(self, path: str) -> bytes | None:
        chunks: list[bytes] = []
        count = 0
        with self.client.stream("GET", path) as response:
            if response.status_code == httpx.codes.NOT_FOUND:
                log.warning("watch.instance_gone")
                return None
            response.raise_for_status()
            for chunk in response.iter_bytes():
                count += len(chunk)
                if count > self.acceptance.limits.max_bytes:
                    raise TooManyBytes(f"more than {self.acceptance.limits.max_bytes} bytes")
                chunks.append(chunk)
        return b"".join(chunks)

    def _move_to(self, position: int) -> Also:
        def move(unit: Unit) -> None:
            pacs_queries.move_cursor(unit.session, self.cursor, position, utc_now())

        return move

    def _notice_a_new_database(self, since: int) -> None:
        """An Orthanc that was set up anew counts from the start again; taking everything twice does no harm."""
        last = self._changes("/changes?last").last
        if last < since:
            log.warning("watch.started_over", was=since, last=last)
            with self.acceptance.database.write() as unit:
                self._move_to(0)(unit)

    def _changes(self, path: str, **parameters: int) -> Changes:
        """Raises SourceNotUnderstood: a proxy before Orthanc may answer with a page of its own."""
        answer = self.client.get(path, params=parameters or None).raise_for_status()
        try:
            found = answer.json()
            changes = [Change(str(c["ChangeType"]), str(c["ID"]), int(c["Seq"])) for c in found["Changes"]]
            return Changes(tuple(changes), int(found["Last"]), bool(found["Done"]))
        except (ValueError, TypeError, KeyError, RecursionError):
            raise SourceNotUnderstood("the answer is not a list of Orthanc's changes") from None
