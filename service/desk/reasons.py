"""Why an audit ended as it did: composed in one place, for the record and for everybody who is told."""

from collections.abc import Sequence

from service.audit.verdict import Audit
from service.desk import comparison
from service.desk.watch_list import Hit
from service.records.tables import NO_RULE, AuditRow, ComparisonRow


def recorded(audit: Audit, hit: Hit | None, rule: str | None) -> list[str]:
    """What the record keeps: how the film came to be read so, a patch of the watch list, and the verdict's reasons.

    rule: name of the routing rule, NO_RULE where none fitted, None where nothing was routed.
    """
    unrouted = ["no routing rule fits this film"] if rule == NO_RULE else []
    return [*unrouted, *([hit.words] if hit else []), *audit.reasons]


def told(audit: AuditRow, comparisons: Sequence[ComparisonRow]) -> list[str]:
    """What API, pages, results and webhooks say alike: what a deployed classifier answered otherwise, then the record.

    The former may come in after the verdict, so that it is no part of the record.
    """
    return [*comparison.reasons(comparisons), *audit.reasons]
