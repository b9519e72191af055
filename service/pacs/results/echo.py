"""Does a destination answer? C-ECHO (PS3.4 annex A) to a DICOM peer, a GET to a DICOMweb server or a webhook."""

import time
from dataclasses import dataclass

from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made when it is imported

from service.pacs.results.destinations import SUCCESS, DeliveryFailed, associated, http_client
from service.pacs.rules import Destination

TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Echo:
    """Whether it answered as it should, in words, and after how long."""

    destination: str
    answered: bool
    words: str
    milliseconds: float


def echo(destination: Destination, ae_title: str) -> Echo:
    """Ends within a few timeouts, whatever the other end does."""
    started = time.perf_counter()
    try:
        answered, words = _get(destination) if _address(destination) else _c_echo(destination, ae_title)
    except DeliveryFailed as error:
        answered, words = False, error.detail
    return Echo(destination.name, answered, words, 1000 * (time.perf_counter() - started))


def place(destination: Destination) -> str:
    """Where the destination is, in words."""
    return _address(destination) or f"{destination.ae_title} at {destination.host}, port {destination.port}"


def _address(destination: Destination) -> str | None:
    return destination.stow_url or destination.webhook_url


def _get(destination: Destination) -> tuple[bool, str]:
    """A search for one study, whose answer may name a patient and is not read; a webhook need not know GET."""
    with http_client(destination, TIMEOUT_SECONDS) as client:
        parameters = {"limit": "1"} if destination.stow_url else None
        headers = {"Accept": "application/dicom+json"}
        with client.stream("GET", _address(destination) or "", params=parameters, headers=headers) as answer:
            answered = answer.is_success if destination.stow_url else not answer.is_server_error
            return answered, f"answered {answer.status_code}"


def _c_echo(destination: Destination, ae_title: str) -> tuple[bool, str]:
    with associated(destination, ae_title, Verification, timeout_seconds=TIMEOUT_SECONDS) as association:
        status = association.send_c_echo().get("Status")
    return status == SUCCESS, "answered C-ECHO" if status == SUCCESS else "did not answer C-ECHO with success"
