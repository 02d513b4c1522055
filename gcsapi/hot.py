"""GCS's plain hits, answered at once: see `proxy.surface.hot`.

Objects that are stored as gzip and asked for by a client that does not take it are the application's, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from gcsapi.requests import Read, parse_request
from gcsapi.responses import complete, describe, is_unpacked
from proxy.gateway.answers import ReadObject
from proxy.gateway.hot import HotRead
from proxy.generations import generation_of
from proxy.objects import ObjectName, ObjectRecord
from proxy.surface.hot import CONDITIONS, DialectHooks, HotReads, RawHeaders

_CONDITIONS = (*CONDITIONS, b"x-goog-if-generation-match", b"x-goog-if-metageneration-match")
_REFUSED = frozenset(  # that make it no plain read; see `gcsapi.requests`
    {
        b"origin",
        b"x-goog-encryption-algorithm",
        b"x-goog-encryption-key",
        b"x-goog-encryption-key-sha256",
    }
)


def hot_reads(
    prepare: Callable[[ReadObject], HotRead | None],
    known: Callable[[ObjectName], ObjectRecord | None],
    host_suffixes: Sequence[str] = (),
) -> HotReads[Read]:
    """`prepare` and `known` are `Gateway`'s; `host_suffixes` are the hosts under which buckets are sub-domains."""
    suffixes = tuple(host_suffixes)

    def placed(read: Read) -> ReadObject:
        """What the application would read: a generation that is not the current one is asked for by its number."""
        name = read.request.name
        current = known(name) if read.pin is not None else None
        if read.pin is None or current is None or generation_of(current) == read.pin:
            return read.request
        return replace(read.request, name=replace(name, version_id=str(read.pin)))

    def parse(method: str, target: bytes, headers: RawHeaders) -> tuple[Read, ReadObject] | None:
        read = parse_request(method, target, headers, suffixes)
        # Whether a request that asks for headers of its own is signed is no part of what is kept.
        return (read, placed(read)) if isinstance(read, Read) and read.media and not read.overrides else None

    hooks = DialectHooks(
        _CONDITIONS,
        _REFUSED,
        b"accept-encoding",
        parse,
        describe,
        complete,
        as_stored=lambda read, record: not is_unpacked(read, record),
    )
    return HotReads(hooks, prepare, by_host=bool(suffixes))
