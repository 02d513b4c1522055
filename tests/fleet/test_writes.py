"""A write that has returned is seen by the next read at every node, whatever has happened to that node or to Redis."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import boto3
import httpx
import pytest

from tests.fleet.fleet import Fleet, start_fleet
from tests.fleet.held_origin import HeldOrigin
from tests.fleet.redis_servers import RedisServer, start_redis
from tests.gateways import origin_settings
from tests.servers import S3Server, start_moto
from tests.waiting import wait_until

BUCKET = "shelf"
KEYS = 100
WRITING = {"writes": "through"}
PLAIN, WITH_THOUGHT = (
    "",
    "?response-content-type=text/plain&X-Amz-Signature=x",
)  # what the express lane answers, and what it leaves


@dataclass(frozen=True)
class WritableCloud:
    """A bucket that can be written, as a fleet's cloud."""

    server: S3Server

    def settings(self, number: int) -> dict[str, Any]:
        return origin_settings(self.server)

    @property
    def cloud(self) -> HeldOrigin:
        return cast(HeldOrigin, self)


@pytest.fixture(scope="module")
def bucket() -> Iterator[WritableCloud]:
    with start_moto() as server:
        client_of(server.url).create_bucket(Bucket=BUCKET)
        yield WritableCloud(server)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, bucket: WritableCloud) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    with (
        start_redis(folder) as redis,
        start_fleet(folder, bucket.cloud, nodes=3, redis=redis, workers=2, config=WRITING) as fleet,
    ):
        wait_until_listening(redis, 3)
        yield fleet


def client_of(url: str) -> Any:
    return boto3.client(
        "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
    )


def wait_until_listening(redis: RedisServer, count: int) -> None:
    """Writes are heard by so many nodes; until then a write may find nobody to wait for."""
    with redis.client() as client:
        wait_until(
            lambda: client.zcard("warmstart:news:listening") == count, f"not all of {count} nodes listen for writes"
        )


class Reader:
    """One node's, by connections that stay."""

    def __init__(self, fleet: Fleet, number: int) -> None:
        self._url = fleet.nodes[number].url
        self._client = httpx.Client(trust_env=False, timeout=60)

    def read(self, key: str, query: str = PLAIN) -> bytes:
        answer = self._client.get(f"{self._url}/{BUCKET}/{key}{query}")
        assert answer.status_code == 200, answer.text
        return answer.content

    def status(self, key: str) -> int:
        return self._client.get(f"{self._url}/{BUCKET}/{key}").status_code

    def warm(self, key: str, content: bytes) -> None:
        """Twice, so that the next read is answered at once."""
        for query in (PLAIN, WITH_THOUGHT, PLAIN):
            assert self.read(key, query) == content


def test_a_write_at_one_node_is_seen_by_the_next_read_at_the_others(fleet: Fleet) -> None:
    writer = client_of(fleet.nodes[0].url)
    readers = [Reader(fleet, number) for number in range(3)]

    def check(number: int) -> None:
        key = f"many-{number}"
        for version in (b"old", b"a newer one"):
            writer.put_object(Bucket=BUCKET, Key=key, Body=version)
            for reader in readers:
                assert reader.read(key, PLAIN if number % 2 else WITH_THOUGHT) == version
                reader.warm(key, version)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(check, range(KEYS)))
    for lane in ("express", "asgi"):
        assert fleet.metric("warmstart_requests_total", operation="GetObject", lane=lane, cache="HIT") > 0
    assert fleet.metric("warmstart_writes_told_total", outcome="acknowledged") > KEYS  # the first wait for a new Redis
    assert fleet.metric("warmstart_writes_told_total", outcome="untold") == 0


def test_every_kind_of_write_is_seen(fleet: Fleet) -> None:
    writer, reader = client_of(fleet.nodes[0].url), Reader(fleet, 1)
    for key in ("parts", "copied", "gone-1", "gone-2", "gone-3"):
        writer.put_object(Bucket=BUCKET, Key=key, Body=b"old")
        reader.warm(key, b"old")
    upload = writer.create_multipart_upload(Bucket=BUCKET, Key="parts")["UploadId"]
    part = writer.upload_part(Bucket=BUCKET, Key="parts", UploadId=upload, PartNumber=1, Body=b"in parts")
    assert reader.read("parts") == b"old"
    writer.complete_multipart_upload(
        Bucket=BUCKET,
        Key="parts",
        UploadId=upload,
        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]},
    )
    assert reader.read("parts") == b"in parts"
    writer.copy_object(Bucket=BUCKET, Key="copied", CopySource={"Bucket": BUCKET, "Key": "parts"})
    assert reader.read("copied") == b"in parts"
    writer.delete_object(Bucket=BUCKET, Key="gone-1")
    assert reader.status("gone-1") == 404
    writer.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": "gone-2"}, {"Key": "gone-3"}]})
    assert [reader.status(key) for key in ("gone-2", "gone-3")] == [404, 404]


