"""Who may associate: calling AE titles, each with the addresses that it may call from."""

import ipaddress
from dataclasses import dataclass
from fnmatch import fnmatchcase

from service.errors import TriggerscopeError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class PeersError(TriggerscopeError):
    """The list of DICOM peers cannot be read."""

    code = "unusable_peers"


@dataclass(frozen=True, slots=True)
class Peer:
    ae_title: str  # a shell pattern
    network: Network


def parse_peers(text: str) -> tuple[Peer, ...]:
    """`AE@ADDRESS`, separated by commas; AE may be a pattern, ADDRESS a network."""
    return tuple(_peer(part.strip()) for part in text.split(",") if part.strip())


def may_connect(peers: tuple[Peer, ...], address: str) -> bool:
    return any(_inside(peer, address) for peer in peers)


def may_associate(peers: tuple[Peer, ...], ae_title: str, address: str) -> bool:
    return any(_inside(peer, address) and fnmatchcase(ae_title, peer.ae_title) for peer in peers)


def _peer(part: str) -> Peer:
    ae_title, _, address = part.partition("@")
    try:
        return Peer(ae_title, ipaddress.ip_network(address, strict=False))
    except ValueError:
        raise PeersError("write DICOM peers as AE@ADDRESS, for example PACS@10.1.2.3 or *@10.1.0.0/16") from None


def _inside(peer: Peer, address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped:
        found = found.ipv4_mapped
    return found in peer.network
