"""Requests to another node of the fleet: for a block's bytes, for a key's record, or for the node to read from."""

from proxy.origin.peer.client import PeerClient
from proxy.origin.peer.errors import PeerFailed

__all__ = ["PeerClient", "PeerFailed"]
