"""The spans of a multipart object's parts, from `HEAD ?partNumber=N`.

How it works. AWS answers such a HEAD with the part's Content-Range and the number of parts. An origin that returns only
the part's length is also asked for the lengths of the earlier parts, at most WALK_MAX of them for one request. They
never change for an object version, so they are cached. An origin without parts answers with the whole object: that is
one part.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from proxy.errors import InvalidRequest, NotSupported
from proxy.http.headers import Headers
from proxy.objects import ObjectRecord, ObjectVersion
from proxy.origin import PartSpan
from proxy.origin.headers import first_value
from proxy.ranges import ByteRange

VERSIONS_MAX = 256
PARTS_MAX = 16_384  # cached, for all versions together; about 200 bytes each
WALK_MAX = 200  # requests to the origin for one request of a client
CONCURRENCY_MAX = 16

_PART_COUNT_ETAG = re.compile(r'"[^"]*-(\d{1,5})"')


@dataclass(frozen=True, slots=True)
class PartAnswer:
    """The result of one HEAD: the part's length and, if the origin sends them, its span and the number of parts."""

    length: int
    span: ByteRange | None
    count: int | None


Ask = Callable[[ObjectVersion, int], Awaitable[PartAnswer]]


class PartSpans:
    """A cache of part spans. `ask` sends the HEAD; it raises InvalidRequest("InvalidPartNumber") for a missing part."""

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
        """Return where the part begins, after all earlier ones. Raises NotSupported if too many of them are unknown."""
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
    """Return whether an answer for a part has the part's own ETag (as moto's has, against the meaning of If-Match).

    Such an ETag is an MD5, while the object's ETag ends with the number of parts that the answer gives.
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
    """Return the number of parts that S3 writes into a multipart object's ETag."""
    found = _PART_COUNT_ETAG.fullmatch(etag)
    return int(found[1]) or None if found is not None else None
