"""The origin of the measurements: what it answers, and how exactly it keeps to its link."""

from __future__ import annotations

import base64
import http.client
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.client import Connection, cut, read_ranges
from bench.loopback import BURST_S, FULL_SPEED, Link, Origin, Pace, make_data, read_counts, start_origin
from proxy.blocks import update_sum
from proxy.objects import SumKind

MIB = 1 << 20


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("bench") / "data", 3 * MIB)


@pytest.fixture(scope="module")
def origin(data: Path) -> Iterator[Origin]:
    with start_origin(data) as started:
        yield started


def ask(origin: Origin, method: str, path: str, byte_range: str = "") -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", origin.port, timeout=60)
    connection.request(method, path, headers={"Range": byte_range} if byte_range else {})
    answer = connection.getresponse()
    found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    connection.close()
    return found


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("0-0", 0, 1), ("1000-2999", 1000, 3000), ("3145000-", 3145000, 3 * MIB), ("5-9999999", 5, 3 * MIB)],
)
def test_a_range_gives_just_its_bytes(origin: Origin, data: Path, asked: str, start: int, end: int) -> None:
    status, headers, body = ask(origin, "GET", "/bucket/key", f"bytes={asked}")
    assert status == 206
    assert headers["content-range"] == f"bytes {start}-{end - 1}/{3 * MIB}"
    assert body == data.read_bytes()[start:end]


def test_an_object_and_its_head_agree(origin: Origin, data: Path) -> None:
    status, headers, body = ask(origin, "GET", "/bucket/any/key")
    assert (status, body) == (200, data.read_bytes())
    assert ask(origin, "HEAD", "/bucket/any/key") == (200, headers, b"")
    assert headers["etag"] == '"loopback"'
    assert headers["accept-ranges"] == "bytes"


def test_a_range_behind_the_end_is_not_satisfiable(origin: Origin) -> None:
    status, headers, _ = ask(origin, "GET", "/bucket/key", f"bytes={3 * MIB}-")
    assert status == 416
    assert headers["content-range"] == f"bytes */{3 * MIB}"


def test_a_path_may_name_its_objects_size(origin: Origin, data: Path) -> None:
    assert ask(origin, "GET", "/bucket/key.1000")[2] == data.read_bytes()[:1000]
    assert ask(origin, "GET", "/bucket/key.1000", "bytes=1000-")[0] == 416


def test_requests_and_body_bytes_are_counted_and_the_asking_is_not(data: Path) -> None:
    with start_origin(data) as origin:
        assert read_counts(origin) == (0, 0, 0)
        ask(origin, "HEAD", "/bucket/key")
        ask(origin, "GET", "/bucket/key", "bytes=10-19")
        read = read_ranges(origin.url, "/bucket/key", cut(3 * MIB, MIB), 2)
        assert read.received_bytes == 3 * MIB
        assert read_counts(origin) == (5, 3 * MIB + 10, 0)


def test_a_throttling_origin_refuses_the_first_get_of_each_block_and_counts_it(tmp_path: Path) -> None:
    with start_origin(make_data(tmp_path / "data", 9 * MIB), refuse_after_s=5) as origin:
        assert ask(origin, "HEAD", "/bucket/key")[0] == 200
        for byte_range in ("bytes=0-9", "bytes=8388608-8388617"):
            status, headers, body = ask(origin, "GET", "/bucket/key", byte_range)
            assert (status, headers["retry-after"], body) == (429, "5", b"")
            assert ask(origin, "GET", "/bucket/key", byte_range)[0] == 206
        assert read_counts(origin) == (3, 20, 2)


def test_an_origin_may_tell_the_crc32c_of_the_whole(data: Path) -> None:
    with start_origin(data, summed=True) as origin:
        connection = http.client.HTTPConnection("127.0.0.1", origin.port, timeout=60)
        connection.request("HEAD", "/bucket/key", headers={"x-amz-checksum-mode": "ENABLED"})
        headers = connection.getresponse().headers
        connection.close()
    crc = update_sum(SumKind.CRC32C, memoryview(data.read_bytes()))
    assert base64.b64decode(headers["x-amz-checksum-crc32c"]) == crc.to_bytes(4, "big")


def test_what_a_client_never_took_does_not_count(tmp_path: Path) -> None:
    with start_origin(make_data(tmp_path / "data", 32 * MIB)) as origin:
        with socket.create_connection(("127.0.0.1", origin.port)) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            connection.sendall(b"GET /bucket/key HTTP/1.1\r\n\r\n")
            taken = len(connection.recv(65536))
        while (sent := read_counts(origin)[1]) > 4 * MIB:  # until the origin has seen it close
            time.sleep(0.001)
        assert sent >= taken - 1000


def test_a_limited_link_loses_no_byte(data: Path) -> None:
    with start_origin(data, Link(1e9, 5e8, 0.001, 0.001)) as origin:
        assert ask(origin, "GET", "/bucket/key")[2] == data.read_bytes()


def test_the_client_refuses_what_is_no_success(origin: Origin) -> None:
    connection = Connection(origin.url)
    with pytest.raises(RuntimeError, match="416"):
        connection.get("/bucket/key", (3 * MIB, 4 * MIB))
    connection.close()


def test_grants_add_up_to_the_rate_however_they_are_cut() -> None:
    now = [100.0]
    pace = Pace(250e6, lambda: now[0])
    granted = 0
    for number in range(20_000):
        count = (1 + number % 3) * 40_000
        now[0] = max(now[0], pace.take(count)) + (0.001 if number % 10 == 0 else 0)  # now and then it sleeps too long
        granted += count
    assert granted / (now[0] - 100.0) == pytest.approx(250e6, rel=0.01)


def test_an_idle_link_passes_no_more_than_a_burst_at_once() -> None:
    now = [100.0]
    pace = Pace(250e6, lambda: now[0])
    pace.take(1)
    now[0] += 10
    granted = 0
    while pace.take(10_000) <= now[0]:
        granted += 10_000
    assert granted <= 250e6 * BURST_S


def test_full_speed_waits_for_nothing() -> None:
    assert Pace(FULL_SPEED.total_bytes_per_s).take(1 << 40) == 0
