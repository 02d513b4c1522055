"""Every asynchronous test of the wire runs on asyncio's own loop and on uvloop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import pytest_asyncio
import uvloop

from proxy.wire import WireClient
from tests.fakes.certificates import Certificates, make_certificates


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest_asyncio.fixture
async def client() -> AsyncIterator[WireClient]:
    made = WireClient()
    yield made
    await made.aclose()


@pytest.fixture
def blob(tmp_path: Path) -> bytes:
    """3 MB in which every position is recognisable."""
    return b"".join(number.to_bytes(4, "big") for number in range(750_000))
