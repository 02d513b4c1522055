"""kill -9 at random points of cold reads: every byte served afterwards is right, no block stays stuck."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

from tests.gateways import GatewayProcess, alive, send_signal, start_gateway
from tests.trouble.slow_origin import CONFIG, assert_settled, make_objects, read_prefix, slow_cloud
from tests.waiting import wait_until

ROUNDS = [pytest.param(4, id="few"), pytest.param(50, id="many", marks=[pytest.mark.long, pytest.mark.timeout(1200)])]
SIZE_BYTES = 3 << 20


def kill_all(gateway: GatewayProcess) -> None:
    """The whole group, in one go."""
    pids = [gateway.pid, *gateway.children()]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    gateway.kill()


@pytest.mark.parametrize("rounds", ROUNDS)
def test_killed_workers_leave_right_bytes_and_nothing_stuck(tmp_path: Path, rounds: int) -> None:
    objects = make_objects(tmp_path / "root", rounds, SIZE_BYTES)
    chance = random.Random(rounds)
    with (
        slow_cloud(tmp_path / "root") as origin,
        start_gateway(tmp_path, origin=origin, workers=2, config=CONFIG) as gateway,
    ):
        for key, content in objects.items():
            victims = gateway.worker_pids()
            doomed = chance.choice(victims)
            got, whole = read_prefix(
                gateway,
                key,
                chance.randrange(SIZE_BYTES),
                lambda: os.kill(doomed, signal.SIGKILL),  # noqa: B023
            )
            assert got == content[: len(got)]
            assert not whole or len(got) == len(content)
            assert_settled(gateway, key, content)
            wait_until(lambda: len(gateway.worker_pids()) == 2, "the worker is not restarted")
        assert gateway.metric("warmstart_worker_restarts_total", role="worker") == rounds
        for key, content in objects.items():
            assert_settled(gateway, key, content)


def test_a_fill_that_began_inside_its_block_and_was_killed_is_finished_right(tmp_path: Path) -> None:
    objects = make_objects(tmp_path / "root", 4, SIZE_BYTES)
    chance = random.Random(7)
    with (
        slow_cloud(tmp_path / "root", bytes_per_s=5e6) as origin,
        start_gateway(tmp_path, origin=origin, workers=2, config={"cache": {"block_size": "1MiB"}}) as gateway,
    ):
        for key, content in objects.items():
            start = chance.randrange(200 << 10, 900 << 10)
            doomed = chance.choice(gateway.worker_pids())
            got, whole = read_prefix(
                gateway,
                key,
                chance.randrange(600 << 10),
                lambda: os.kill(doomed, signal.SIGKILL),  # noqa: B023
                start=start,
            )
            assert got == content[start : start + len(got)]
            assert not whole or len(got) == len(content) - start
            assert_settled(gateway, key, content)
            wait_until(lambda: len(gateway.worker_pids()) == 2, "the worker is not restarted")
        assert gateway.metric("warmstart_checksum_failures_total") == 0


@pytest.mark.parametrize("rounds", ROUNDS)
def test_a_killed_gateway_starts_again_with_right_bytes_and_nothing_stuck(tmp_path: Path, rounds: int) -> None:
    objects = make_objects(tmp_path / "root", rounds, SIZE_BYTES)
    chance = random.Random(rounds)
    with slow_cloud(tmp_path / "root") as origin:
        for number, (key, content) in enumerate(objects.items()):
            with start_gateway(tmp_path, origin=origin, workers=2, config=CONFIG) as gateway:
                kill = gateway.kill if number % 2 else lambda: kill_all(gateway)
                got, whole = read_prefix(gateway, key, chance.randrange(SIZE_BYTES), kill)
                assert got == content[: len(got)]
                assert not whole or len(got) == len(content)
        with start_gateway(tmp_path, origin=origin, workers=2, config=CONFIG) as gateway:
            for key, content in objects.items():
                assert_settled(gateway, key, content)
            assert gateway.metric("warmstart_checksum_failures_total") == 0


def test_a_follower_in_another_worker_takes_over_from_a_stopped_and_killed_filler(tmp_path: Path) -> None:
    objects = make_objects(tmp_path / "root", 1, SIZE_BYTES)
    (key, content) = next(iter(objects.items()))
    with (
        slow_cloud(tmp_path / "root", bytes_per_s=2e6) as origin,
        start_gateway(tmp_path, origin=origin, workers=2, config=CONFIG) as gateway,
    ):
        stopped: list[int] = []

        def stop_one() -> None:
            stopped.append(gateway.worker_pids()[0])
            os.kill(stopped[0], signal.SIGSTOP)
            send_signal(stopped[0], signal.SIGKILL)

        got, _ = read_prefix(gateway, key, 10_000, stop_one)
        assert got == content[: len(got)]
        assert_settled(gateway, key, content)
        wait_until(lambda: not alive(stopped[0]), "the killed worker is still there")


def test_kill_of_the_supervisor_in_mid_put_leaves_no_stale_key(tmp_path: Path) -> None:
    """The write may or may not have reached the origin; the next read shows what the origin has."""
    import socket

    import boto3
    from botocore.config import Config

    from tests.servers import start_moto

    with start_moto() as moto:
        s3 = boto3.client(
            "s3",
            endpoint_url=moto.url,
            region_name="us-east-1",
            aws_access_key_id="a",
            aws_secret_access_key="b",
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )
        s3.create_bucket(Bucket="models")
        s3.put_object(Bucket="models", Key="k", Body=b"first")
        rule = {"buckets": {"*": {"origin": "origin", "consistency": "immutable"}}}
        with start_gateway(tmp_path, origin=moto, workers=2, config=rule) as gateway:
            assert_settled(gateway, "k", b"first")
            host, port = gateway.url.removeprefix("http://").split(":")
            with socket.create_connection((host, int(port))) as client:
                head = f"PUT /models/k HTTP/1.1\r\nHost: {host}\r\nContent-Length: 10\r\n\r\n"
                client.sendall(head.encode() + b"secon")
                # The tombstone is on disk once the write is under way.
                wait_until(lambda: _fenced(gateway), "the write is not fenced")
                gateway.kill()
        s3.put_object(Bucket="models", Key="k", Body=b"third")
        with start_gateway(tmp_path, origin=moto, workers=2, config=rule) as gateway:
            assert_settled(gateway, "k", b"third")


def _fenced(gateway: GatewayProcess) -> bool:
    """Whether a tombstone is published; one that still lies in keys/temp fences nothing."""
    keys = gateway.cache / "v1" / "keys"
    found = [path for path in keys.rglob("*") if path.is_file() and path.parent != keys / "temp"]
    return any(b'"fences"' in path.read_bytes() for path in found)
