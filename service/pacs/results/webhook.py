"""Verdicts as signed JSON, after the Standard Webhooks specification: HMAC-SHA256 over id, time and body.

The body names the audit and never the patient: no UID, no attribute of the film.
"""

import json
import time
from pathlib import Path
from typing import Any

from service.desk import reasons
from service.pacs.results.destinations import DeliveryFailed, http_client
from service.pacs.results.webhook_signature import UnusableSecret, read_secret, signed_headers
from service.pacs.rules import Destination
from service.records.tables import AuditRow, JobRow


def payload(job: JobRow, audit: AuditRow) -> dict[str, Any]:
    return {
        "type": "audit.completed",
        "timestamp": audit.completed_at.isoformat(),
        "data": {
            "audit": audit.id,
            "address": f"/v1/audits/{audit.id}",
            "source": job.source,
            "rule": job.rule or None,
            "verdict": audit.verdict,
            "score": audit.score,
            "p_value": audit.p_value,
            "explained_label": audit.explained_label,
            "region": audit.region,
            "reasons": reasons.told(audit, job.comparisons),
            "classifier": {"name": audit.classifier_name, "sha256": audit.classifier_sha256},
            "policy_sha256": audit.policy_sha256 or None,
        },
    }


def post(destination: Destination, webhook_id: str, content: dict[str, Any]) -> None:
    """Returns once the receiver has answered 2xx. Raises DeliveryFailed."""
    body = json.dumps(content).encode()
    headers = signed_headers(_secret(destination), webhook_id, int(time.time()), body)
    with http_client(destination) as client:
        answer = client.post(destination.webhook_url or "", content=body, headers=headers)
    if not answer.is_success:
        raise DeliveryFailed(f"the receiver answered {answer.status_code}")


def _secret(destination: Destination) -> bytes:
    try:
        return read_secret(destination.secret_file or Path())
    except UnusableSecret as error:
        raise DeliveryFailed(error.detail) from None
