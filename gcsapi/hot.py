"""Plain hits, answered at once in the parser's callback, by the same functions as all others.

How it works. `parse_request`, `Gateway.prepare`, `describe` and `complete` are what the application runs, too. Here
their results are kept by all of a request that counts but its range: the operation, what it asks of the gateway, and
the object's headers, rendered. What a request says beyond that (tokens, agents, the project that pays) does not change
a read. `peek` looks each time whether the answer still holds; when the key has another record, its headers are
rendered anew. Anything else than an object's stored bytes that can be sent now is None: the application's. So are
objects that are stored as gzip and asked for by a client that does not take it.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import getrandbits

from gcsapi.requests import Read, parse_request
from gcsapi.responses import complete, describe, is_unpacked, measure_lines, read_status
from proxy.errors import WarmstartError
from proxy.gateway.answers import CacheStatus, ReadObject
from proxy.gateway.hot import HotRead, Peeked
from proxy.generations import generation_of
from proxy.lanes.hot import Fields, HotAnswer, render_lines
from proxy.metrics import Tally, tally
from proxy.objects import ObjectName, ObjectRecord

_CONDITIONS = (
    b"if-match",
    b"if-none-match",
    b"if-modified-since",
    b"if-unmodified-since",
    b"if-range",
    b"cache-control",
    b"x-goog-if-generation-match",
    b"x-goog-if-metageneration-match",
)
_OTHERS = (  # that make it no plain read; see `gcsapi.requests`
    b"origin",
    b"x-goog-encryption-algorithm",
    b"x-goog-encryption-key",
    b"x-goog-encryption-key-sha256",
)
_THOUGHT = frozenset((*_CONDITIONS, *_OTHERS))
KEPT_MAX = 8192  # a few KiB each

_Key = tuple[bytes | bool | None, ...]


def _split_tail() -> tuple[bytes, bytes]:
    """The last lines of every head: before and after the request's id."""
    stand_in = secrets.token_hex(8)
    lines = render_lines(complete((), CacheStatus.HIT, stand_in))
    assert lines is not None
    before, _, after = lines.partition(stand_in.encode())
    return before, after + b"\r\n"


_BEFORE_ID, _AFTER_ID = _split_tail()


class _Kept:
    """Everything about a question but its range. `lines` are the object's header lines, by status, of `record`."""

    __slots__ = ("hot", "lines", "read", "record", "tallies", "unpacks")

    def __init__(self, read: Read, hot: HotRead) -> None:
        self.read = read
        self.hot = hot
        self.record: ObjectRecord | None = None
        self.unpacks = False
        self.lines: dict[int, bytes] = {}
        self.tallies: dict[int, Tally] = {}

    def renew(self, record: ObjectRecord) -> None:
        self.record, self.lines = record, {}
        self.unpacks = is_unpacked(self.read, record)

    def describe(self, peeked: Peeked, status: int) -> bytes | None:
        """None: a header that can't be sent."""
        answer = peeked.answer()
        assert status == read_status(answer)
        lines = render_lines(describe(self.read, answer, status))
        if lines is not None:
            self.lines[status] = lines
            self.tallies[status] = tally(self.read.operation, status, "express", CacheStatus.HIT.value)
        return lines


class HotReads:
    """`prepare` and `known` are `Gateway`'s; `host_suffixes` are the hosts under which buckets are sub-domains."""

    def __init__(
        self,
        prepare: Callable[[ReadObject], HotRead | None],
        known: Callable[[ObjectName], ObjectRecord | None],
        host_suffixes: Sequence[str] = (),
    ) -> None:
        self._prepare = prepare
        self._known = known
        self._host_suffixes = tuple(host_suffixes)
        self._kept: OrderedDict[_Key, _Kept] = OrderedDict()

    def answer(self, method: bytes, target: bytes, fields: Fields, *, bare: bool) -> HotAnswer | None:
        """`fields` have lower-case names, none of them twice; `bare`: `sniff` says nothing of them. Never waits."""
        get = fields.get
        host = get(b"host") if self._host_suffixes else None
        key: _Key = (method, target, bare, host, get(b"accept-encoding"))
        if not _THOUGHT.isdisjoint(fields):
            if any(name in fields for name in _OTHERS):
                return None
            key += tuple([get(name) for name in _CONDITIONS])
        kept = self._kept.get(key) or self._keep(key, method, target, fields)
        if kept is None:
            return None
        peeked = kept.hot.peek(get(b"range"))
        if peeked is None:
            return None
        record, start, end, partial, not_modified, pieces = peeked
        status = 304 if not_modified else 206 if partial else 200
        if record is not kept.record:
            kept.renew(record)
        if kept.unpacks:
            return None
        lines = kept.lines.get(status)
        if lines is None:
            lines = kept.describe(peeked, status)
            if lines is None:
                return None
        measured = measure_lines(status, start, end, record.version.size_bytes)
        head = b"".join((lines, measured, _BEFORE_ID, b"%016X" % getrandbits(64), _AFTER_ID))
        return HotAnswer(status, head, pieces, end - start if pieces else 0, kept.tallies[status])

    def _keep(self, key: _Key, method: bytes, target: bytes, fields: Fields) -> _Kept | None:
        if method not in (b"GET", b"HEAD"):
            return None
        headers = [(name, value) for name, value in fields.items() if name != b"range"]
        try:
            read = parse_request(method.decode("ascii"), target, headers, self._host_suffixes)
            hot = self._prepare(self._placed(read)) if isinstance(read, Read) and read.media else None
        except WarmstartError:
            return None
        if hot is None:
            return None
        assert isinstance(read, Read)
        if len(self._kept) >= KEPT_MAX:
            self._kept.popitem(last=False)
        kept = self._kept[key] = _Kept(read, hot)
        return kept

    def _placed(self, read: Read) -> ReadObject:
        """What the application would read: a generation that is not the current one is asked for by its number."""
        name = read.request.name
        current = self._known(name) if read.pin is not None else None
        if read.pin is None or current is None or generation_of(current) == read.pin:
            return read.request
        return replace(read.request, name=replace(name, version_id=str(read.pin)))
