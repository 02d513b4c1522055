"""Checksums that a client sends with an upload, computed here where nobody behind us can check them.

How it works. The last piece of the data is held back until everything that came before it has been summed and compared:
on a mismatch it is never released, and the origin, which waits for the announced length, commits nothing.
Source: Amazon S3 User Guide, "Checking object integrity".
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Protocol

from proxy.blocks import update_sum
from proxy.errors import InvalidRequest
from proxy.objects import SumKind

CHECKSUM = "x-amz-checksum-"


class Sum(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def digest(self) -> bytes: ...


class _Crc:
    """One of the CRCs with the interface of hashlib; big-endian, as S3 writes them."""

    def __init__(self, kind: SumKind) -> None:
        self._kind = kind
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = update_sum(self._kind, memoryview(data), self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(8 if self._kind is SumKind.CRC64NVME else 4, "big")


SUMS: dict[str, Callable[[], Sum]] = {
    "x-amz-checksum-crc32": lambda: _Crc(SumKind.CRC32),
    "x-amz-checksum-crc32c": lambda: _Crc(SumKind.CRC32C),
    "x-amz-checksum-crc64nvme": lambda: _Crc(SumKind.CRC64NVME),
    "x-amz-checksum-sha1": lambda: hashlib.sha1(usedforsecurity=False),
    "x-amz-checksum-sha256": hashlib.sha256,
    "x-amz-checksum-sha512": hashlib.sha512,
    "x-amz-checksum-md5": lambda: hashlib.md5(usedforsecurity=False),
}


def compare(name: str, claimed: str, digest: bytes) -> None:
    """Raises InvalidRequest("BadDigest") where the client's value (base64) is not the data's."""
    try:
        equal = base64.b64decode(claimed, validate=True) == digest
    except ValueError:  # not base64, or not even ASCII
        equal = False
    if not equal:
        algorithm = name.removeprefix(CHECKSUM).upper()
        raise InvalidRequest("BadDigest", f"The {algorithm} you specified did not match the calculated checksum.")


async def verified(claimed: Mapping[str, str], body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The data; raises InvalidRequest before the last piece where a checksum (by its header's name) is wrong."""
    sums = {name: SUMS[name]() for name in claimed}
    held = b""
    async for piece in body:
        for checksum in sums.values():
            checksum.update(piece)
        if held:
            yield held
        held = piece
    for name, checksum in sums.items():
        compare(name, claimed[name], checksum.digest())
    if held:
        yield held
