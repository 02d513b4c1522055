"""An origin for measurements, in a process of its own: it costs little, and is as slow as it is told.

It answers HEAD, GET and ranged GET of any path with one file's bytes, and checks nothing else, so each round of a bench
takes a new key; to GCS's JSON API it gives the metadata of such an object. Plain connections are answered by
`sendfile`; with TLS one thread a connection encrypts. A `Link` may limit all connections together (the origin's link)
and each by itself (what a cloud gives one stream), and delay each answer's first byte. It may refuse the first GET of
each block of each object, as an origin that throttles does: with 429 and `Retry-After`. `GET /-/counts` tells how many
requests and body bytes there were so far, and how many requests were refused and are not among them. It may tell the
crc32c of the whole file, as S3 does of objects that newer clients have written.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import os
import re
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import NamedTuple

_SIZE = re.compile(rb"\.(\d+)(?:\?|$)")
_RANGE = re.compile(rb"(?i)\r\nrange: bytes=(\d+)-(\d*)\r\n")
BURST_S = 0.005  # of the rate: what a link that was idle passes at once; also makes good for sleeping too long
_STEP_BYTES = 128 << 10  # between two looks at the clock
_COUNTS = b"/-/counts"
_BLOCK_BYTES = 8 << 20
_BYTES_ACKED_AT = 120  # tcpi_bytes_acked in struct tcp_info, <linux/tcp.h>


@dataclass(frozen=True, slots=True)
class Link:
    """0: no limit. Rates in bytes per second; `connect_s` is what a new connection takes."""

    total_bytes_per_s: float = 0
    connection_bytes_per_s: float = 0
    latency_s: float = 0
    connect_s: float = 0


FULL_SPEED = Link()


@dataclass(frozen=True, slots=True)
class Origin:
    port: int
    tls: bool
    host: str = "127.0.0.1"

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}"


class Counts(NamedTuple):
    requests: int
    sent_bytes: int
    refused: int


@contextmanager
def loopback_server(size_bytes: int, tls_files: tuple[Path, Path] | None = None) -> Iterator[int]:
    """The port of a server of `size_bytes` random bytes; `tls_files` are certificate chain and key."""
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder) / "data", size_bytes)
        with start_origin(data, tls_files=tls_files) as origin:
            yield origin.port


def make_data(path: Path, size_bytes: int) -> Path:
    """A file of random megabytes that repeat, but for their numbers at the beginning of each."""
    block = bytearray(os.urandom(1 << 20))
    with path.open("wb") as file:
        for number in range(size_bytes >> 20):
            block[:8] = number.to_bytes(8, "big")
            file.write(block)
    return path


@contextmanager
def start_origin(
    data: Path,
    link: Link = FULL_SPEED,
    tls_files: tuple[Path, Path] | None = None,
    *,
    host: str = "127.0.0.1",
    refuse_after_s: int = 0,
    summed: bool = False,
    prefix: Sequence[str] = (),
) -> Iterator[Origin]:
    """`refuse_after_s`: the `Retry-After` of first requests, 0: none is refused. `summed`: it tells the whole file's
    crc32c, of whatever object. `prefix` goes before the command."""
    command = [*prefix, sys.executable, "-m", "bench.loopback", str(data), *map(str, astuple(link))]
    command += ["--host", host, "--refuse", str(refuse_after_s), *(["--summed"] if summed else [])]
    if tls_files is not None:
        command += ["--tls", *map(str, tls_files)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield Origin(int(server.stdout.readline()), tls_files is not None, host)
    finally:
        server.kill()
        server.communicate()


def read_counts(origin: Origin) -> Counts:
    """So far; the asking itself is not counted."""
    with socket.create_connection((origin.host, origin.port), 10) as connection:
        assert not origin.tls, "not over TLS"
        connection.sendall(b"GET %s HTTP/1.1\r\n\r\n" % _COUNTS)
        answer = connection.recv(4096)
    return Counts(*map(int, answer.partition(b"\r\n\r\n")[2].split()))


class Pace:
    """Grants bytes at a steady rate: each grant ends where the next one begins, and says when it has passed."""

    def __init__(self, bytes_per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._bytes_per_s = bytes_per_s
        self._clock = clock
        self._free_at_s = 0.0
        self._lock = threading.Lock()

    def take(self, count: int) -> float:
        """The monotonic time by which `count` more bytes have passed."""
        if not self._bytes_per_s:
            return 0.0
        with self._lock:
            self._free_at_s = max(self._free_at_s, self._clock() - BURST_S) + count / self._bytes_per_s
            return self._free_at_s


class _Client:
    """One connection: its pace, and how many bytes of heads and bodies were given to the kernel for it."""

    def __init__(self, connection: socket.socket, pace: Pace) -> None:
        self.socket = connection
        self.pace = pace
        self.written = 0

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)
        self.written += len(data)

    def send_file(self, file: int, start: int, count: int) -> int:
        if isinstance(self.socket, ssl.SSLSocket):
            sent = self.socket.send(os.pread(file, min(256 << 10, count), start))
        else:
            sent = os.sendfile(self.socket.fileno(), file, start, count)
        self.written += sent
        return sent

    def lost_bytes(self) -> int:
        """What the kernel still has, or has thrown away, of what it was given. Plain connections only."""
        if isinstance(self.socket, ssl.SSLSocket):
            return 0
        info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        (acknowledged,) = struct.unpack_from("Q", info, _BYTES_ACKED_AT)
        return max(0, self.written - int(acknowledged))


class _Server:
    def __init__(
        self, path: str, link: Link, context: ssl.SSLContext | None, refuse_after_s: int, *, summed: bool
    ) -> None:
        self._data = os.open(path, os.O_RDONLY)
        self._size_bytes = os.fstat(self._data).st_size
        self._link = link
        self._pace = Pace(link.total_bytes_per_s)
        self._context = context
        self._refuse_after_s = refuse_after_s
        self._sums = _sum_headers(Path(path)) if summed else []
        self._met: set[tuple[bytes, int]] = set()  # blocks that were asked for
        self._requests = self._sent_bytes = self._refused = 0
        self._lock = threading.Lock()

    def run(self, host: str) -> None:
        listener = socket.create_server((host, 0), backlog=1024)
        print(listener.getsockname()[1], flush=True)
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        time.sleep(self._link.connect_s)
        with contextlib.suppress(OSError):
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            client = _Client(connection, Pace(self._link.connection_bytes_per_s))
            try:
                self._answer_all(client)
            finally:
                with self._lock:
                    self._sent_bytes -= client.lost_bytes()
                client.socket.close()

    def _answer_all(self, client: _Client) -> None:
        received = b""
        while piece := client.socket.recv(65536):
            received += piece
            while b"\r\n\r\n" in received:
                head, _, received = received.partition(b"\r\n\r\n")
                self._answer(client, head + b"\r\n")

    def _answer(self, client: _Client, head: bytes) -> None:
        method, target = head.split(b" ", 2)[:2]
        if target == _COUNTS:
            text = b"%d %d %d" % (self._requests, self._sent_bytes, self._refused)
            client.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(text), text))
            return
        named = _SIZE.search(target)
        size_bytes = min(int(named[1]), self._size_bytes) if named else self._size_bytes
        match = _RANGE.search(head)
        if method != b"HEAD" and self._refuses(target, int(match[1]) if match else 0):
            client.send(b"HTTP/1.1 429 Too Many Requests\r\nretry-after: %d\r\n" % self._refuse_after_s)
            client.send(b"content-length: 0\r\n\r\n")
            return
        with self._lock:
            self._requests += 1
        start, end = (int(match[1]), int(match[2] or size_bytes - 1) + 1) if match else (0, size_bytes)
        end = min(end, size_bytes)
        if self._link.latency_s:
            time.sleep(self._link.latency_s)
        if target.startswith(b"/storage/v1/b/"):
            text = b'{"generation": "1", "size": "%d"}' % size_bytes
            client.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(text), text))
            return
        if start >= size_bytes:
            client.send(
                b"HTTP/1.1 416 Range Not Satisfiable\r\ncontent-range: bytes */%d\r\ncontent-length: 0\r\n\r\n"
                % size_bytes
            )
            return
        lines = [b"HTTP/1.1 206 Partial Content" if match else b"HTTP/1.1 200 OK"]
        lines += [b"content-length: %d" % (end - start), b'etag: "loopback"', b"x-goog-generation: 1"]
        lines += [
            b"accept-ranges: bytes",
            b"last-modified: Tue, 24 Nov 2026 09:00:00 GMT",
            b"content-type: binary/octet-stream",
        ]
        if b"\r\nx-amz-checksum-mode: enabled\r\n" in head.lower():
            lines += self._sums
        if match:
            lines.append(b"content-range: bytes %d-%d/%d" % (start, end - 1, size_bytes))
        client.send(b"\r\n".join([*lines, b"", b""]))
        if method != b"HEAD":
            self._send(client, start, end)

    def _refuses(self, target: bytes, start: int) -> bool:
        """Whether it is the first GET of a block, and such are refused."""
        if not self._refuse_after_s:
            return False
        block = target.partition(b"?")[0], start // _BLOCK_BYTES
        with self._lock:
            first = block not in self._met
            self._met.add(block)
            self._refused += first
        return first

    def _send(self, client: _Client, start: int, end: int) -> None:
        limited = bool(self._link.total_bytes_per_s or self._link.connection_bytes_per_s)
        while start < end:
            count = min(_STEP_BYTES, end - start) if limited else end - start
            if limited:
                wait_s = max(self._pace.take(count), client.pace.take(count)) - time.monotonic()
                if wait_s > 0.0005:
                    time.sleep(wait_s)
            stop = start + count
            while start < stop:
                sent = client.send_file(self._data, start, stop - start)
                start += sent
                with self._lock:
                    self._sent_bytes += sent


def _sum_headers(path: Path) -> list[bytes]:
    from bench.gang import file_sum

    value = base64.b64encode(file_sum(path).to_bytes(4, "big"))
    return [b"x-amz-checksum-crc32c: " + value, b"x-amz-checksum-type: FULL_OBJECT"]


def _serve() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("link", nargs=4, type=float)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--refuse", type=int, default=0)
    parser.add_argument("--summed", action="store_true")
    parser.add_argument("--tls", nargs=2)
    arguments = parser.parse_args()
    context = None
    if arguments.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*arguments.tls)
    server = _Server(arguments.data, Link(*arguments.link), context, arguments.refuse, summed=arguments.summed)
    server.run(arguments.host)


if __name__ == "__main__":
    _serve()
