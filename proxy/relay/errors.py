"""The error of a request to another node. It never reaches a client: another node or the origin is asked instead."""

from __future__ import annotations


class PeerFailed(Exception):
    """A failed request to another node.

    `reason`: gone (no connection, or it broke), silent, busy (it has another fill), refused (it does not know us),
    foreign (it is not a member), wrong (its answer can't be right), missing (it does not have what was requested),
    unavailable (its own origin failed).
    """

    def __init__(self, node_id: str, reason: str, message: str) -> None:
        super().__init__(f"{node_id[:8]}: {message}")
        self.node_id = node_id
        self.reason = reason

    @property
    def faulty(self) -> bool:
        """Whether the node should be avoided for a while."""
        return self.reason in ("gone", "silent", "refused", "foreign", "wrong")
