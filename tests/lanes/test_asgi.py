"""PiecesResponse against a scripted server: what it sends, and how it ends."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from proxy.blocks import DataFile, Piece
from proxy.lanes.asgi import ZEROCOPY, BodyLengthWrong, PiecesResponse
from proxy.metrics import SENT_BYTES

CONTENT = bytes(range(256)) * 4096  # 1 MiB


class Server:
    """The server's end of an ASGI call: keeps what was sent, disconnects when told."""

    def __init__(self, *, method: str = "GET", zerocopy: bool = False) -> None:
        self.scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "extensions": {ZEROCOPY: {}} if zerocopy else {},
        }
        self.messages: list[dict[str, Any]] = []
        self.receives = 0
        self.listened = asyncio.Event()
        self.gone = asyncio.Event()
        self.refuse: Callable[[dict[str, Any]], BaseException | None] = lambda message: None

    async def receive(self) -> dict[str, Any]:
        self.receives += 1
        self.listened.set()
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if (error := self.refuse(message)) is not None:
            raise error
        self.messages.append(dict(message))

    async def run(self, response: PiecesResponse) -> None:
        await response(self.scope, self.receive, self.send)

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.messages if message["type"] == "http.response.body")

    @property
    def complete(self) -> bool:
        return len(self.messages) > 1 and not self.messages[-1].get("more_body", False)


class Body:
    """Yields its items; an Event among them is waited for, an exception is raised."""

    def __init__(self, *items: Piece | bytes | asyncio.Event | BaseException) -> None:
        self.items = list(items)
        self.taken = 0
        self.closed = 0

    def __aiter__(self) -> AsyncIterator[Piece | bytes]:
        return self

    async def __anext__(self) -> Piece | bytes:
        while self.items:
            item = self.items.pop(0)
            if isinstance(item, asyncio.Event):
                await item.wait()
            elif isinstance(item, BaseException):
                raise item
            else:
                self.taken += 1
                return item
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closed += 1


def response(body: Body | None, length: int | None, status: int = 200, **options: Any) -> PiecesResponse:
    return PiecesResponse(status, [("ETag", '"a"')], body, length, **options)


@pytest.fixture
def file(tmp_path: Path) -> DataFile:
    path = tmp_path / "data"
    path.write_bytes(CONTENT)
    return DataFile(os.open(path, os.O_RDONLY))


def sent(source: str) -> float:
    return float(SENT_BYTES.labels(source)._value.get())


async def test_pieces_and_bytes_are_sent_in_order_as_chunks(file: DataFile) -> None:
    server, body = Server(), Body(Piece(file, 10, 600_000), b"between", Piece(file, 0, 3), b"")
    disk, memory = sent("disk"), sent("memory")
    await server.run(response(body, 600_010))
    assert server.body == CONTENT[10:600_010] + b"between" + CONTENT[:3]
    assert server.messages[0]["headers"] == [(b"etag", b'"a"'), (b"content-length", b"600010")]
    assert max(len(message.get("body", b"")) for message in server.messages) == 256 << 10
    assert server.complete
    assert body.closed == 1
    assert (sent("disk") - disk, sent("memory") - memory) == (600_003, 7)


async def test_pieces_go_by_zerocopy_where_the_server_has_it(file: DataFile) -> None:
    server = Server(zerocopy=True)
    await server.run(response(Body(Piece(file, 5, 90), b"x"), 91))
    assert server.messages[1:] == [
        {"type": ZEROCOPY, "file": file, "offset": 5, "count": 90, "more_body": True},
        {"type": "http.response.body", "body": b"x", "more_body": False},
    ]


async def test_body_that_answers_at_once_costs_no_listener(file: DataFile) -> None:
    server = Server(zerocopy=True)
    await server.run(response(Body(*[Piece(file, 0, 10)] * 50), 500))
    assert server.complete
    assert server.receives == 0


@pytest.mark.parametrize("zerocopy", [True, False])
async def test_client_that_goes_while_the_body_waits_ends_the_response(file: DataFile, zerocopy: bool) -> None:
    server, body = Server(zerocopy=zerocopy), Body(Piece(file, 0, 10), asyncio.Event(), Piece(file, 10, 10))
    running = asyncio.create_task(server.run(response(body, 20)))
    await server.listened.wait()
    server.gone.set()
    await asyncio.wait_for(running, 5)
    assert not server.complete
    assert (body.taken, body.closed, server.receives) == (1, 1, 1)
    assert running.cancelling() == 0


async def test_send_that_reports_a_lost_connection_ends_the_response_quietly(file: DataFile) -> None:
    server, body = Server(zerocopy=True), Body(Piece(file, 0, 10), Piece(file, 10, 10))
    server.refuse = lambda message: ConnectionResetError() if message["type"] == ZEROCOPY else None
    await server.run(response(body, 20))
    assert (len(server.messages), body.taken, body.closed) == (1, 1, 1)


