"""Plain hits, answered at once in the parser's callback, by the same functions as all others.

How it works. What the application runs to parse a request, to prepare its read and to describe the object is run here,
too; a dialect gives its own (`DialectHooks`). The results are kept by all of a request that counts but its range: the
operation, what it asks of the gateway, and the object's headers, rendered. They are kept once the question has been
answered, if it is short: others would fill the memory for nobody. What a request says beyond that (signatures, tokens,
SDK bookkeeping, agents) does not change a read. `peek` looks each time whether the answer still holds; when the
key has another record, its headers are rendered anew. Anything else than a plain read that can be answered now is
None: the application's.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import getrandbits
from typing import Generic, Protocol, TypeVar

from proxy.errors import WarmstartError
from proxy.gateway.answers import CacheStatus, ReadAnswer, ReadObject
from proxy.gateway.hot import HotRead, Peeked
from proxy.lanes.hot import Fields, HotAnswer, render_lines
from proxy.metrics import Tally, tally
from proxy.objects import ObjectRecord
from proxy.surface.heads import Headers, measure_lines, read_status

KEPT_MAX = 16_384  # 2.3 KiB each; as many as small objects stay open, see `proxy.composition.store`
KEPT_BYTES_MAX = 64 << 20  # with what is kept of their targets and conditions
QUESTION_BYTES_MAX = 2048  # a longer target, or longer conditions, are parsed each time
_ENTRY_BYTES = 2300  # measured, beside the question's own
_COPIES = 4  # of the question: the key, what is parsed of it, and the names in that

CONDITIONS = (
    b"if-match",
    b"if-none-match",
    b"if-modified-since",
    b"if-unmodified-since",
    b"if-range",
    b"cache-control",
)


class _Read(Protocol):
    @property
    def operation(self) -> str: ...


R = TypeVar("R", bound=_Read)
RawHeaders = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True)
class DialectHooks(Generic[R]):
    """A dialect's own. `conditions` are the headers that may change an answer, beside `varies`, which every key holds.

    `refused`: headers that make a request no plain read. `parse` gives the read and what it asks of the gateway, None
    for another operation; it may raise a WarmstartError. `as_stored`: whether a read's bytes go out as they lie there.
    """

    conditions: tuple[bytes, ...]
    refused: frozenset[bytes]
    varies: bytes
    parse: Callable[[str, bytes, RawHeaders], tuple[R, ReadObject] | None]
    describe: Callable[[R, ReadAnswer, int], Headers]
    complete: Callable[[Headers, CacheStatus, str], Headers]
    as_stored: Callable[[R, ObjectRecord], bool] = lambda read, record: True


_Key = tuple[bytes | bool | None, ...]


class _Kept(Generic[R]):
    """Everything about a question but its range. `lines` are the object's header lines, by status, of `record`."""

    __slots__ = ("as_stored", "hot", "lines", "read", "record", "tallies")

    def __init__(self, read: R, hot: HotRead) -> None:
        self.read = read
        self.hot = hot
        self.record: ObjectRecord | None = None
        self.as_stored = True
        self.lines: dict[int, bytes] = {}
        self.tallies: dict[int, Tally] = {}


class HotReads(Generic[R]):
    """`prepare` is `Gateway.prepare`; `by_host`: buckets may be named by the Host header."""

    def __init__(
        self, hooks: DialectHooks[R], prepare: Callable[[ReadObject], HotRead | None], *, by_host: bool
    ) -> None:
        self._hooks = hooks
        self._prepare = prepare
        self._by_host = by_host
        self._varies = hooks.varies
        self._thought = hooks.refused | {*hooks.conditions}
        self._tail = self._split_tail()
        self._kept: OrderedDict[_Key, _Kept[R]] = OrderedDict()
        self._kept_bytes = 0

    def answer(self, method: bytes, target: bytes, fields: Fields, *, bare: bool) -> HotAnswer | None:
        """`fields` have lower-case names, none of them twice; `bare`: `sniff` says nothing of them. Never waits."""
        get = fields.get
        key: _Key = (method, target, bare, get(b"host") if self._by_host else None, get(self._varies))
        if not self._thought.isdisjoint(fields):
            if not self._hooks.refused.isdisjoint(fields):
                return None
            key += tuple([get(name) for name in self._hooks.conditions])
        kept = known = self._kept.get(key)
        if kept is None:
            kept = self._parse(method, target, fields)
            if kept is None:
                return None
        peeked = kept.hot.peek(get(b"range"))
        if peeked is None:
            return None
        if known is None:
            self._keep(key, kept)
        record, start, end, partial, not_modified, pieces = peeked
        status = 304 if not_modified else 206 if partial else 200
        if record is not kept.record:
            kept.record, kept.lines = record, {}
            kept.as_stored = self._hooks.as_stored(kept.read, record)
        if not kept.as_stored:
            return None
        lines = kept.lines.get(status)
        if lines is None:
            lines = self._describe(kept, peeked, status)
            if lines is None:
                return None
        measured = measure_lines(status, start, end, record.version.size_bytes)
        head = b"".join((lines, measured, (b"%016X" % getrandbits(64)).join(self._tail)))
        return HotAnswer(status, head, pieces, end - start if pieces else 0, kept.tallies[status])

    def _parse(self, method: bytes, target: bytes, fields: Fields) -> _Kept[R] | None:
        if method not in (b"GET", b"HEAD"):
            return None
        headers = [(name, value) for name, value in fields.items() if name != b"range"]
        try:
            parsed = self._hooks.parse(method.decode("ascii"), target, headers)
            hot = self._prepare(parsed[1]) if parsed is not None else None
        except WarmstartError:
            return None
        if parsed is None or hot is None:
            return None
        return _Kept(parsed[0], hot)

    def _keep(self, key: _Key, kept: _Kept[R]) -> None:
        question_bytes = _measure(key)
        if question_bytes > QUESTION_BYTES_MAX:
            return
        self._kept_bytes += _ENTRY_BYTES + _COPIES * question_bytes
        while self._kept and (len(self._kept) >= KEPT_MAX or self._kept_bytes > KEPT_BYTES_MAX):
            oldest, _ = self._kept.popitem(last=False)
            self._kept_bytes -= _ENTRY_BYTES + _COPIES * _measure(oldest)
        self._kept[key] = kept

    def _describe(self, kept: _Kept[R], peeked: Peeked, status: int) -> bytes | None:
        """None: a header that can't be sent."""
        answer = peeked.answer()
        assert status == read_status(answer)
        lines = render_lines(self._hooks.describe(kept.read, answer, status))
        if lines is not None:
            kept.lines[status] = lines
            kept.tallies[status] = tally(kept.read.operation, status, "express", CacheStatus.HIT.value)
        return lines

    def _split_tail(self) -> list[bytes]:
        """The last lines of every head, cut where the request's id stands."""
        stand_in = secrets.token_hex(8)
        lines = render_lines(self._hooks.complete((), CacheStatus.HIT, stand_in))
        assert lines is not None
        return (lines + b"\r\n").split(stand_in.encode())


def _measure(key: _Key) -> int:
    return sum(len(part) for part in key if isinstance(part, bytes))
