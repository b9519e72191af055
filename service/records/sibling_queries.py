"""Statements that find the same film in other bytes: by its SOP instance, its pixels, or near model inputs."""

from collections.abc import Collection, Sequence

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from service.records.queries import insert_unless_present
from service.records.tables import (
    NOT_DECODED,
    AuditRow,
    FilmRow,
    FingerprintKeyRow,
    InstanceRow,
    ReviewRow,
)

UNTROUBLED = ("unflagged", "dismissed")


def other_files(session: Session, films: Collection[str]) -> set[str]:
    """Films of the same SOP instance as one of these, or with the same pixels."""
    instances = select(InstanceRow.sop_hmac).where(InstanceRow.film_sha256.in_(films))
    pixels = select(FilmRow.pixels_sha256).where(FilmRow.sha256.in_(films), FilmRow.pixels_sha256 != NOT_DECODED)
    same = or_(InstanceRow.sop_hmac.in_(instances), FilmRow.pixels_sha256.in_(pixels))
    statement = select(FilmRow.sha256).outerjoin(InstanceRow, InstanceRow.film_sha256 == FilmRow.sha256).where(same)
    return set(session.scalars(statement)) - set(films)


def keep_fingerprint_keys(session: Session, audit_id: str, keys: Sequence[int]) -> None:
    for key in keys:
        insert_unless_present(session, FingerprintKeyRow(key=key, audit_id=audit_id))


def flagged_fingerprints(session: Session, keys: Sequence[int]) -> Sequence[tuple[str, str]]:
    """Film and fingerprint of the audits that are on the desk or confirmed and are kept under one of these keys."""
    statement = (
        select(AuditRow.film_sha256, AuditRow.fingerprint)
        .join(FingerprintKeyRow, FingerprintKeyRow.audit_id == AuditRow.id)
        .join(ReviewRow, ReviewRow.id == AuditRow.id)
        .where(FingerprintKeyRow.key.in_(keys), ReviewRow.state.not_in(UNTROUBLED))
        .distinct()
    )
    return [(film, fingerprint) for film, fingerprint in session.execute(statement) if fingerprint is not None]
