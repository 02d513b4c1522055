"""A fleet that several tests of a module share, whole again after each: the module's `started` makes it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fleet.fleet import Fleet


@pytest.fixture
def fleet(started: Fleet) -> Iterator[Fleet]:
    yield started
    started.cloud.release()
    started.restore()
