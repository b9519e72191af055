"""The watcher of any archive with DICOMweb: QIDO-RS says what there is, WADO-RS brings it (PS3.18 10.4, 10.6)."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

import httpx
import structlog

from service.errors import RadiographError, TooManyBytes
from service.pacs.acceptance import Acceptance, Also
from service.pacs.identity import Sender
from service.pacs.instance import FILM_CLASSES, UidMismatch
from service.pacs.multipart import MalformedMultipart, PartReader
from service.pacs.sources import DicomwebSource, SourceNotUnderstood
from service.records import pacs_queries
from service.records.session import Unit, utc_now

PAGE = 100
MOST_MATCHES = 100_000  # of one search; more is an archive that never ends its list
LARGEST_LIST_BYTES = 32 * 1024 * 1024
ENVELOPE_BYTES = 64 * 1024  # boundaries and headers of a multipart body
JSON = "application/dicom+json"
FILM = 'multipart/related; type="application/dicom"; transfer-syntax=*'  # as it is stored, not transcoded
SOP_CLASS, SOP_INSTANCE, STUDY, SERIES = "00080016", "00080018", "0020000D", "0020000E"
STUDY_DATE, INSTANCES_OF_STUDY = "00080020", "00201208"
UID = re.compile(r"[0-9.]{1,64}")
Item = dict[str, Any]
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class DicomwebWatcher:
    """client: has the archive's address and credentials.

    settled: studies of the last pass whose films are all dealt with, with the number of their instances then.
    """

    source: DicomwebSource
    client: httpx.Client
    acceptance: Acceptance
    settled: dict[tuple[str, str], int] = field(default_factory=dict)

    def poll(self) -> bool:
        """One pass over the watched days. False: there is never more at once.

        Raises SourceNotUnderstood after a pass that could not bring everything: what it left is asked for again,
        and the watched days begin where they did.
        """
        today = utc_now().date()
        first = self._first_day(today)
        days = f"{first:%Y%m%d}-{today + timedelta(days=1):%Y%m%d}"  # an archive may be ahead of UTC
        settled: dict[tuple[str, str], int] = {}
        failures = 0
        for modality in self.source.modalities:
            asked = {"ModalitiesInStudy": modality, "StudyDate": days, "includefield": INSTANCES_OF_STUDY}
            for study, item in self._search("/studies", STUDY, **asked):
                key, count = (study, modality), _value(item, INSTANCES_OF_STUDY)
                failed = 0 if count and self.settled.get(key) == count else self._take_study(study, item, modality)
                failures += failed
                if isinstance(count, int) and not failed:
                    settled[key] = count
        self.settled.clear()
        self.settled.update(settled)
        if failures:
            raise SourceNotUnderstood(f"{failures} films or studies could not be fetched")
        self._complete(today)
        return False

    def _first_day(self, today: date) -> date:
        with self.acceptance.database.read() as session:
            position = pacs_queries.cursor(session, self._cursor)
        last = date.fromordinal(position) if position else today
        return min(last, today) - timedelta(days=self.source.overlap_days)

    def _complete(self, today: date) -> None:
        with self.acceptance.database.write() as unit:
            pacs_queries.move_cursor(unit.session, self._cursor, today.toordinal(), utc_now())
            next_first = today - timedelta(days=self.source.overlap_days)
            pacs_queries.forget_seen(unit.session, self.source.name, next_first.toordinal())

    @property
    def _cursor(self) -> str:
        return f"dicomweb/{self.source.name}"

    def _take_study(self, study: str, item: Item, modality: str) -> int:
        """How many of its films, or of its lists, could not be fetched."""
        day, failures = _day(item), 0
        try:
            for series, _ in self._search(f"/studies/{study}/series", SERIES, Modality=modality):
                folder = f"/studies/{study}/series/{series}/instances"
                for instance, found in self._search(folder, SOP_INSTANCE):
                    if _value(found, SOP_CLASS) in (None, *FILM_CLASSES):  # our own results are of other classes
                        failures += not self._take(f"{folder}/{instance}", instance, day)
        except (httpx.HTTPStatusError, httpx.ReadTimeout, SourceNotUnderstood) as error:
            log.warning("watch.study_failed", source=self.source.name, error=type(error).__name__)
            failures += 1
        return failures

    def _take(self, path: str, sop_instance_uid: str, day: int) -> bool:
        """False where the film could not be fetched this time."""
        seen = self.acceptance.pseudonyms.of(sop_instance_uid)
        with self.acceptance.database.read() as session:
            if pacs_queries.is_seen(session, self.source.name, seen):
                return True
        mark = self._mark(seen, day)
        sender = Sender(
            "dicomweb",
            f"watch:{self.source.name}",
            self.source.name,
            address=str(self.client.base_url.host)[:45],
        )
        data = b""
        try:
            data = self._retrieve(path)
            instance = self.acceptance.read(data)
            if instance.sop_instance_uid != sop_instance_uid:
                raise UidMismatch("the archive sent another film than the one that was asked for")
            accepted = self.acceptance.accept(data, instance, sender, mark)
            log.info("watch.accepted", audit=accepted.job_id, is_new=accepted.is_new)
        except RadiographError as error:
            self.acceptance.refuse(data, sender, error, mark)
        except (httpx.HTTPStatusError, httpx.ReadTimeout, SourceNotUnderstood) as error:
            log.warning("watch.film_failed", source=self.source.name, error=type(error).__name__)
            return False
        return True

    def _mark(self, seen: str, day: int) -> Also:
        def mark(unit: Unit) -> None:
            pacs_queries.mark_seen(unit.session, self.source.name, seen, day)

        return mark

    def _search(self, path: str, tag: str, **parameters: str) -> Iterator[tuple[str, Item]]:
        """Each match once, with its UID. Ends with a page that brings nothing new: archives cut pages as they like."""
        known: set[str] = set()
        offset = 0
        while True:
            page = self._list(path, {**parameters, "limit": str(PAGE), "offset": str(offset)})
            fresh = {uid: item for uid, item in ((_uid(item, tag), item) for item in page) if uid not in known}
            if not fresh:
                return
            known.update(fresh)
            if len(known) > MOST_MATCHES:
                raise SourceNotUnderstood(f"a search with more than {MOST_MATCHES} matches")
            offset += len(page)
            yield from fresh.items()

    def _list(self, path: str, parameters: dict[str, str]) -> list[Item]:
        body = b""
        with self._get(path, JSON, parameters) as response:
            for piece in response.iter_raw():
                body += piece
                if len(body) > LARGEST_LIST_BYTES:
                    raise SourceNotUnderstood(f"a list of more than {LARGEST_LIST_BYTES} bytes")
        if response.status_code == httpx.codes.NO_CONTENT:
            return []
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            raise SourceNotUnderstood("a list that is not JSON") from None
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            raise SourceNotUnderstood("a list that is not one of DICOM objects")
        return found

    def _retrieve(self, path: str) -> bytes:
        """One film's bytes, no more of them than is allowed. Raises TooManyBytes, SourceNotUnderstood, HTTPError."""
        max_bytes = self.acceptance.limits.max_bytes
        count = 0
        with self._get(path, FILM, {}) as response:
            try:
                reader = PartReader(response.headers.get("content-type", ""), max_bytes)
                for piece in response.iter_raw():
                    count += len(piece)
                    if count > max_bytes + ENVELOPE_BYTES:
                        raise TooManyBytes(f"more than {max_bytes} bytes")
                    reader.feed(piece)
            except MalformedMultipart as error:
                raise SourceNotUnderstood(str(error)) from None
        if not reader.ended or len(reader.finished) != 1:
            raise SourceNotUnderstood("not exactly one film")
        [part] = reader.finished
        if isinstance(part, TooManyBytes):
            raise part
        return part

    @contextmanager
    def _get(self, path: str, accept: str, parameters: dict[str, str]) -> Iterator[httpx.Response]:
        """Below our own address only: where an answer says that things lie is never followed.

        Compressed bodies are not asked for and not taken: their size is only known once they are unpacked.
        """
        headers = {"Accept": accept, "Accept-Encoding": "identity"}
        with self.client.stream("GET", path, params=parameters, headers=headers) as response:
            response.raise_for_status()
            if response.headers.get("content-encoding", "identity") != "identity":
                raise SourceNotUnderstood("a compressed answer")
            yield response


def _value(item: Item, tag: str) -> object:
    """The first value of an attribute in the DICOM JSON model; None where there is none."""
    attribute = item.get(tag)
    values = attribute.get("Value") if isinstance(attribute, dict) else None
    return values[0] if isinstance(values, list) and values else None


def _uid(item: Item, tag: str) -> str:
    value = _value(item, tag)
    if not isinstance(value, str) or not UID.fullmatch(value):
        raise SourceNotUnderstood("a match without its UID")
    return value


def _day(item: Item) -> int:
    """The ordinal of the study's date; of today where it is missing or no date."""
    try:
        return datetime.strptime(str(_value(item, STUDY_DATE)), "%Y%m%d").date().toordinal()  # noqa: DTZ007  # a date
    except ValueError:
        return utc_now().date().toordinal()
