"""The Merkle tree hash of RFC 6962, section 2.1, over leaves that arrive one by one."""

import hashlib


class Tree:
    """Holds one hash for each complete subtree, so a million leaves cost twenty hashes of memory."""

    def __init__(self) -> None:
        self._subtrees: list[tuple[int, bytes]] = []  # number of leaves, hash; each larger than the next

    def add(self, leaf: bytes) -> None:
        count, node = 1, hashlib.sha256(b"\x00" + leaf).digest()
        while self._subtrees and self._subtrees[-1][0] == count:
            node = _joined(self._subtrees.pop()[1], node)
            count *= 2
        self._subtrees.append((count, node))

    def root(self) -> str:
        """As hexadecimal digits; of no leaves, the hash of nothing."""
        if not self._subtrees:
            return hashlib.sha256().hexdigest()
        node = self._subtrees[-1][1]
        for _, left in reversed(self._subtrees[:-1]):
            node = _joined(left, node)
        return node.hex()


def _joined(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()
