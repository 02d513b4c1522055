"""What another node could not do for us. It never reaches a client: somebody else is asked."""

from __future__ import annotations


class PeerFailed(Exception):
    """`reason`: gone (no connection, or it broke), silent, busy (it has another fill), refused (it does not know us),
    foreign (it is no member), wrong (its answer can't be right), missing (what was asked for is not there), unavailable
    (its own origin failed it).
    """

    def __init__(self, node_id: str, reason: str, message: str) -> None:
        super().__init__(f"{node_id[:8]}: {message}")
        self.node_id = node_id
        self.reason = reason

    @property
    def faulty(self) -> bool:
        """Whether the node had better be left alone for a while."""
        return self.reason in ("gone", "silent", "refused", "foreign", "wrong")
