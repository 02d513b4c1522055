"""`replicate: false`: the disks of a fleet as one. Each block is kept by its owner alone, and read from there."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import httpx

from tests.fleet.fleet import BLOCK_BYTES, Fleet, Load, start_fleet
from tests.fleet.held_origin import BUCKET, HeldOrigin
from tests.fleet.redis_servers import start_redis
from tests.gateways import send_signal
from tests.waiting import wait_until

POOLED = {"buckets": {"*": {"origin": "origin", "replicate": False}}}
CONTENT = random.Random(6).randbytes(12 * BLOCK_BYTES + 777)
RANGES = (
    (0, 7),
    (BLOCK_BYTES - 5, BLOCK_BYTES + 4),
    (100_000, 2_999_999),
    (len(CONTENT) - 9, len(CONTENT) - 1),
)


def kept_bytes(fleet: Fleet) -> int:
    """Of object data, on the disks of all nodes."""
    return sum(
        path.stat().st_blocks * 512
        for number in fleet.living
        for path in fleet.nodes[number].cache.rglob("*.data")
        if path.is_file()
    )


def test_each_block_is_kept_once_and_read_by_all_from_there(tmp_path: Path) -> None:
    with HeldOrigin(BLOCK_BYTES) as cloud, start_redis(tmp_path) as redis:
        cloud.put("model", CONTENT)
        with start_fleet(tmp_path, cloud, nodes=3, redis=redis, workers=2, config=POOLED) as fleet:
            for _ in range(2):
                fleet.assert_right(fleet.load("model"), CONTENT)
            reads = [asked for asked in cloud.asked if asked.method == "GET"]
            assert len(reads) == 13
            assert sum(asked.sent_bytes for asked in reads) == len(CONTENT)
            assert len(CONTENT) <= kept_bytes(fleet) < 1.2 * len(CONTENT)
            assert fleet.metric("warmstart_checksum_failures_total") == 0


def test_an_owner_that_is_silent_for_a_moment_is_asked_again_and_the_origin_is_not(tmp_path: Path) -> None:
    with HeldOrigin(BLOCK_BYTES) as cloud, start_redis(tmp_path) as redis:
        cloud.put("model", CONTENT)
        with start_fleet(tmp_path, cloud, nodes=2, redis=redis, config=POOLED) as fleet:
            fleet.assert_right(fleet.load("model"), CONTENT)
            before = cloud.block_gets("model")
            [worker] = fleet.nodes[0].worker_pids()
            send_signal(worker, signal.SIGSTOP)
            try:
                load = Load(fleet.nodes[1], "model")
                wait_until(
                    lambda: fleet.nodes[1].metric("warmstart_peer_failures_total", reason="silent") > 0,
                    "nobody misses the owner",
                )
            finally:
                send_signal(worker, signal.SIGCONT)
            fleet.assert_right({1: load}, CONTENT)
            assert cloud.block_gets("model") == before


def test_ranges_of_a_pooled_bucket_come_from_the_owners(tmp_path: Path) -> None:
    with HeldOrigin(BLOCK_BYTES) as cloud:
        cloud.put("model", CONTENT)
        with start_fleet(tmp_path, cloud, nodes=2, config=POOLED) as fleet:
            for number in range(2):
                for start, end in (
                    (0, 8),
                    (BLOCK_BYTES - 5, BLOCK_BYTES + 5),
                    (100_000, 3_000_000),
                    (len(CONTENT) - 9, 0),
                ):
                    last = (end or len(CONTENT)) - 1
                    answer = httpx.get(
                        f"{fleet.nodes[number].url}/{BUCKET}/model",
                        headers={"range": f"bytes={start}-{last}"},
                        trust_env=False,
                        timeout=60,
                    )
                    assert answer.status_code == 206
                    assert answer.content == CONTENT[start : last + 1]


def test_the_origin_is_asked_when_an_owner_is_gone(tmp_path: Path) -> None:
    with HeldOrigin(BLOCK_BYTES) as cloud:
        cloud.put("model", CONTENT)
        with start_fleet(tmp_path, cloud, nodes=3, config=POOLED) as fleet:
            fleet.kill(2)
            fleet.assert_right(fleet.load("model"), CONTENT)


def test_a_small_first_read_waits_for_its_own_bytes_alone(tmp_path: Path) -> None:
    """A safetensors loader's first read: eight bytes of an object that no node has, and whose block comes slowly."""
    block_bytes = 4 << 20
    with HeldOrigin(block_bytes) as cloud:
        cloud.put("model", CONTENT)
        cloud.hold_at(block_bytes // 2)
        with start_fleet(tmp_path, cloud, nodes=2, config={"cache": {"block_size": f"{block_bytes}B"}}) as fleet:
            for number in range(2):
                url = f"{fleet.nodes[number].url}/{BUCKET}/model"
                answer = httpx.get(url, headers={"range": "bytes=0-7"}, trust_env=False, timeout=60)
                assert answer.content == CONTENT[:8]
            cloud.release()
            fleet.assert_right(fleet.load("model"), CONTENT)
            sent = [asked.sent_bytes for asked in cloud.asked if asked.method == "GET"]
            assert sum(sent) <= len(CONTENT) + 8
