"""Sending one object: by STOW-RS or by C-STORE."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE
from pynetdicom.association import Association

from service.errors import TriggerscopeError
from service.pacs.results.report import file_bytes
from service.pacs.rules import Destination

TIMEOUT_SECONDS = 30.0
SUCCESS, WARNINGS = 0x0000, range(0xB000, 0xC000)


class DeliveryFailed(TriggerscopeError):
    """The destination did not take the result: it cannot be reached, or it refused."""

    code = "delivery_failed"


def send(destination: Destination, result: Dataset, ae_title: str) -> None:
    """Returns once the destination has confirmed the object. Raises DeliveryFailed."""
    if destination.stow_url is not None:
        _stow(destination, destination.stow_url, result)
    else:
        _c_store(destination, result, ae_title)


@contextmanager
def http_client(destination: Destination, timeout_seconds: float = TIMEOUT_SECONDS) -> Iterator[httpx.Client]:
    """With the destination's credentials; turns its faults into DeliveryFailed."""
    try:
        with httpx.Client(auth=_credentials(destination), timeout=timeout_seconds, trust_env=False) as client:
            yield client
    except (httpx.HTTPError, httpx.InvalidURL, OSError):
        raise DeliveryFailed("the destination cannot be reached") from None


@contextmanager
def associated(
    destination: Destination, ae_title: str, sop_class: UID, *syntaxes: UID, timeout_seconds: float = TIMEOUT_SECONDS
) -> Iterator[Association]:
    """An association for one SOP class. Raises DeliveryFailed where the destination grants none."""
    application = AE(ae_title)
    application.acse_timeout = application.dimse_timeout = application.network_timeout = timeout_seconds
    application.connection_timeout = timeout_seconds
    application.add_requested_context(sop_class, list(syntaxes) or None)
    association = application.associate(destination.host, destination.port, ae_title=destination.ae_title or "")
    try:
        if not association.is_established:
            raise DeliveryFailed("the destination does not associate")
        yield association
    except ValueError:
        raise DeliveryFailed("the destination does not take this kind of object") from None
    except RuntimeError:  # what pynetdicom raises once the other end has hung up
        raise DeliveryFailed("the destination ended the association") from None
    finally:
        association.release()
        close(association)


def close(association: Association) -> None:
    """pynetdicom leaves the socket open where the other end was quicker to hang up."""
    connection = association.dul.socket.socket if association.dul.socket else None
    if connection is not None:
        connection.close()


def _stow(destination: Destination, url: str, result: Dataset) -> None:
    boundary = secrets.token_hex(16)
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    body = head + file_bytes(result) + f"\r\n--{boundary}--\r\n".encode()
    headers = {
        "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
        "Accept": "application/dicom+json",
    }
    with http_client(destination) as client:
        answer = client.post(url, content=body, headers=headers)
    if answer.status_code != httpx.codes.OK:
        raise DeliveryFailed(f"the destination answered {answer.status_code}")


def _credentials(destination: Destination) -> httpx.BasicAuth | None:
    if not destination.username:
        return None
    password = destination.password_file.read_text().strip() if destination.password_file else ""
    return httpx.BasicAuth(destination.username, password)


def _c_store(destination: Destination, result: Dataset, ae_title: str) -> None:
    with associated(destination, ae_title, result.SOPClassUID, result.file_meta.TransferSyntaxUID) as association:
        status = association.send_c_store(result).get("Status")
    if status != SUCCESS and status not in WARNINGS:
        raise DeliveryFailed(
            "the destination ended the association"
            if status is None
            else f"the destination refused the object with status {status:04X}"
        )
