"""What a surface asks of the gateway and what it gets back: values only."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import Enum

from proxy.blocks import Piece
from proxy.conditions import Conditions
from proxy.objects import ObjectName, ObjectRecord
from proxy.origin import ListedObject as ListedObject
from proxy.origin import ListPage as ListPage
from proxy.origin import PartSpan as PartSpan
from proxy.ranges import ByteRange, RangeRequest


class CacheStatus(Enum):
    """What this node's disk had to give, the value of `X-Cache`."""

    HIT = "HIT"
    MISS = "MISS"
    PARTIAL = "PARTIAL"
    STALE = "STALE"
    BYPASS = "BYPASS"


@dataclass(frozen=True, slots=True)
class ReadObject:
    """GetObject or (`head_only`) HeadObject."""

    name: ObjectName
    head_only: bool = False
    range: RangeRequest | None = None
    part_number: int | None = None
    conditions: Conditions = field(default_factory=Conditions)
    revalidate: bool = False  # the client sent Cache-Control: no-cache
    wants_sums: bool = False  # the client will compare what it gets with the object's checksum, if it is told

    @property
    def needs_sums(self) -> bool:
        """Whether the answer tells the checksums of the whole object: a range's never does."""
        return self.head_only or (self.wants_sums and self.range is None and self.part_number is None)


@dataclass(slots=True)
class ReadAnswer:
    """A decided read. `span` is None for the whole object (200), else the 206's bytes.

    `body` yields what to send, in order: pieces of files, or bytes that no disk holds. It is None for head_only and
    for `not_modified`. It raises only when the body can't be finished: close the connection then. Whoever takes
    the body must `aclose()` it.
    """

    record: ObjectRecord
    cache: CacheStatus
    span: ByteRange | None = None
    part: PartSpan | None = None
    not_modified: bool = False
    body: AsyncIterator[Piece | bytes] | None = None

    @property
    def length(self) -> int:
        return self.record.size_bytes if self.span is None else self.span.length
