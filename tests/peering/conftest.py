"""A station that has an object of two blocks at its origin, and who asks it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from proxy.peering import blocks as blocks_module
from tests.peering.answering_node import CONTENT, Asker, Station, start_asker, start_station


@pytest_asyncio.fixture
async def station(tmp_path: Path) -> AsyncIterator[Station]:
    async with start_station(tmp_path, CONTENT) as made:
        yield made


@pytest_asyncio.fixture
async def asker(station: Station) -> AsyncIterator[Asker]:
    async with start_asker(station) as made:
        yield made


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is named as a source before its time."""
    monkeypatch.setattr(blocks_module, "PATIENCE_S", 0.05)
