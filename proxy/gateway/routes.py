"""Which origin a client's bucket stands for, and under what rules its objects are served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol

from proxy.errors import NotFound
from proxy.objects import ObjectKey, ObjectName
from proxy.origin import Origin


class Consistency(Enum):
    """How long a key's record may be used without asking the origin."""

    IMMUTABLE = "immutable"  # for ever, once known
    TTL = "ttl"  # for `ttl_s` since the origin's last word
    STRONG = "strong"  # never: each read asks


class FreshnessWindow(Protocol):
    """`proxy.fleet.freshness.Freshness`: what a node may believe of keys that other nodes write."""

    def covers(self, checked_at_s: float, now_s: float) -> bool: ...


@dataclass(frozen=True, slots=True)
class BucketRoute:
    """A bucket as clients name it. Times are seconds; `negative_ttl_s` 0 means "not found" is never kept.

    `stale_if_error_s`: how much longer than its freshness a record may be served while the origin is down.
    `freshness`: in a fleet whose nodes tell each other of writes. `replicate` False: only a block's owner keeps a copy.
    """

    name: str
    origin: Origin
    real_bucket: str
    writes_through: bool
    consistency: Consistency = Consistency.TTL
    ttl_s: float = 60.0
    stale_if_error_s: float = 0.0
    negative_ttl_s: float = 0.0
    freshness: FreshnessWindow | None = None
    replicate: bool = True

    def object_key(self, name: ObjectName) -> ObjectKey:
        return ObjectKey(self.origin.id, self.real_bucket, name.key, name.version_id)

    def fresh(self, checked_at_s: float, now_s: float) -> bool:
        """Whether a record checked then may be used now. A clock that was set back makes it due."""
        if self.consistency is Consistency.IMMUTABLE:
            return True
        if self.consistency is not Consistency.TTL or not 0 <= now_s - checked_at_s < self.ttl_s:
            return False
        return self.freshness is None or self.freshness.covers(checked_at_s, now_s)

    def absent(self, checked_at_s: float, now_s: float) -> bool:
        """Whether "not found", said then, may be said again now."""
        if not 0 <= now_s - checked_at_s < self.negative_ttl_s:
            return False
        return self.freshness is None or self.freshness.covers(checked_at_s, now_s)

    def joinable(self, begun_at_s: float, now_s: float) -> bool:
        """Whether who comes now may be answered by what the origin was asked then."""
        return (
            self.consistency is Consistency.IMMUTABLE
            or self.freshness is None
            or self.freshness.covers(begun_at_s, now_s)
        )

    def usable_on_error(self, checked_at_s: float, now_s: float) -> bool:
        lifetime_s = self.ttl_s if self.consistency is Consistency.TTL else 0.0
        return now_s - checked_at_s < lifetime_s + self.stale_if_error_s


class Routes:
    """Named buckets first, then the wildcard: the rules of all that have none, under the names that clients use."""

    def __init__(self, named: Mapping[str, BucketRoute], wildcard: BucketRoute | None = None) -> None:
        self.named = dict(named)
        self.wildcard = wildcard

    def route(self, bucket: str) -> BucketRoute:
        """Raises NotFound for a bucket that no rule covers."""
        route = self.named.get(bucket)
        if route is not None:
            return route
        if self.wildcard is None:
            raise NotFound("bucket", bucket)
        return replace(self.wildcard, name=bucket, real_bucket=bucket)

    async def list_buckets(self) -> dict[str, float]:
        """Every bucket that clients can name, with its creation time: the configured, and those of a wildcard's origin.

        A configured bucket of a cloud has no creation time here; it is said to be as old as the epoch. Raises
        NotSupported where the wildcard's origin can't tell its buckets.
        """
        created: dict[str, float] = {}
        if self.wildcard is not None:
            created.update(await self.wildcard.origin.list_buckets())
        for name, route in self.named.items():
            there = (
                dict(await route.origin.list_buckets()) if route.origin.dialect == "file" else {route.real_bucket: 0.0}
            )
            if route.real_bucket in there:
                created[name] = there[route.real_bucket]
        return created
