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
from proxy.gateway.answers import CacheStatus, ReadObject
from proxy.gateway.hot import HotRead, Peeked
from proxy.lanes.hot import Fields, HotAnswer, render_lines
from proxy.metrics import Tally, tally
from proxy.objects import ObjectRecord
from s3api.requests import PASS_HEADERS, Read, parse_request
from s3api.responses import complete, describe, measure_lines, read_status

_CONDITIONS = (
    b"if-match",
    b"if-none-match",
    b"if-modified-since",
    b"if-unmodified-since",
    b"if-range",
    b"cache-control",
)
_THOUGHT = PASS_HEADERS | {*_CONDITIONS}
KEPT_MAX = 16_384  # 2.3 KiB each; as many as small objects stay open, see `storage`

_Key = tuple[bytes | bool | None, ...]


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
    """`prepare` is `Gateway.prepare`; `host_suffixes` are the hosts under which buckets are sub-domains."""

    def __init__(self, prepare: Callable[[ReadObject], HotRead | None], host_suffixes: Sequence[str] = ()) -> None:
        self._prepare = prepare
        self._host_suffixes = tuple(host_suffixes)
        self._kept: OrderedDict[_Key, _Kept] = OrderedDict()

    def answer(self, method: bytes, target: bytes, fields: Fields, *, bare: bool) -> HotAnswer | None:
        """`fields` have lower-case names, none of them twice; `bare`: `sniff` says nothing of them. Never waits."""
        get = fields.get
        host = get(b"host") if self._host_suffixes else None
        key: _Key = (method, target, bare, host, get(b"x-amz-checksum-mode"))
        if not _THOUGHT.isdisjoint(fields):
            if not PASS_HEADERS.isdisjoint(fields):
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
            kept.record, kept.lines = record, {}
        lines = kept.lines.get(status)
        if lines is None:
            lines = kept.describe(peeked, status)
            if lines is None:
                return None
        request_id = b"%016X" % getrandbits(64)
        measured = measure_lines(status, start, end, record.version.size_bytes)
        head = b"".join((lines, measured, _BEFORE_ID, request_id, _BETWEEN_IDS, request_id, _AFTER_ID))
        return HotAnswer(status, head, pieces, end - start if pieces else 0, kept.tallies[status])

    def _keep(self, key: _Key, method: bytes, target: bytes, fields: Fields) -> _Kept | None:
        if method not in (b"GET", b"HEAD"):
            return None
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
