"""Verdicts as signed JSON, after the Standard Webhooks specification: HMAC-SHA256 over id, time and body.

The body names the audit and never the patient: no UID, no attribute of the film.
"""

import base64
import binascii
import hashlib
import hmac
import json
import time
from typing import Any

from service.db.tables import AuditRow, JobRow
from service.pacs.destinations import DeliveryFailed, http_client
from service.rules import Destination

PREFIX = "whsec_"
LEAST_SECRET_BYTES = 24


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
            "reasons": audit.reasons,
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


def signed_headers(secret: bytes, webhook_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    signature = base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()
    return {
        "Content-Type": "application/json",
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{signature}",
    }


def _secret(destination: Destination) -> bytes:
    try:
        text = destination.secret_file.read_text().strip() if destination.secret_file else ""
        secret = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (OSError, binascii.Error, UnicodeDecodeError):
        raise DeliveryFailed("the webhook's secret cannot be read") from None
    if len(secret) < LEAST_SECRET_BYTES:
        raise DeliveryFailed(f"the webhook's secret has fewer than {LEAST_SECRET_BYTES} bytes")
    return secret
