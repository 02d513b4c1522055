"""One gateway in this process, and one client that reads an object twice: to be followed with a debugger.

    .venv/bin/python -m tests.follow

How it works. A folder holds one object of three blocks. The gateway is built as a worker builds it, with both lanes,
and served by the main thread, where pdb looks; the client reads from another thread, and waits for as long as it takes.
The first read is cold. Once the disk has confirmed that it stored the blocks, the second one is hot: the express lane
answers it. docs/develop/follow-a-read.md has breakpoints.
"""

from __future__ import annotations

import asyncio
import random
import socket
import tempfile
from pathlib import Path

import httpx
import uvicorn

from proxy.cache.shared import SharedTables
from proxy.composition.app import build_parts
from proxy.config.settings import Settings
from proxy.lanes.connection import Limits
from proxy.lanes.express import ExpressProtocol
from proxy.lanes.hot import HotLane
from proxy.process.server import server_config
from tests.waiting import until

BLOCK_BYTES = 64 << 10
RANGE = b"bytes=0-99999"
CONTENT = random.Random(1).randbytes(2 * BLOCK_BYTES + 1000)


def make_settings(folder: Path) -> Settings:
    """The settings of one bucket, `models`, in a folder; nothing is checked again while it is looked at."""
    root = folder / "origin"
    (root / "models").mkdir(parents=True)
    (root / "models" / "weights.bin").write_bytes(CONTENT)
    return Settings.model_validate(
        {
            "cache": {"disks": [{"path": str(folder / "cache"), "size": "256MiB"}], "block_size": "64KiB"},
            "origins": {"shelf": {"type": "file", "root": str(root)}},
            "buckets": {"*": {"origin": "shelf", "consistency": "immutable"}},
        }
    )


def read(port: int, name: str) -> None:
    with httpx.Client(trust_env=False, timeout=None) as client:
        answer = client.get(f"http://127.0.0.1:{port}/models/weights.bin", headers={"range": RANGE.decode()})
    assert answer.content == CONTENT[:100_000]
    print(f"{name}: {answer.status_code}, {len(answer.content)} bytes, X-Cache: {answer.headers['x-cache']}")


async def follow(folder: Path) -> None:
    tables = SharedTables.create()
    parts = build_parts(make_settings(folder), tables, "run", "follow")
    protocol = ExpressProtocol.limited(Limits(), HotLane(parts.answer_hot))
    server = uvicorn.Server(server_config(parts.app, protocol, None, keep_alive_s=5, end_timeout_s=5))
    listener = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.ensure_future(server.serve([listener]))
    try:
        port = listener.getsockname()[1]
        await asyncio.to_thread(read, port, "cold")
        plain = {b"host": f"127.0.0.1:{port}".encode(), b"range": RANGE}
        await until(lambda: parts.answer_hot(b"GET", b"/models/weights.bin", plain), "the blocks are not stored")
        await asyncio.to_thread(read, port, "hot")
    finally:
        server.should_exit = True
        await serving
        await parts.aclose()
        tables.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(follow(Path(folder)))


if __name__ == "__main__":
    main()
