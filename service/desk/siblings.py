"""The same film in other bytes: what one file was flagged for holds the others too."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from service.audit.likeness import SAME_FILM, fingerprint_distance, index_keys, near_keys
from service.records import queries, sibling_queries
from service.records.tables import JobRow


def other_jobs(session: Session, jobs: Sequence[JobRow], classifier: str | None) -> Sequence[JobRow]:
    """Audits (of the classifier named, or of any) of other files of these jobs' films that may have been flagged.

    A file is another of the same film when it has the same SOP Instance UID, the same decoded pixels, or a model input
    whose fingerprint is near. By the last only audits that are on the desk or confirmed are found. Latest last.
    """
    films = {job.film_sha256 for job in jobs}
    others = sibling_queries.other_files(session, films)
    for fingerprint in {job.audit.fingerprint for job in jobs if job.audit and job.audit.fingerprint}:
        others |= _near(session, fingerprint)
    return queries.jobs_of_films(session, sorted(others - films), classifier)


def keep_keys(session: Session, audit_id: str) -> None:
    """Have an audit found by its fingerprint, from when somebody has to look at it: so the index stays small."""
    audit = queries.audit(session, audit_id)
    if audit is not None and audit.fingerprint:
        sibling_queries.keep_fingerprint_keys(session, audit_id, index_keys(audit.fingerprint))


def _near(session: Session, fingerprint: str) -> set[str]:
    found = sibling_queries.flagged_fingerprints(session, near_keys(fingerprint))
    return {film for film, other in found if fingerprint_distance(fingerprint, other) <= SAME_FILM}
