"""A disk that fails while a cached object is being sent: it leaves service, and the next read gets its bytes."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from typing import Any

import pytest

from proxy.cache.shared import SharedTables
from proxy.composition.app import Parts, build_parts
from proxy.config.sources import Layer, check_layers
from proxy.lanes.asgi import ZEROCOPY

CONTENT = bytes(range(256)) * 1000


async def get(parts: Parts, *, failing: bool) -> list[dict[str, Any]]:
    """What the gateway sends for the object, by a server whose `sendfile` meets an error of the disk if `failing`."""
    messages: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        if failing and message["type"] == ZEROCOPY:
            raise OSError(errno.EIO, "Input/output error")
        messages.append(dict(message))

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/models/object",
        "raw_path": b"/models/object",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1")],
        "extensions": {ZEROCOPY: {}},
    }
    await parts.app(scope, receive, send)
    return messages


async def test_a_disk_that_fails_under_a_response_leaves_service_and_the_next_read_goes_past_it(tmp_path: Path) -> None:
    (tmp_path / "origin" / "models").mkdir(parents=True)
    (tmp_path / "origin" / "models" / "object").write_bytes(CONTENT)
    values = {
        "cache": {"disks": [{"path": str(tmp_path / "cache"), "size": "1GiB"}]},
        "origins": {"shelf": {"type": "file", "root": str(tmp_path / "origin")}},
    }
    (tmp_path / "cache").mkdir()
    tables = SharedTables.create()
    parts = build_parts(check_layers([Layer("test", values)]).settings, tables, "run", "writer")
    try:
        messages = await get(parts, failing=False)
        assert sum(message.get("count", 0) + len(message.get("body", b"")) for message in messages) == len(CONTENT)
        with pytest.raises(OSError, match="Input/output error"):
            await get(parts, failing=True)
        assert parts.store.disks[0].failed
        messages = await get(parts, failing=True)
        assert b"".join(message.get("body", b"") for message in messages) == CONTENT
    finally:
        await parts.aclose()
        tables.close()
