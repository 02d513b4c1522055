"""Reads that are answered at once: known key, fresh record, blocks here and checked. Never waits.

How it works. A surface prepares a read once, and then `peek`s as often as it is asked, with whatever range. What does
not depend on the moment stays prepared: the route, the key, what is remembered of it, what the conditions mean for that
record, and a weak reference to the segment looked at last. Each `peek` looks at the moment: the key's token, the
record's age, the blocks' words, the segment's file. It gives the very answer that `Gateway.read` would give, or None,
which only ever means "ask it".
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import NamedTuple

from proxy.blocks import Piece
from proxy.cache.segment import Segment
from proxy.cache.store import Store
from proxy.errors import RangeNotSatisfiable, WarmstartError
from proxy.fill.coverage import PEEK_BLOCKS_MAX
from proxy.gateway.answers import CacheStatus, ReadAnswer, ReadObject
from proxy.gateway.decide import judge
from proxy.gateway.record_cache import CachedRecord
from proxy.gateway.routes import BucketRoute, Consistency
from proxy.gateway.verify import ObjectVerifier
from proxy.gateway.versions import Versions
from proxy.objects import ObjectKey, ObjectRecord
from proxy.ranges import ByteRange, parse_range, parse_span


def _no_segment() -> Segment | None:
    return None


class Peeked(NamedTuple):
    """Bytes [start, end) of the object; `partial`: it is a range's. `pieces` are none where no body is sent."""

    record: ObjectRecord
    start: int
    end: int
    partial: bool
    not_modified: bool
    pieces: Sequence[Piece]

    def answer(self) -> ReadAnswer:
        """The same as the application's answer."""
        span = ByteRange(self.start, self.end) if self.partial else None
        return ReadAnswer(self.record, CacheStatus.HIT, span, None, self.not_modified)


class HotRead:
    """One read; its own range, if it has one, does not count."""

    __slots__ = (
        "_bytes_max",
        "_cached",
        "_immutable",
        "_key",
        "_not_modified",
        "_number",
        "_ranged",
        "_record",
        "_request",
        "_route",
        "_segment",
        "_segment_bytes",
        "_sends",
        "_size_bytes",
        "_store",
        "_token",
        "_verifier",
        "_versions",
    )

    def __init__(
        self,
        request: ReadObject,
        route: BucketRoute,
        key: ObjectKey,
        versions: Versions,
        store: Store,
        verifier: ObjectVerifier,
    ) -> None:
        assert not request.revalidate
        assert request.part_number is None
        self._request = request
        self._route = route
        self._key = key
        self._versions = versions
        self._store = store
        self._verifier = verifier
        self._bytes_max = PEEK_BLOCKS_MAX * store.block_bytes
        self._segment_bytes = store.segment_blocks * store.block_bytes
        self._immutable = route.consistency is Consistency.IMMUTABLE
        self._token: Callable[[], int] = versions.watch(key)
        self._cached: CachedRecord | None = None
        # What the conditions mean for `_record`
        self._record: ObjectRecord | None = None
        self._size_bytes = 0
        self._not_modified = False
        self._ranged = False  # a range counts
        self._sends = False
        # The segment looked at last
        self._number = -1
        self._segment: Callable[[], Segment | None] = _no_segment

    def peek(self, wanted: bytes | None) -> Peeked | None:
        """`wanted` is the Range header. Costs a few loads and compares, and one lseek per segment."""
        known = self._cached
        if known is None or known.superseded or known.token != self._token():
            known = self._recall()
            if known is None:
                return None
        if not self._immutable and not self._route.fresh(known.checked_at_s, self._versions.clock()):
            return None
        record = self._record
        assert record is not None
        start, end, partial = 0, self._size_bytes, False
        if wanted is not None and self._ranged:
            span = parse_span(wanted, end)
            if span is not None:
                (start, end), partial = span, True
            elif (other := parse_range(wanted.decode("latin-1"))) is not None:  # None: it does not count
                try:
                    start, end = other.resolve(end).start, other.resolve(end).end
                except RangeNotSatisfiable:
                    return None  # the object may have grown
                partial = True
        if start == end:
            return Peeked(record, 0, 0, False, self._not_modified, ())
        if end - start > self._bytes_max:
            return None
        pieces = self._find(record, start, end)
        if pieces is None:
            return None
        if not self._sends:
            return Peeked(record, start, end, partial, self._not_modified, ())
        verifier = self._verifier
        if (verifier.troubled and verifier.hopeless(record)) or (
            end == self._size_bytes and verifier.checkable(record)
        ):
            return None  # uncached; or the last bytes wait for the object's checksum
        return Peeked(record, start, end, partial, False, pieces)

    def _find(self, record: ObjectRecord, start: int, end: int) -> Sequence[Piece] | None:
        segment_bytes = self._segment_bytes
        number = start // segment_bytes
        base = number * segment_bytes
        if end > base + segment_bytes:
            return self._store.peek(record.version, ByteRange(start, end))
        segment = self._segment() if number == self._number else None
        piece = None
        if segment is not None:
            piece = segment.peek_piece(start - base, end - base)
        if piece is None:  # another segment, or a newer one in its place
            segment = self._store.peek_segment(record.version, number)
            if segment is None:
                return None
            self._number, self._segment = number, weakref.ref(segment)
            piece = segment.peek_piece(start - base, end - base)
        return None if piece is None else (piece,)

    def _recall(self) -> CachedRecord | None:
        """None: nothing is known of the key, or a verdict that a record out of date may have got wrong."""
        known = self._versions.recall(self._key)
        if known is None or not known.record.cacheable:
            return None
        if not known.record.sums_known and self._request.needs_sums:
            return None
        record, conditions = known.record, self._request.conditions
        if record is not self._record:
            try:
                modified = judge(conditions, record)
            except WarmstartError:
                return None
            self._record = record
            self._size_bytes = record.size_bytes
            self._not_modified = not modified
            self._ranged = modified and conditions.range_applies(record.etag, record.last_modified_s)
            self._sends = modified and not self._request.head_only
            self._number, self._segment = -1, _no_segment
        self._cached = known
        return known
