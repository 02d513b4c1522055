"""A node with one disk, and one with three; the same for key records alone, and a process's store of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.cache.keys import KeyStore
from tests.cache.key_nodes import KeyNode
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


@pytest.fixture
def key_node(tmp_path: Path) -> Iterator[KeyNode]:
    node = KeyNode([tmp_path / "v1"])
    yield node
    node.tables.close()


@pytest.fixture
def key_node_of_three(tmp_path: Path) -> Iterator[KeyNode]:
    node = KeyNode([tmp_path / name / "v1" for name in "abc"])
    yield node
    node.tables.close()


@pytest.fixture
def keys(key_node: KeyNode) -> KeyStore:
    return key_node.store()
