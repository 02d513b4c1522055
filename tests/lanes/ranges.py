"""A surface whose hot answers and whose application say the same: bytes of one file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from proxy.blocks import DataFile, Piece
from proxy.lanes.asgi import PiecesResponse, Receive, Scope, Send
from proxy.lanes.connection import Limits
from proxy.lanes.express import ExpressProtocol
from proxy.lanes.hot import Fields, HotAnswer, HotLane, HotLine, render_lines
from proxy.metrics import tally
from tests.fakes.certificates import Certificates
from tests.lanes.serving import CONTENT, Client, Serving, open_file, pieces

BIG = 2_900_000  # parks: the buffers are smaller


class Ranges(HotLane):
    """`/START-END[,START-END...]` is hot: those bytes of the file. Everything else is the application's."""

    def __init__(self, data: Path, log: Callable[[HotLine], None] | None = None) -> None:
        super().__init__(self._answer, on_read_error=self._note_error, log=log)
        self.data = data
        self.asked: list[tuple[bytes, Fields]] = []
        self.read_errors: list[OSError] = []

    def _answer(self, method: bytes, target: bytes, fields: Fields) -> HotAnswer | None:
        self.asked.append((target, fields))
        if b"-" not in target:
            return None
        file = open_file(self.data)
        body = [Piece(file, start, end - start) for start, end in spans(target.rpartition(b"/")[2].decode())]
        length = sum(piece.length for piece in body)
        head = render_lines((("content-length", str(length)), ("x-lane", "hot")))
        assert head is not None
        if method == b"HEAD" or not length:
            return HotAnswer(200, head + b"\r\n", (), 0, tally("Test", 200, "express", "HIT"))
        return HotAnswer(200, head + b"\r\n", body, length, tally("Test", 200, "express", "HIT"))

    def _note_error(self, file: DataFile, error: OSError) -> None:
        assert file.fd >= 0
        self.read_errors.append(error)


def spans(target: str) -> list[tuple[int, int]]:
    return [(int(first), int(end)) for first, end in (span.split("-") for span in target.strip("/").split(","))]


class Application:
    """The same bytes, or for other paths the path."""

    def __init__(self, data: Path) -> None:
        self._data = data

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].encode()
        if b"-" in path:
            file = open_file(self._data)
            body = [Piece(file, start, end - start) for start, end in spans(scope["path"])]
            length = sum(piece.length for piece in body)
            await PiecesResponse(200, [("x-lane", "app")], pieces(*body), length)(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(path))]})
        await send({"type": "http.response.body", "body": path})


def serve(lane: Ranges, loop: str, limits: Limits | None = None, tls: Certificates | None = None) -> Serving:
    files = None if tls is None else (tls.server_file, tls.key_file)
    return Serving(Application(lane.data), loop, http=ExpressProtocol.limited(limits or Limits(), lane), tls=files)


def ask(*targets: str) -> bytes:
    return b"".join(b"GET %b HTTP/1.1\r\nHost: here\r\n\r\n" % target.encode() for target in targets)


def expect(client: Client, target: str, lane: str | None = "hot") -> None:
    """The next answer is this target's, by that lane."""
    status, headers, body = client.read_response()
    assert status == 200
    if "-" not in target:
        assert body == target.encode()
        return
    assert headers["x-lane"] == lane or lane is None
    assert "date" in headers
    assert body == b"".join(CONTENT[start:end] for start, end in spans(target))
