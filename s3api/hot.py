"""S3's plain hits, answered at once: see `proxy.surface.hot`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from proxy.gateway.answers import ReadObject
from proxy.gateway.hot import HotRead
from proxy.surface.hot import CONDITIONS, DialectHooks, HotReads, RawHeaders
from s3api.requests import PASS_HEADERS, RDMA_TOKEN, Read, parse_request
from s3api.responses import complete, describe


def hot_reads(prepare: Callable[[ReadObject], HotRead | None], host_suffixes: Sequence[str] = ()) -> HotReads[Read]:
    """`prepare` is `Gateway.prepare`; `host_suffixes` are the hosts under which buckets are sub-domains."""
    suffixes = tuple(host_suffixes)

    def parse(method: str, target: bytes, headers: RawHeaders) -> tuple[Read, ReadObject] | None:
        read = parse_request(method, target, headers, suffixes)
        # Whether a request that asks for headers of its own is signed is no part of what is kept.
        return (read, read.request) if isinstance(read, Read) and not read.overrides else None

    refused = PASS_HEADERS | {RDMA_TOKEN.encode()}  # its answer says that there is none
    hooks = DialectHooks(CONDITIONS, refused, b"x-amz-checksum-mode", parse, describe, complete)
    return HotReads(hooks, prepare, by_host=bool(suffixes))
