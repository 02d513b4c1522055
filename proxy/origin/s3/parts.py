"""Where the parts of a multipart object lie, asked by `HEAD ?partNumber=N`.

How it works. AWS answers such a HEAD with the part's Content-Range and the number of parts. An origin that tells
only the part's length is asked for the earlier parts' lengths too, up to WALK_MAX of them for one request; these never
change for an object version and are remembered. An origin that knows no parts answers with the whole object: that is
one part.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from proxy.errors import InvalidRequest, NotSupported
from proxy.hops import Headers
from proxy.objects import ObjectRecord, ObjectVersion
from proxy.origin import PartSpan
from proxy.origin.headers import first_value
from proxy.ranges import ByteRange

VERSIONS_MAX = 256
PARTS_MAX = 16_384  # remembered, of all versions together; some 200 bytes each
WALK_MAX = 200  # requests to the origin for one of a client's
CONCURRENCY_MAX = 16

_PART_COUNT_ETAG = re.compile(r'"[^"]*-(\d{1,5})"')


@dataclass(frozen=True, slots=True)
class PartAnswer:
    """What one HEAD told: the part's length, and its place and the number of parts where the origin tells them."""

    length: int
    span: ByteRange | None
    count: int | None


Ask = Callable[[ObjectVersion, int], Awaitable[PartAnswer]]


class PartSpans:
    """`ask` makes the HEAD; it raises InvalidRequest("InvalidPartNumber") where there is no such part."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._known: OrderedDict[bytes, dict[int, PartAnswer]] = OrderedDict()
        self._count = 0  # of parts in it

    async def find(self, record: ObjectRecord, number: int) -> PartSpan:
        if record.md5 is not None or record.size_bytes == 0:  # an ETag that is an MD5 is never a multipart object's
            return _only_part(record, number)
        known_count = _count_in_etag(record.etag)
        if known_count is not None and number > known_count:
            raise _no_such_part(number)
        answer = await self._part(record.version, number)
        count = answer.count or known_count
        if answer.span is not None:
            return PartSpan(number, count or 1, answer.span)
        if answer.length == record.size_bytes:
            return _only_part(record, number)
        start = await self._start(record.version, number)
        if start + answer.length > record.size_bytes or count is None:
            raise _no_such_part(number)
        return PartSpan(number, count, ByteRange(start, start + answer.length))

    async def _start(self, version: ObjectVersion, number: int) -> int:
        """Where the part begins: after all earlier ones. Raises NotSupported where too many of them are unknown."""
        known = self._known.get(version.digest, {})
        unknown = number - 1 - sum(earlier < number for earlier in known)
        if unknown > WALK_MAX:
            raise NotSupported(
                f"the origin tells only how long parts are: to find part {number}, {unknown} others would have to be"
                " asked for; read a range instead"
            )
        permits = asyncio.Semaphore(CONCURRENCY_MAX)

        async def length_of(earlier: int) -> int:
            async with permits:
                return (await self._part(version, earlier)).length

        return sum(await asyncio.gather(*(length_of(earlier) for earlier in range(1, number))))

    async def _part(self, version: ObjectVersion, number: int) -> PartAnswer:
        kept = self._known.get(version.digest, {})
        found = kept.get(number) or await self._ask(version, number)
        known = self._known.setdefault(version.digest, kept)
        self._known.move_to_end(version.digest)
        self._count += number not in known
        known[number] = found
        while len(self._known) > 1 and (self._count > PARTS_MAX or len(self._known) > VERSIONS_MAX):
            self._count -= len(self._known.popitem(last=False)[1])
        return found


def is_part_etag(version: ObjectVersion, headers: Headers) -> bool:
    """Whether an answer for a part carries the part's own ETag (moto does that, and so ignores what If-Match means).

    It is an MD5, while the object's counts as many parts as the answer does.
    """
    etag = first_value(headers, "etag") or ""
    count = first_value(headers, "x-amz-mp-parts-count")
    own_count = _count_in_etag(version.validator.removeprefix("etag "))
    return count is not None and count == str(own_count) and _count_in_etag(etag) is None


def _only_part(record: ObjectRecord, number: int) -> PartSpan:
    if number != 1:
        raise _no_such_part(number)
    return PartSpan(1, 1, ByteRange(0, record.size_bytes))


def _no_such_part(number: int) -> InvalidRequest:
    return InvalidRequest("InvalidPartNumber", f"the object has no part {number}")


def _count_in_etag(etag: str) -> int | None:
    """The number of parts that S3 writes into a multipart object's ETag."""
    found = _PART_COUNT_ETAG.fullmatch(etag)
    return int(found[1]) or None if found is not None else None
