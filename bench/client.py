"""The client of the cold benches, the same before every side: plain sockets, one thread and one buffer each.

It reads an object as one stream, or as ranges that several connections take from one queue in order, and tells when
the first body byte came. It counts bytes and looks at none of them.
"""

from __future__ import annotations

import contextlib
import queue
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

BUFFER_BYTES = 512 << 10
TIMEOUT_S = 120.0
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)\r\n")


@dataclass(frozen=True, slots=True)
class Read:
    """`first_byte_s` and `seconds` count from the first connection's beginning."""

    received_bytes: int
    seconds: float
    first_byte_s: float

    @property
    def gb_per_s(self) -> float:
        return self.received_bytes / self.seconds / 1e9


class Connection:
    """One keep-alive connection to `http://HOST:PORT`. Raises RuntimeError on an answer that is no success."""

    def __init__(self, url: str, tls: ssl.SSLContext | None = None) -> None:
        place = urlsplit(url)
        self._host = f"{place.hostname}:{place.port}"
        self._socket = socket.create_connection((place.hostname, place.port), TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self._socket = tls.wrap_socket(self._socket, server_hostname=place.hostname)
        self._buffer = memoryview(bytearray(BUFFER_BYTES))

    def get(self, path: str, span: tuple[int, int] | None = None) -> tuple[int, float]:
        """Reads a whole answer: its body's length, and the monotonic time of the body's first byte."""
        asked = "" if span is None else f"Range: bytes={span[0]}-{span[1] - 1}\r\n"
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: {self._host}\r\n{asked}\r\n".encode())
        held = 0
        while (end := bytes(self._buffer[:held]).find(b"\r\n\r\n")) < 0:
            held += self._receive(self._buffer[held:])
        head = bytes(self._buffer[: end + 4])
        match = _LENGTH.search(head)
        if not head.startswith(b"HTTP/1.1 20") or match is None:
            raise RuntimeError(f"the server answered {head!r}")
        length, got = int(match[1]), held - end - 4
        first_at_s = time.monotonic() if got else 0.0
        while got < length:
            got += self._receive(self._buffer[: min(BUFFER_BYTES, length - got)])
            first_at_s = first_at_s or time.monotonic()
        return length, first_at_s

    def _receive(self, buffer: memoryview) -> int:
        count = self._socket.recv_into(buffer)
        if count == 0:
            raise RuntimeError("the server closed in mid-answer")
        return count

    def close(self) -> None:
        self._socket.close()


def read_stream(url: str, path: str, span: tuple[int, int] | None = None, *, tls: ssl.SSLContext | None = None) -> Read:
    """One answer on a fresh connection."""
    began_s = time.monotonic()
    connection = Connection(url, tls)
    try:
        received, first_at_s = connection.get(path, span)
        return Read(received, time.monotonic() - began_s, first_at_s - began_s)
    finally:
        connection.close()


def read_ranges(
    url: str, path: str, spans: Sequence[tuple[int, int]], connections: int, *, tls: ssl.SSLContext | None = None
) -> Read:
    """All spans, by so many connections that each take the next one."""
    waiting: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
    for span in spans:
        waiting.put(span)
    received: list[int] = []
    first_at_s: list[float] = []

    def work() -> None:
        connection = Connection(url, tls)
        with contextlib.suppress(queue.Empty):
            while True:
                length, first = connection.get(path, waiting.get_nowait())
                received.append(length)
                first_at_s.append(first)
        connection.close()

    began_s = time.monotonic()
    at_once(connections, work)
    return Read(sum(received), time.monotonic() - began_s, min(first_at_s) - began_s)


def at_once(threads: int, work: Callable[[], None]) -> None:
    """Runs `work` in so many threads; raises the first error when all have ended."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    running = [threading.Thread(target=run) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    if failed:
        raise failed[0]


def cut(size_bytes: int, range_bytes: int) -> list[tuple[int, int]]:
    return [(start, min(size_bytes, start + range_bytes)) for start in range(0, size_bytes, range_bytes)]
