"""What a worker remembers of keys: the least lately used give way. Also for who keeps a memory at hand."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from proxy.objects import ObjectRecord


@dataclass(slots=True)
class CachedRecord:
    """One key's record, with the key's token of the moment before it was looked up.

    `superseded`: something newer is known by now, or nothing any more; a token alone does not tell, for asking the
    origin again and finding the same leaves it as it is.
    """

    token: int
    record: ObjectRecord
    checked_at_s: float
    down_until_s: float = 0.0
    superseded: bool = False


class RecordCache:
    """By the key's digest."""

    def __init__(self, keys_max: int) -> None:
        self._keys_max = keys_max
        self._cached: OrderedDict[bytes, CachedRecord] = OrderedDict()

    def get(self, digest: bytes) -> CachedRecord | None:
        known = self._cached.get(digest)
        if known is not None:
            self._cached.move_to_end(digest)
        return known

    def put(self, digest: bytes, known: CachedRecord) -> None:
        self.drop(digest)
        self._cached[digest] = known
        if len(self._cached) > self._keys_max:
            self._cached.popitem(last=False)[1].superseded = True  # what comes after it will not find it here

    def drop(self, digest: bytes) -> None:
        old = self._cached.pop(digest, None)
        if old is not None:
            old.superseded = True
