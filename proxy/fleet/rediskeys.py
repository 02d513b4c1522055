"""The name of every key and channel in Redis, rendered here and nowhere else. docs/fleet.md lists them all.

Every name begins with `cluster.prefix`, so that two fleets can share one Redis, and an ACL of one pattern covers a
fleet. Names that differ between protocols carry the protocol's number.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxy.fleet.signing import PROTOCOL


@dataclass(frozen=True, slots=True)
class RedisKeys:
    """The names of one fleet."""

    prefix: str

    def members(self) -> str:
        """Sorted set: the id of each node, by the time of its last heartbeat in milliseconds."""
        return f"{self.prefix}:members"

    def member(self, node: str) -> str:
        """String: what a node says of itself with each heartbeat, sealed."""
        return f"{self.prefix}:member:{node}"

    def news(self) -> str:
        """Channel: writes, and the beats between them, sealed."""
        return f"{self.prefix}:news"

    def news_stamp(self) -> str:
        """String: the stamp of the last write."""
        return f"{self.prefix}:news:stamp"

    def news_listening(self) -> str:
        """Sorted set: the nodes that listen for writes, by the time of their last beat in microseconds."""
        return f"{self.prefix}:news:listening"

    def news_since(self) -> str:
        """Hash: since when this Redis knows all who listen, by the run of its server."""
        return f"{self.prefix}:news:since"

    def waiting(self, write: str) -> str:
        """Set: the nodes that have not yet acknowledged a write."""
        return f"{self.prefix}:waiting:{write}"

    def told(self, writer: str) -> str:
        """Channel: tells a writer which of its writes every node has acknowledged."""
        return f"{self.prefix}:told:{writer}"

    def lease(self, digest: str, block: int | str) -> str:
        """String: which node fills a block from the origin; `digest` is the object version's, in hexadecimal."""
        return f"{self.prefix}:lease-{PROTOCOL}:{digest}:{block}"

    def limits_reports(self, origin: str) -> str:
        """Hash: what each node reports about an origin, by the node, sealed."""
        return f"{self.prefix}:limits:{origin}:reports"

    def limits_plan(self, origin: str) -> str:
        """String: the plan that follows from the reports, sealed."""
        return f"{self.prefix}:limits:{origin}:plan"

    def limits_planner(self, origin: str) -> str:
        """String: the node that makes the plan."""
        return f"{self.prefix}:limits:{origin}:planner"
