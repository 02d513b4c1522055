"""Under TLS the same bodies go through the transport; on other servers, and without a descriptor, as chunks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from proxy.blocks import Piece
from proxy.lanes.asgi import ZEROCOPY
from proxy.lanes.connection import TARGET
from tests.fakes.certificates import Certificates
from tests.lanes.serving import (
    CONTENT,
    SIZE,
    Bodies,
    Serving,
    open_file,
    pieces,
    spans,
)
from tests.waiting import wait_until


def test_bodies_go_through_the_transport_under_tls(data: Path, loop: str, certificates: Certificates) -> None:
    app = spans(data, (5, 1_000_000), (0, 5), (SIZE - 1, SIZE))
    tls = (certificates.server_file, certificates.key_file)
    with Serving(app, loop, tls=tls) as serving, serving.connect(tls=True) as client:
        for _ in range(2):
            client.get()
            assert client.read_response()[2] == CONTENT[5:1_000_000] + CONTENT[:5] + CONTENT[-1:]
    assert ZEROCOPY in app.scopes[0]["extensions"]
    assert app.scopes[0]["extensions"][TARGET]["raw"] == b"/"


def test_tls_client_that_goes_in_mid_body_ends_the_read(data: Path, loop: str, certificates: Certificates) -> None:
    taken = 0

    async def many(piece: Piece) -> AsyncIterator[Piece]:
        nonlocal taken
        for _ in range(1000):
            taken += 1
            yield piece

    app = Bodies(lambda scope: (many(Piece(open_file(data), 0, SIZE)), SIZE * 1000))
    tls = (certificates.server_file, certificates.key_file)
    with Serving(app, loop, tls=tls) as serving, serving.connect(tls=True) as client:
        client.get()
        client.read_head()
        client.reset()
        wait_until(lambda: app.closed == 1)
    assert taken < 100  # the loop had its turns meanwhile, and saw the reset


def test_tls_body_that_fails_is_cut_short(data: Path, loop: str, certificates: Certificates) -> None:
    app = Bodies(lambda scope: (pieces(Piece(open_file(data), 0, 500_000), ValueError("broken")), 500_001))
    tls = (certificates.server_file, certificates.key_file)
    with Serving(app, loop, tls=tls) as serving, serving.connect(tls=True) as client:
        client.get()
        client.read_head()
        assert client.read_to_end() == CONTENT[:500_000]


def test_bodies_go_as_chunks_on_another_server(data: Path, loop: str) -> None:
    app = spans(data, (5, 1_000_000), (0, 5))
    with Serving(app, loop, http=HttpToolsProtocol) as serving, serving.connect() as client:
        for _ in range(2):
            client.get()
            assert client.read_response()[2] == CONTENT[5:1_000_000] + CONTENT[:5]
