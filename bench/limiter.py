"""A node against an origin that allows so many requests a second and refuses all others with 503 SlowDown.

The origin is a process of its own with a token bucket that holds one second's requests; it counts what it serves and
what it refuses. The load is many small objects, each one request, read cold through a gateway with two workers by
32 connections. The ideal time is what the bucket allows: (requests served - one second's) / the rate.

`--nodes N` reads through a fleet of N gateways that share the origin by Redis, each by its part of the connections,
each object once; the last column is the most requests that a node made at the origin, against the fewest.
"""

from __future__ import annotations

import argparse
import contextlib
import http
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench import Row
from bench.client import Connection, at_once
from bench.rounds import middle
from tests.fleet.fleet import wait_for_members
from tests.fleet.redis_servers import start_redis
from tests.gateways import GatewayProcess, overlay, start_gateway

QUESTION = "How well does a node find the rate of an origin that throttles?"

RATES = (100, 300, 1000)
SECONDS = 20
QUICK_SECONDS = 8
READERS = 32
OBJECT_BYTES = 1024
COUNTS = b"/-/counts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="a fleet of so many")


def measure_with(arguments: argparse.Namespace) -> list[Row]:
    return _measure(arguments.quick, arguments.nodes)


def measure(quick: bool) -> list[Row]:
    return _measure(quick, 1)


def _measure(quick: bool, nodes: int) -> list[Row]:
    seconds = QUICK_SECONDS if quick else SECONDS
    rates = RATES[:2] if quick else RATES
    return [_row(rate, after, seconds, 1 if quick else 3, nodes) for rate in rates for after in (None, 1)]


def _row(rate: int, retry_after_s: int | None, seconds: int, rounds: int, nodes: int) -> Row:
    found = [_load(rate, retry_after_s, rate * seconds, nodes) for _ in range(rounds)]
    return {
        "nodes": nodes,
        "requests/s allowed": rate,
        "Retry-After": "none" if retry_after_s is None else f"{retry_after_s} s",
        "objects": rate * seconds,
        "seconds": middle([run[0] for run in found]),
        "against ideal": f"{middle([run[1] for run in found]):.2f}",
        "refused %": f"{middle([run[2] * 100 for run in found]):.2f}",
        "most/fewest": f"{middle([run[3] for run in found]):.2f}",
    }


