"""A gang of clients that read one object at the same moment, each a process of its own, beside its gateway.

How it works. Each client loads what it needs, says so, and waits for the moment that all are told: a time of the
monotonic clock, which is one for all processes and namespaces of a machine. Then it reads the whole object as one
stream on a new connection, without a second try, and reports when the last byte came, and the bytes' crc32c.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from proxy.blocks import update_sum
from proxy.objects import SumKind

BUFFER_BYTES = 1 << 20
LEAD_S = 0.3  # between the word and the moment: all have heard it by then
READY_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class GangRead:
    """`seconds` are from the common beginning. `error`: what made it fail, "" if nothing did."""

    seconds: float
    received_bytes: int
    crc32c: int
    error: str = ""


class Gang:
    """Clients of URLs, one each, with the prefixes of their commands; a context manager."""

    def __init__(self, clients: Sequence[tuple[str, Sequence[str]]], timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.began_s = 0.0
        self._processes: list[subprocess.Popen[str]] = []
        try:
            for url, prefix in clients:
                command = [*prefix, sys.executable, "-m", "bench.gang", url, str(timeout_s)]
                self._processes.append(
                    subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                )
            for process in self._processes:
                if _read_line(process) != "ready\n":
                    raise RuntimeError(f"client {process.args!r} did not start")
        except BaseException:
            self.stop()
            raise

    def go(self) -> None:
        """Returns when all have begun to read."""
        self.began_s = time.monotonic() + LEAD_S
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(f"{self.began_s!r}\n")
            process.stdin.flush()
        time.sleep(max(0.0, self.began_s - time.monotonic()))

    def kill(self, number: int) -> None:
        self._processes[number].kill()

    @property
    def done(self) -> int:
        """How many have ended."""
        return sum(process.poll() is not None for process in self._processes)

    def wait(self) -> list[GangRead]:
        """What each client found; one that was killed, or took too long, has failed."""
        return [self._found(process) for process in self._processes]

    def _found(self, process: subprocess.Popen[str]) -> GangRead:
        left_s = self.began_s + self.timeout_s + 10 - time.monotonic()
        text = ""
        with contextlib.suppress(subprocess.TimeoutExpired, BrokenPipeError):
            text = process.communicate(timeout=max(0.1, left_s))[0]
        if text.startswith("{"):
            return GangRead(**json.loads(text))
        return GangRead(time.monotonic() - self.began_s, 0, 0, f"no answer (status {process.poll()})")

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            with contextlib.suppress(ValueError, BrokenPipeError):  # read to its end already
                process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def file_sum(path: Path) -> int:
    """The crc32c of a file."""
    crc = 0
    with path.open("rb") as file:
        while data := file.read(BUFFER_BYTES):
            crc = update_sum(SumKind.CRC32C, memoryview(data), crc)
    return crc


def read_object(url: str, began_s: float, timeout_s: float) -> GangRead:
    """Reads it whole, into one buffer that is summed and overwritten."""
    place = urlsplit(url)
    buffer, crc, received_bytes, length = memoryview(bytearray(BUFFER_BYTES)), 0, 0, -1
    try:
        with socket.create_connection((place.hostname, place.port), timeout_s) as connection:
            connection.sendall(f"GET {place.path} HTTP/1.1\r\nHost: {place.netloc}\r\n\r\n".encode())
            head, body = _receive_head(connection)
            length = _length(head)
            crc = update_sum(SumKind.CRC32C, memoryview(body), crc)
            received_bytes = len(body)
            while received_bytes < length:
                count = connection.recv_into(buffer, min(BUFFER_BYTES, length - received_bytes))
                if count == 0:
                    raise ConnectionError("closed in mid-answer")
                crc = update_sum(SumKind.CRC32C, buffer[:count], crc)
                received_bytes += count
    except (OSError, ValueError) as error:
        failed = f"{error!r} after {received_bytes} of {length} bytes"
        return GangRead(time.monotonic() - began_s, received_bytes, crc, failed)
    return GangRead(time.monotonic() - began_s, received_bytes, crc)


def _receive_head(connection: socket.socket) -> tuple[bytes, bytes]:
    received = b""
    while b"\r\n\r\n" not in received:
        data = connection.recv(65536)
        if not data:
            raise ConnectionError("closed before an answer")
        received += data
    head, _, body = received.partition(b"\r\n\r\n")
    return head, body


def _length(head: bytes) -> int:
    status, *lines = head.decode("latin-1").split("\r\n")
    if status.split()[1] != "200":
        raise ValueError(status)
    return next(int(line.partition(":")[2]) for line in lines if line.lower().startswith("content-length:"))


def _read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def _main(url: str, timeout_s: str) -> None:
    update_sum(SumKind.CRC32C, memoryview(b"loaded"))
    print("ready", flush=True)
    line = sys.stdin.readline()
    if line:
        began_s = float(line)
        time.sleep(max(0.0, began_s - time.monotonic()))
        print(json.dumps(asdict(read_object(url, began_s, float(timeout_s)))), flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
