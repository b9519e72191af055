"""Ed25519 signatures of checkpoints and evidence bundles; the key is made at first use and stays with the service."""

from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from service.errors import TriggerscopeError
from service.records.storage import write_durably

KEY_FILE = "signing-key.pem"


class UnusableKey(TriggerscopeError):
    """The file is no Ed25519 key."""

    code = "unusable_key"


@dataclass(frozen=True, slots=True)
class Signer:
    key: Ed25519PrivateKey

    @classmethod
    def open(cls, folder: Path) -> "Signer":
        path = folder / KEY_FILE
        if not path.exists():
            write_durably(path.absolute(), _private_pem(Ed25519PrivateKey.generate()))
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except ValueError:
            raise UnusableKey("the signing key cannot be read") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise UnusableKey("the signing key is not an Ed25519 key")
        return cls(key)

    def sign(self, message: bytes) -> str:
        return self.key.sign(message).hex()

    @property
    def public_pem(self) -> str:
        return (
            self.key.public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            .decode()
        )


def is_signed(message: bytes, signature: str, public_pem: str) -> bool:
    """Whether the signature is this key's over this message. Raises UnusableKey."""
    try:
        require_public_key(public_pem).verify(bytes.fromhex(signature), message)
    except (InvalidSignature, ValueError):
        return False
    return True


def require_public_key(public_pem: str) -> Ed25519PublicKey:
    """Raises UnusableKey."""
    try:
        key = serialization.load_pem_public_key(public_pem.encode())
    except ValueError:
        raise UnusableKey("the public key cannot be read") from None
    if not isinstance(key, Ed25519PublicKey):
        raise UnusableKey("the public key is not an Ed25519 key")
    return key


def _private_pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
