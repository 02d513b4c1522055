"""The bench's ready-made cache: a gateway takes every object of it for one that an earlier run has left."""

from __future__ import annotations

from pathlib import Path

import httpx

from bench.large_cache import BUCKET, OBJECT_BYTES, make_large_cache, remove_large_cache
from tests.gateways import start_gateway


def test_a_gateway_serves_each_object_and_nothing_is_damaged(tmp_path: Path) -> None:
    root = tmp_path / "origin"
    root.mkdir()
    large = make_large_cache(tmp_path / "cache", f"file://{root}", 40)
    config = {"buckets": {BUCKET: {"origin": "origin", "consistency": "immutable"}}}
    size = f"{large.size_bytes}B"
    with start_gateway(tmp_path, origin=f"file://{root}", cache_size=size, config=config) as gateway:
        with httpx.Client(base_url=gateway.url, trust_env=False) as client:
            for number in range(40):
                answer = client.get(large.path(number))
                assert (answer.status_code, answer.headers["x-cache"]) == (200, "HIT")
                assert answer.content == bytes(OBJECT_BYTES)
        assert gateway.metric("warmstart_evicted_segments_total") == 0
        assert gateway.metric("warmstart_origin_requests_total") == 0


def test_a_crowd_is_gone_when_it_is_removed(tmp_path: Path) -> None:
    make_large_cache(tmp_path / "cache", "file:///nowhere", 10)
    remove_large_cache(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
