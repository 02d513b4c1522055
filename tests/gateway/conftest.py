"""A gateway for each test, in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.gateway.engine import Engine
from tests.gateway.writable_bucket import WritableBucket


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    engine = Engine(tmp_path)
    yield engine
    await engine.aclose()


@pytest.fixture
async def writable(tmp_path: Path) -> AsyncIterator[WritableBucket]:
    writable = WritableBucket(tmp_path)
    yield writable
    await writable.forwarder.aclose()
    await writable.engine.aclose()
