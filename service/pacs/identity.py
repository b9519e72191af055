"""Identifiers: raw UIDs live as long as the original does; what is kept are their keyed hashes."""

import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from service.errors import TriggerscopeError
from service.pacs.instance import Instance
from service.records import pacs_queries, queries
from service.records.session import Database, Unit
from service.records.storage import Storage, write_durably
from service.records.tables import IdentityRow, InstanceRow

KEY_BYTES = 32
# What stands in the address of the site's own viewer for each UID of a film, and the UID's name.
VIEWER_FIELDS = {
    "study": "study_instance_uid",
    "series": "series_instance_uid",
    "instance": "sop_instance_uid",
}


class UnknownStudy(TriggerscopeError):
    """No film of this study was received."""

    code = "unknown_study"


@dataclass(frozen=True, slots=True)
class Sender:
    """How a film came in. `source` is what lists of audits are filtered by."""

    channel: str
    actor: str
    source: str
    calling_ae: str = ""
    called_ae: str = ""
    address: str = ""
    certificate_sha256: str = ""


class Pseudonyms:
    """HMAC-SHA256 of UIDs under the site's own key: a plain hash of an identifier can be guessed."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def of(self, uid: str) -> str:
        return hmac.new(self._key, uid.encode(), hashlib.sha256).hexdigest()


def open_pseudonyms(path: Path) -> Pseudonyms:
    """The key at `path`, made when there is none; processes that start together agree on one."""
    if not path.exists():
        candidate = path.with_name(f"{path.name}-{secrets.token_hex(4)}")
        write_durably(candidate, secrets.token_bytes(KEY_BYTES))
        with suppress(FileExistsError):
            os.link(candidate, path)
        candidate.unlink()
    return Pseudonyms(path.read_bytes())


def keep_instance(unit: Unit, pseudonyms: Pseudonyms, film_sha256: str, instance: Instance, sender: Sender) -> None:
    """The keyed hashes of a film's UIDs, which stay."""
    row = InstanceRow(
        film_sha256=film_sha256,
        sop_class_uid=instance.sop_class_uid,
        study_hmac=pseudonyms.of(instance.study_instance_uid),
        series_hmac=pseudonyms.of(instance.series_instance_uid),
        sop_hmac=pseudonyms.of(instance.sop_instance_uid),
        calling_ae=sender.calling_ae,
        called_ae=sender.called_ae,
        address=sender.address,
        certificate_sha256=sender.certificate_sha256,
        received_at=_received_at(unit, film_sha256),
    )
    queries.insert_unless_present(unit.session, row)


def keep_identity(
    unit: Unit, pseudonyms: Pseudonyms, film_sha256: str, instance: Instance, sender: Sender, until: datetime
) -> None:
    """The instance's row, which stays, and its raw UIDs, which expire with the original."""
    keep_instance(unit, pseudonyms, film_sha256, instance, sender)
    raw = IdentityRow(
        film_sha256=film_sha256,
        study_instance_uid=instance.study_instance_uid,
        series_instance_uid=instance.series_instance_uid,
        sop_instance_uid=instance.sop_instance_uid,
        expires_at=until,
    )
    pacs_queries.keep_identity(unit.session, raw)


def forget(database: Database, storage: Storage, pseudonyms: Pseudonyms, study_uid: str, actor: str) -> int:
    """Remove originals and identities of a study, and cancel what was still to be sent; audits and log stay."""
    study_hmac = pseudonyms.of(study_uid)
    with database.write() as unit:
        films = pacs_queries.films_of_study(unit.session, study_hmac)
        if not films:
            raise UnknownStudy("no film of this study was received")
        hashes = [film.sha256 for film in films]
        pacs_queries.forget_identities(unit.session, hashes)
        pacs_queries.cancel_deliveries(unit.session, hashes)
        for film in films:
            storage.remove_original(film.sha256)
            film.original_expires_at = None
        unit.record("study.forgotten", study_hmac, actor, films=len(films))
    return len(hashes)


def _received_at(unit: Unit, film_sha256: str) -> datetime:
    film = queries.film(unit.session, film_sha256)
    if film is None:
        raise LookupError("the film is kept before its identity")
    return film.received_at
