"""Signatures of webhooks, ours and others', after Standard Webhooks: HMAC-SHA256 over id, time and body."""

import base64
import binascii
import hashlib
import hmac
from pathlib import Path

from service.errors import TriggerscopeError

PREFIX = "whsec_"
LEAST_SECRET_BYTES = 24
TOLERANCE_SECONDS = 300.0


class UnusableSecret(TriggerscopeError):
    """The file of a webhook's secret cannot be read, is not Base64 or too short."""

    code = "unusable_secret"


def read_secret(path: Path) -> bytes:
    """Base64, with or without `whsec_` before it. Raises UnusableSecret."""
    try:
        secret = base64.b64decode(path.read_text().strip().removeprefix(PREFIX), validate=True)
    except (OSError, binascii.Error, UnicodeDecodeError):
        raise UnusableSecret("the webhook's secret cannot be read") from None
    if len(secret) < LEAST_SECRET_BYTES:
        raise UnusableSecret(f"the webhook's secret has fewer than {LEAST_SECRET_BYTES} bytes")
    return secret


def signed_headers(secret: bytes, webhook_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """timestamp: seconds since 1970."""
    return {
        "Content-Type": "application/json",
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": _signature(secret, webhook_id, str(timestamp), body),
    }


def is_signed(secret: bytes, webhook_id: str, timestamp: str, body: bytes, given: str, now: float) -> bool:
    """Whether one of the signatures `given`, separated by spaces, is right, and its time near `now`."""
    if not (timestamp.isascii() and timestamp.isdecimal() and len(timestamp) <= 12):
        return False
    expected = _signature(secret, webhook_id, timestamp, body).encode()
    is_right = any(hmac.compare_digest(expected, one.encode()) for one in given.split())
    return is_right and abs(int(timestamp) - now) <= TOLERANCE_SECONDS


def _signature(secret: bytes, webhook_id: str, timestamp: str, body: bytes) -> str:
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()