def _load(rate: int, retry_after_s: int | None, objects: int, nodes: int) -> tuple[float, float, float, float]:
    """Seconds, seconds against the ideal, the share of refused requests, and how unevenly the nodes have asked."""
    with (
        tempfile.TemporaryDirectory(prefix="warmstart-bench-") as name,
        limited_origin(rate, retry_after_s) as port,
        start_nodes(Path(name), port, nodes) as gateways,
    ):
        urls = [gateway.url for gateway in gateways]
        _read_all(urls, "first", READERS // 2)  # workers load what misses need as the first ones come
        time.sleep(1)  # and the bucket is full again
        before, asked_before = origin_counts(port), _asked(gateways)
        began_s = time.monotonic()
        _read_all(urls, "object", objects)
        seconds = time.monotonic() - began_s
        served, refused = (after - earlier for after, earlier in zip(origin_counts(port), before, strict=True))
        asked = [after - earlier for after, earlier in zip(_asked(gateways), asked_before, strict=True)]
    ideal_s = max(served - rate, 1) / rate
    return seconds, seconds / ideal_s, refused / (served + refused), max(asked) / max(min(asked), 1)


@contextmanager
def start_nodes(folder: Path, origin_port: int, nodes: int) -> Iterator[list[GatewayProcess]]:
    """Gateways with two workers each; several are a fleet."""
    upstream = {"type": "s3", "endpoint": f"http://127.0.0.1:{origin_port}", "region": "us-east-1"}
    config = {"log": {"level": "error"}, "limits": {"retry_deadline": "5m"}}
    with ExitStack() as stack:
        if nodes > 1:
            redis = stack.enter_context(start_redis(folder))
            config = overlay(config, {"cluster": {"redis": redis.url, "secret": "of a fleet that is measured"}})
        gateways = []
        for number in range(nodes):
            home = folder / f"node-{number}"
            home.mkdir()
            origin = {**upstream, "anonymous": True, "addressing": "path"}
            gateways.append(stack.enter_context(start_gateway(home, origin=origin, workers=2, config=config)))
        if nodes > 1:
            wait_for_members(gateways, nodes)
        yield gateways


def _asked(gateways: Sequence[GatewayProcess]) -> list[float]:
    """Requests that each node has made at the origin."""
    return [gateway.metric("warmstart_origin_requests_total") for gateway in gateways]


def _read_all(urls: Sequence[str], name: str, objects: int) -> None:
    numbers = iter(range(objects))
    readers = iter(range(READERS))
    guard = threading.Lock()

    def work() -> None:
        with guard:
            url = urls[next(readers) % len(urls)]
        with contextlib.closing(Connection(url)) as connection:
            while True:
                with guard:
                    number = next(numbers, None)
                if number is None:
                    break
                length, _ = connection.get(f"/bench/{name}-{number}")
                assert length == OBJECT_BYTES

    at_once(READERS, work)


@contextmanager
def limited_origin(rate: int, retry_after_s: int | None) -> Iterator[int]:
    """Its port."""
    command = [sys.executable, "-m", "bench.limiter", str(rate), str(retry_after_s or 0)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def origin_counts(port: int) -> tuple[int, int]:
    """Requests served and refused."""
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(b"GET %s HTTP/1.1\r\n\r\n" % COUNTS)
        served, refused = connection.recv(4096).partition(b"\r\n\r\n")[2].split()
    return int(served), int(refused)


class _Bucket:
    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._tokens = float(rate)
        self._filled_s = time.monotonic()
        self._guard = threading.Lock()
        self.served = self.refused = 0

    def take(self) -> bool:
        with self._guard:
            now_s = time.monotonic()
            self._tokens = min(self._rate, self._tokens + (now_s - self._filled_s) * self._rate)
            self._filled_s = now_s
            if self._tokens < 1:
                self.refused += 1
                return False
            self._tokens -= 1
            self.served += 1
            return True


def _serve(rate: int, retry_after_s: int) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(listener.getsockname()[1], flush=True)
    bucket = _Bucket(rate)
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_converse, args=(connection, bucket, retry_after_s), daemon=True).start()


def _converse(connection: socket.socket, bucket: _Bucket, retry_after_s: int) -> None:
    received = b""
    try:
        while True:
            while b"\r\n\r\n" not in received:
                piece = connection.recv(65536)
                if not piece:
                    return
                received += piece
            head, _, received = received.partition(b"\r\n\r\n")
            connection.sendall(_answer(head, bucket, retry_after_s))
    except OSError:
        pass
    finally:
        connection.close()


def _answer(head: bytes, bucket: _Bucket, retry_after_s: int) -> bytes:
    method, target = head.split(b" ", 2)[:2]
    if target == COUNTS:
        return _render(200, [], b"%d %d" % (bucket.served, bucket.refused))
    if not bucket.take():
        later = [("Retry-After", str(retry_after_s))] if retry_after_s else []
        return _render(503, later, b"<Error><Code>SlowDown</Code></Error>" if method != b"HEAD" else b"")
    headers = [("ETag", '"limited"'), ("Last-Modified", "Tue, 24 Nov 2026 09:00:00 GMT")]
    if method == b"HEAD":
        return _render(200, headers, b"", OBJECT_BYTES)
    return _render(
        206, [*headers, ("Content-Range", f"bytes 0-{OBJECT_BYTES - 1}/{OBJECT_BYTES}")], bytes(OBJECT_BYTES)
    )


def _render(status: int, headers: list[tuple[str, str]], body: bytes, length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers]
    lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode() + body


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))