def test_a_refused_write_is_told_to_nobody(fleet: Fleet) -> None:
    writer, reader = client_of(fleet.nodes[0].url), Reader(fleet, 1)
    writer.put_object(Bucket=BUCKET, Key="kept", Body=b"kept")
    reader.warm("kept", b"kept")
    before = fleet.metric("warmstart_writes_told_total")
    with pytest.raises(writer.exceptions.ClientError):
        writer.put_object(Bucket=BUCKET, Key="kept", Body=b"other", IfNoneMatch="*")
    assert fleet.metric("warmstart_writes_told_total") == before
    assert reader.read("kept") == b"kept"


def test_a_write_waits_for_a_node_that_stands_still_and_that_node_never_gives_the_old(fleet: Fleet) -> None:
    writer, reader = client_of(fleet.nodes[0].url), Reader(fleet, 2)
    writer.put_object(Bucket=BUCKET, Key="still", Body=b"old")
    reader.warm("still", b"old")
    late: list[bytes] = []
    reading = threading.Thread(target=lambda: late.append(reader.read("still")))
    fleet.pause(2)
    try:
        writer.put_object(Bucket=BUCKET, Key="still", Body=b"new one")
        assert fleet.nodes[0].metric("warmstart_writes_told_total", outcome="waited_out") >= 1
        reading.start()  # after the write has returned; it is answered when the node goes on
    finally:
        fleet.resume(2)
    reading.join(60)
    assert late == [b"new one"]
    for _ in range(20):
        assert reader.read("still") == b"new one"


def test_a_write_is_seen_at_a_node_whose_control_process_has_died(fleet: Fleet) -> None:
    writer, reader = client_of(fleet.nodes[0].url), Reader(fleet, 2)
    writer.put_object(Bucket=BUCKET, Key="deaf", Body=b"heard of")
    reader.warm("deaf", b"heard of")
    os.kill(control_pid(fleet, 2), signal.SIGKILL)
    writer.put_object(Bucket=BUCKET, Key="deaf", Body=b"unheard of")
    assert reader.read("deaf") == b"unheard of"


def control_pid(fleet: Fleet, number: int) -> int:
    """Of the control process, as soon as there is one."""

    def found() -> list[int]:
        pids = fleet.nodes[number].children()
        return [pid for pid in pids if b"\0control\0" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    wait_until(lambda: bool(found()), "no control process is started again")
    return found()[0]


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory, bucket: WritableCloud) -> Iterator[tuple[Fleet, RedisServer]]:
    """Two nodes; the second may be cut off, and Redis be killed."""
    folder = tmp_path_factory.mktemp("troubled")
    with (
        start_redis(folder) as redis,
        start_fleet(folder, bucket.cloud, nodes=2, redis=redis, config=WRITING, doors=True) as fleet,
    ):
        wait_until_listening(redis, 2)
        yield fleet, redis


def test_a_node_that_is_cut_off_never_gives_the_old_once_a_write_has_returned(
    troubled: tuple[Fleet, RedisServer],
) -> None:
    fleet, _ = troubled
    writer, reader = client_of(fleet.nodes[0].url), Reader(fleet, 1)
    writer.put_object(Bucket=BUCKET, Key="cut", Body=b"old")
    reader.warm("cut", b"old")
    fleet.cut(1)
    try:
        for version in (b"first", b"second!"):
            writer.put_object(Bucket=BUCKET, Key="cut", Body=version)
            assert reader.read("cut") == version
    finally:
        fleet.mend(1)
    for _ in range(20):
        assert reader.read("cut") == b"second!"


def test_writes_and_reads_go_on_without_redis_and_when_it_is_back_all_is_asked_for_once(
    troubled: tuple[Fleet, RedisServer],
) -> None:
    fleet, redis = troubled
    wait_until_listening(redis, 2)
    writer, reader = client_of(fleet.nodes[0].url), Reader(fleet, 1)
    for key in ("outage", "due"):
        writer.put_object(Bucket=BUCKET, Key=key, Body=b"old")
        reader.warm(key, b"old")
    asked_before = fleet.metric("warmstart_origin_requests_total", kind="head")
    redis.kill()
    writer.put_object(Bucket=BUCKET, Key="outage", Body=b"in an outage")
    assert reader.read("outage") == b"in an outage"
    redis.restart()
    wait_until_listening(redis, 2)
    writer.put_object(Bucket=BUCKET, Key="outage", Body=b"afterwards")
    assert reader.read("outage") == b"afterwards"
    assert reader.read("due") == b"old"
    asked = fleet.metric("warmstart_origin_requests_total", kind="head")
    assert reader.read("due") == b"old"
    assert fleet.metric("warmstart_origin_requests_total", kind="head") == asked > asked_before
