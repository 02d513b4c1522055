"""Load the model as a model loader does: each file as one stream, shards in parallel, every byte checked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.blocks import update_sum
from proxy.cli.demo.model import ModelFile
from proxy.objects import SumKind

if TYPE_CHECKING:
    from obstore.store import ObjectStore

STREAMS = 4  # files read side by side
CHUNK_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Load:
    """One pass over the model. `seconds` is wall time from the first request to the last byte."""

    name: str
    seconds: float
    received_bytes: int

    @property
    def gb_per_s(self) -> float:
        return self.received_bytes / self.seconds / 1e9


class WrongBytes(Exception):
    """Raised when a file did not arrive as it was made."""


async def load_model(
    name: str, endpoint: str, bucket: str, prefix: str, files: Sequence[ModelFile], advance: Callable[[int], None]
) -> Load:
    """Read all files through an S3 endpoint; `advance` is called with each chunk's size. Raises WrongBytes."""
    from obstore.store import S3Store  # the demo's own dependency

    store = S3Store(
        bucket,
        endpoint=endpoint,
        region="us-east-1",
        skip_signature=True,
        virtual_hosted_style_request=False,
        client_options={"allow_http": True, "timeout": "10m"},
    )
    began = time.perf_counter()
    turn = asyncio.Semaphore(STREAMS)

    async def read(file: ModelFile) -> None:
        async with turn:
            await _read_file(store, f"{prefix}{file.name}", file, advance)

    await asyncio.gather(*(read(file) for file in files))
    return Load(name, time.perf_counter() - began, sum(file.size_bytes for file in files))


async def _read_file(store: ObjectStore, path: str, file: ModelFile, advance: Callable[[int], None]) -> None:
    import obstore

    answer = await obstore.get_async(store, path)
    received_bytes, crc = 0, 0
    async for chunk in answer.stream(min_chunk_size=CHUNK_BYTES):
        view = memoryview(chunk)
        crc = update_sum(SumKind.CRC32C, view, crc)
        received_bytes += len(view)
        advance(len(view))
    if (received_bytes, crc) != (file.size_bytes, file.crc32c):
        raise WrongBytes(f"{file.name}: {received_bytes} bytes with crc32c {crc:08x} arrived")
