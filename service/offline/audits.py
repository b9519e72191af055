"""`triggerscope audit`: films on disk -> records of audits, without server and database."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from service.audit import pipeline
from service.audit.verdict import Audit
from service.errors import RadiographError
from service.films.radiograph import Limits
from service.offline.models import Models


def audit_files(files: list[Path], models: Models, limits: Limits) -> Iterator[dict[str, Any]]:
    """One record a file, in order; a file that cannot be audited gives {"source", "error"}."""
    for path in files:
        try:
            _, audit = pipeline.audit(path.read_bytes(), models.classifier, models.policy, limits)
        except RadiographError as error:
            yield {"source": str(path), "error": {"code": error.code, "detail": error.detail}}
        except OSError as error:
            yield {"source": str(path), "error": {"code": "unreadable_file", "detail": type(error).__name__}}
        else:
            yield record(str(path), audit)


def record(source: str, audit: Audit) -> dict[str, Any]:
    return {
        "source": source,
        "sha256": audit.source_sha256,
        "classifier": {"name": audit.classifier_name, "sha256": audit.classifier_sha256},
        "policy": {"name": audit.policy_name, "sha256": audit.policy_sha256} if audit.policy_name else None,
        "verdict": audit.verdict,
        "score": audit.score,
        "p_value": audit.p_value,
        "probabilities": audit.probabilities,
        "explained_label": audit.explained_label,
        "hypothesis": audit.hypothesis,
        "evidence": {name: asdict(measurement) for name, measurement in audit.evidence.items()},
        "region": asdict(audit.region) if audit.region else None,
        "reasons": list(audit.reasons),
        "timings_ms": {name: round(value, 2) for name, value in audit.timings_ms.items()},
    }


def as_line(found: dict[str, Any]) -> str:
    return json.dumps(found, allow_nan=False)


def as_text(found: dict[str, Any]) -> str:
    if "error" in found:
        return f"{'error':14} {found['source']}  {found['error']['code']}"
    region = found["region"]
    place = f"  at {region['x']},{region['y']} ({region['width']} x {region['height']} px)" if region else ""
    p_value = "" if found["p_value"] is None else f"  p = {found['p_value']:.4f}"
    lines = [f"{found['verdict']:14} {found['source']}  {found['explained_label']}{p_value}{place}"]
    return "\n".join(lines + [f"{'':14} - {reason}" for reason in found["reasons"]])
