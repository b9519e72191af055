import pytest

from service.pacs.peers import PeersError, may_associate, may_connect, parse_peers

PEERS = parse_peers("PACS@10.1.2.3, CT*@10.2.0.0/16,*@::1")


@pytest.mark.parametrize(
    ("ae_title", "address", "allowed"),
    [
        ("PACS", "10.1.2.3", True),
        ("PACS", "::ffff:10.1.2.3", True),
        ("PACS", "10.1.2.4", False),
        ("pacs", "10.1.2.3", False),
        ("CT7", "10.2.200.1", True),
        ("PACS", "10.2.200.1", False),
        ("ANY", "::1", True),
    ],
)
def test_title_and_address_belong_together(ae_title: str, address: str, allowed: bool) -> None:
    assert may_associate(PEERS, ae_title, address) is allowed


def test_an_address_of_nobody_may_not_connect() -> None:
    assert may_connect(PEERS, "10.2.9.9")
    assert not may_connect(PEERS, "192.168.0.1")


@pytest.mark.parametrize("text", ["PACS", "PACS@nowhere", "@"])
def test_what_is_no_peer_is_refused(text: str) -> None:
    with pytest.raises(PeersError):
        parse_peers(text)
