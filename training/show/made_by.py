"""What a figure says of itself where it is not of today's score, or not of today's detector."""

from collections.abc import Mapping
from typing import Any

from service.audit.pipeline import SCORES_VERSION
from training.measure.detectors import FAMILIES

BEFORE = "made before scores had versions"


def outdated(result: Mapping[str, Any]) -> str:
    """Words for a result that other scores or detectors made; none for today's."""
    version = result.get("scores_version")
    if version != SCORES_VERSION:
        return BEFORE if version is None else f"made by scores version {version}"
    others = [
        f"{family} made by its version {made}"
        for family, made in result.get("detectors_version", {}).items()
        if family not in FAMILIES or made != FAMILIES[family].version
    ]
    return ", ".join(others)


def named(name: str, *results: Mapping[str, Any]) -> str:
    """A name for tables; in brackets what is outdated about the results that its row is made from."""
    words = dict.fromkeys(words for result in results if (words := outdated(result)))
    return f"{name} ({'; '.join(words)})" if words else name
