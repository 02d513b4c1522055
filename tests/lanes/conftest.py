"""A file, a loop, and a client that is in no hurry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.certificates import Certificates, make_certificates
from tests.lanes.serving import (
    CONTENT,
    LOOPS,
    Bodies,
    Client,
    Serving,
    whole,
)


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def parked(data: Path, loop: str) -> Iterator[tuple[Serving, Bodies, Client]]:
    """A client that has read its head and takes nothing of its body."""
    app = whole(data)
    with Serving(app, loop) as serving, serving.connect(rcvbuf_bytes=16 << 10) as client:
        client.get()
        client.read_head()
        yield serving, app, client


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest, certificates: Certificates) -> Certificates | None:
    return certificates if request.param == "tls" else None
