"""What both lanes are asked, byte for byte, and what they answer, less what belongs to one answer."""

from __future__ import annotations

import os
import random
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tests.agreement.lanes import BLOCK_BYTES

SIZES = (0, 1, 999, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES + 77, 20 * BLOCK_BYTES + 5)
KEYS = {f"size-{size}": size for size in SIZES} | {"dir/a b+c%é.bin": 5000, "-": 10}
MODIFIED_S = 1_700_000_000
REQUEST_ID = re.compile(rb"<(RequestId|HostId)>[^<]*</\1>")
OF_ONE_ANSWER = {"date", "x-amz-request-id", "x-amz-id-2", "x-guploader-uploadid"}


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def make_tree(root: Path) -> None:
    for key, size in KEYS.items():
        path = root / "models" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(key).randbytes(size))
        os.utime(path, (MODIFIED_S, MODIFIED_S))


@dataclass(frozen=True, slots=True)
class Asked:
    method: str
    target: str
    lines: tuple[str, ...] = ("Host: 127.0.0.1",)
    version: str = "1.1"

    @property
    def raw(self) -> bytes:
        return "\r\n".join([f"{self.method} {self.target} HTTP/{self.version}", *self.lines, "", ""]).encode()


def target_of(key: str) -> str:
    return f"/models/{quote(key)}"


def ask(port: int, wanted: Sequence[Asked]) -> list[Answer]:
    """All in one segment, on one connection; what comes until it closes, or all have been answered."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(b"".join(asked.raw for asked in wanted))
        stream = connection.makefile("rb")
        answers = []
        for asked in wanted:
            first = stream.readline()
            if not first:
                break
            headers = []
            while (line := stream.readline()) not in (b"\r\n", b""):
                name, _, value = line.decode("latin-1").rstrip("\r\n").partition(": ")
                headers.append((name, value))
            status = int(first.split()[1])
            length = int(dict(headers).get("content-length", "0"))
            if ("connection", "close") in headers:
                body = stream.read()
            else:
                body = b"" if asked.method == "HEAD" or status == 304 else stream.read(length)
            kept = tuple(pair for pair in headers if pair[0] not in OF_ONE_ANSWER)
            answers.append(Answer(status, kept, REQUEST_ID.sub(b"", body)))
            if ("connection", "close") in headers:
                break
        return answers
