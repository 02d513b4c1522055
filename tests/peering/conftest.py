"""A node that has an object of two blocks at its origin, and who asks it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from proxy.peering import blocks as blocks_module
from tests.peering.answering_node import CONTENT, AnsweringNode, AskingNode, start_answering_node, start_asking_node


@pytest_asyncio.fixture
async def node(tmp_path: Path) -> AsyncIterator[AnsweringNode]:
    async with start_answering_node(tmp_path, CONTENT) as made:
        yield made


@pytest_asyncio.fixture
async def asking(node: AnsweringNode) -> AsyncIterator[AskingNode]:
    async with start_asking_node(node) as made:
        yield made


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is named as a source before its time."""
    monkeypatch.setattr(blocks_module, "PATIENCE_S", 0.05)