async def test_lost_connection_of_the_body_itself_is_raised() -> None:
    server, body = Server(), Body(b"ab", ConnectionResetError())
    with pytest.raises(ConnectionResetError):
        await server.run(response(body, 5))
    assert not server.complete
    assert body.closed == 1


@pytest.mark.parametrize("zerocopy", [True, False])
async def test_failure_in_the_body_is_raised_before_the_response_is_complete(file: DataFile, zerocopy: bool) -> None:
    server, body = Server(zerocopy=zerocopy), Body(Piece(file, 0, 10), ValueError("broken"))
    with pytest.raises(ValueError, match="broken"):
        await server.run(response(body, 20))
    assert not server.complete
    assert body.closed == 1


async def test_body_that_ends_early_is_never_completed(file: DataFile) -> None:
    server = Server()
    with pytest.raises(BodyLengthWrong, match="1 bytes shorter"):
        await server.run(response(Body(Piece(file, 0, 10)), 11))
    assert not server.complete


async def test_body_that_is_too_long_is_never_completed(file: DataFile) -> None:
    server = Server()
    with pytest.raises(BodyLengthWrong, match="3 bytes longer"):
        await server.run(response(Body(b"abc", Piece(file, 0, 10)), 10))
    assert server.body == b"abc"
    assert not server.complete


async def test_file_that_ends_inside_a_piece_is_an_error(file: DataFile) -> None:
    server = Server()
    with pytest.raises(BodyLengthWrong, match="file ends"):
        await server.run(response(Body(Piece(file, len(CONTENT) - 10, 11)), 11))
    assert not server.complete


async def test_body_is_closed_and_not_run_on_when_all_was_taken() -> None:
    server, body = Server(), Body(b"abc", ValueError("never reached"))
    await server.run(response(body, 3))
    assert server.complete
    assert body.closed == 1


@pytest.mark.parametrize(("method", "length"), [("HEAD", 10), ("GET", 0)])
async def test_bodiless_answer_closes_the_body_untouched(file: DataFile, method: str, length: int) -> None:
    server, body = Server(method=method), Body(Piece(file, 0, 10))
    await server.run(response(body, length))
    assert (server.body, body.taken, body.closed) == (b"", 0, 1)
    assert (b"content-length", b"%d" % length) in server.messages[0]["headers"]
    assert server.complete


async def test_not_modified_has_no_length() -> None:
    server = Server()
    await server.run(response(None, 0, status=304))
    assert server.messages[0]["headers"] == [(b"etag", b'"a"')]
    assert server.complete


async def test_body_of_unknown_length_runs_to_its_end() -> None:
    server, body = Server(), Body(b"ab", b"c")
    before = sent("forward")
    await server.run(response(body, None, memory_source="forward"))
    assert server.body == b"abc"
    assert server.complete
    assert sent("forward") - before == 3


async def test_length_given_as_a_header_is_not_sent_twice() -> None:
    server = Server()
    await server.run(PiecesResponse(200, [("Content-Length", "3")], None, 3))
    assert server.messages[0]["headers"] == [(b"content-length", b"3")]


@pytest.mark.parametrize("zerocopy", [True, False])
async def test_cancelled_response_is_cancelled_and_closes_its_body(file: DataFile, zerocopy: bool) -> None:
    server, body = Server(zerocopy=zerocopy), Body(Piece(file, 0, 10), asyncio.Event())
    running = asyncio.create_task(server.run(response(body, 20)))
    await server.listened.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert body.closed == 1


@pytest.mark.parametrize("zerocopy", [True, False])
async def test_a_file_that_can_not_be_read_is_told_before_the_response_breaks_off(
    file: DataFile, zerocopy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = OSError(errno.EIO, "Input/output error")

    def failing(*_: object) -> bytes:
        raise broken

    monkeypatch.setattr(os, "pread", failing)
    server, told = Server(zerocopy=zerocopy), list[tuple[DataFile, OSError]]()
    server.refuse = lambda message: broken if message["type"] == ZEROCOPY else None
    with pytest.raises(OSError, match="Input/output error"):
        await server.run(response(Body(Piece(file, 0, 10)), 10, on_read_error=lambda *error: told.append(error)))
    assert told == [(file, broken)]


async def test_a_client_that_goes_is_no_error_of_the_file_it_was_sent(file: DataFile) -> None:
    server, told = Server(zerocopy=True), list[tuple[DataFile, OSError]]()
    server.refuse = lambda message: ConnectionResetError() if message["type"] == ZEROCOPY else None
    await server.run(response(Body(Piece(file, 0, 10)), 10, on_read_error=lambda *error: told.append(error)))
    assert told == []
