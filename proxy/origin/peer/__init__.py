"""Another node of the fleet, asked for a block's bytes, for a key's record, or whom to ask."""

from proxy.origin.peer.client import PeerClient
from proxy.origin.peer.errors import PeerFailed

__all__ = ["PeerClient", "PeerFailed"]
