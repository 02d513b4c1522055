"""A node with one disk, and one with three."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cache.nodes import Node


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "disk")
    yield node
    node.close()


@pytest.fixture
def node_of_three(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "one", tmp_path / "two", tmp_path / "three")
    yield node
    node.close()
