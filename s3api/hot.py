"""Plain hits, answered at once in the parser's callback, by the same functions as all others.

How it works. `parse_request`, `Gateway.prepare`, `describe` and `complete` are what the application runs, too. Here
their results are kept by all of a request that counts but its range: the operation, what it asks of the gateway, and
the object's headers, rendered. What a request says beyond that (signatures, SDK bookkeeping, agents) does not change
a read. `peek` looks each time whether the answer still holds; when the key has another record, its headers are
rendered anew. Anything else than a plain read that can be answered now is None: the application's.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from random import getrandbits

from proxy.errors import WarmstartError
from proxy.gateway.answers import CacheStatus, ReadAnswer, ReadObject
from proxy.gateway.hot import HotRead
from proxy.lanes.hot import Fields, HotAnswer, render_lines
from proxy.metrics import Tally, tally
from proxy.objects import ObjectRecord
from proxy.ranges import parse_range
from s3api.requests import PASS_HEADERS, Read, parse_request
from s3api.responses import complete, describe, measure_lines, read_status

KEPT_MAX = 8192  # a few KiB each

_Key = tuple[bytes | None, ...]


def _split_tail() -> tuple[bytes, bytes, bytes]:
    """The last lines of every head: before, between and after the request's id."""
    stand_in = secrets.token_hex(8)
    lines = render_lines(complete((), CacheStatus.HIT, stand_in))
    assert lines is not None
    before, between, after = lines.split(stand_in.encode())
    return before, between, after + b"\r\n"


_BEFORE_ID, _BETWEEN_IDS, _AFTER_ID = _split_tail()


class _Kept:
    """Everything about a question but its range. `lines` are the object's header lines, by status, of `record`."""

    __slots__ = ("head_only", "hot", "lines", "read", "record", "tallies")

    def __init__(self, read: Read, hot: HotRead) -> None:
        self.read = read
        self.hot = hot
        self.head_only = read.request.head_only
        self.record: ObjectRecord | None = None
        self.lines: dict[int, bytes] = {}
        self.tallies: dict[int, Tally] = {}

    def describe(self, answer: ReadAnswer, status: int) -> bytes | None:
        """None: a header that can't be sent."""
        if answer.record is not self.record:
            self.record, self.lines = answer.record, {}
        lines = self.lines.get(status)
        if lines is None:
            lines = render_lines(describe(self.read, answer, status))
            if lines is not None:
                self.lines[status] = lines
                self.tallies[status] = tally(self.read.operation, status, "express", CacheStatus.HIT.value)
        return lines


class HotReads:
    """`prepare` is `Gateway.prepare`; `host_suffixes` are the hosts under which buckets are sub-domains."""

    def __init__(self, prepare: Callable[[ReadObject], HotRead | None], host_suffixes: Sequence[str] = ()) -> None:
        self._prepare = prepare
        self._host_suffixes = tuple(host_suffixes)
        self._kept: OrderedDict[_Key, _Kept] = OrderedDict()

    def answer(self, method: bytes, target: bytes, fields: Fields) -> HotAnswer | None:
        """`fields` have lower-case names, none of them twice. Never waits."""
        if (method != b"GET" and method != b"HEAD") or not PASS_HEADERS.isdisjoint(fields):
            return None
        get = fields.get
        key = (
            method,
            target,
            get(b"host") if self._host_suffixes else None,
            get(b"if-match"),
            get(b"if-none-match"),
            get(b"if-modified-since"),
            get(b"if-unmodified-since"),
            get(b"if-range"),
            get(b"cache-control"),
            get(b"x-amz-checksum-mode"),
        )
        kept = self._kept.get(key) or self._keep(key, fields)
        if kept is None:
            return None
        value = get(b"range")
        answer = kept.hot.peek(None if value is None else parse_range(value.decode("latin-1")))
        if answer is None:
            return None
        assert answer.cache is CacheStatus.HIT
        status = read_status(answer)
        described = kept.describe(answer, status)
        if described is None:
            return None
        request_id = b"%016X" % getrandbits(64)
        measured = measure_lines(answer, status)
        head = b"".join((described, measured, _BEFORE_ID, request_id, _BETWEEN_IDS, request_id, _AFTER_ID))
        length = 0 if kept.head_only or status == 304 else answer.length
        return HotAnswer(status, head, answer.pieces, length, kept.tallies[status])

    def _keep(self, key: _Key, fields: Fields) -> _Kept | None:
        method, target = key[:2]
        assert method is not None
        assert target is not None
        headers = [(name, value) for name, value in fields.items() if name != b"range"]
        try:
            read = parse_request(method.decode("ascii"), target, headers, self._host_suffixes)
            hot = self._prepare(read.request) if isinstance(read, Read) else None
        except WarmstartError:
            return None
        if hot is None:
            return None
        assert isinstance(read, Read)
        if len(self._kept) >= KEPT_MAX:
            self._kept.popitem(last=False)
        kept = self._kept[key] = _Kept(read, hot)
        return kept
