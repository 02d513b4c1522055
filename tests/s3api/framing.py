"""An encoder of `aws-chunked` bodies, as SDKs write them."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Iterable, Mapping

from proxy.blocks import update_sum
from proxy.objects import SumKind

CRC32 = "x-amz-checksum-crc32"


def encode_chunked(
    chunks: Iterable[bytes],
    trailers: Mapping[str, str] | None = None,
    *,
    signed: bool = False,
    newline: bytes = b"\r\n",
    end: bytes = b"\r\n",
) -> bytes:
    """The framed body of these chunks (none of them empty) with these trailers."""
    extension = b";chunk-signature=" + b"5" * 64 if signed else b""
    framed = b"".join(b"%x%s\r\n%s\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    framed += b"0%s\r\n" % extension
    framed += b"".join(f"{name}:{value}".encode() + newline for name, value in (trailers or {}).items())
    if signed and trailers:
        framed += b"x-amz-trailer-signature:" + b"6" * 64 + b"\r\n"
    return framed + end


def checksum(name: str, data: bytes) -> str:
    """The value of a checksum header, independent of the decoder where the standard library can compute it."""
    match name.removeprefix("x-amz-checksum-"):
        case "crc32":
            raw = zlib.crc32(data).to_bytes(4, "big")
        case "crc32c":
            raw = update_sum(SumKind.CRC32C, memoryview(data)).to_bytes(4, "big")
        case "crc64nvme":
            raw = update_sum(SumKind.CRC64NVME, memoryview(data)).to_bytes(8, "big")
        case algorithm:
            raw = hashlib.new(algorithm, data).digest()
    return base64.b64encode(raw).decode()
