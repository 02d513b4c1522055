"""What we rely on in uvicorn beyond its documented surface: an upgrade that changes it fails here, by name."""

from __future__ import annotations

import ast
import asyncio
import inspect
import textwrap
from typing import Any

import httptools
import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from proxy.lanes.connection import ClientConnection
from proxy.lanes.express import ExpressProtocol

OURS = {**vars(ClientConnection), **vars(ExpressProtocol)}


async def app(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("never run")


@pytest.fixture
def protocol() -> HttpToolsProtocol:
    config = uvicorn.Config(app, ws="none", lifespan="off", log_config=None, proxy_headers=False)
    return HttpToolsProtocol(config, ServerState(), {}, asyncio.new_event_loop())


def test_protocol_has_the_state_we_read(protocol: HttpToolsProtocol) -> None:
    assert protocol.app is app
    assert protocol.cycle is None
    assert len(protocol.pipeline) == 0
    assert isinstance(protocol.parser, httptools.HttpRequestParser)
    assert (protocol.transport, protocol.flow, protocol.scheme, protocol.client) == (None, None, None, None)
    assert protocol.root_path == ""
    assert protocol.server_state.default_headers == []
    assert protocol.server_state.total_requests == 0
    protocol.loop.close()


def test_protocol_calls_what_we_override() -> None:
    """Each is called by uvicorn, or by asyncio or the parser, under this name and with these arguments."""
    ours = {
        "connection_made": ["transport"],
        "connection_lost": ["exc"],
        "data_received": ["data"],
        "eof_received": [],
        "on_message_begin": [],
        "on_url": ["url"],
        "on_body": ["body"],
        "on_headers_complete": [],
        "on_message_complete": [],
        "on_response_complete": [],
        "pause_writing": [],
        "resume_writing": [],
        "send_400_response": ["msg"],
    }
    for name, arguments in ours.items():
        assert name in OURS, name
        assert list(inspect.signature(getattr(HttpToolsProtocol, name)).parameters)[1:] == arguments, name
    overridden = {name for name in OURS if name in vars(HttpToolsProtocol) and name[:2] != "__"}
    assert overridden == set(ours)


def test_protocol_is_given_header_lines_by_an_attribute_of_its_own(protocol: HttpToolsProtocol) -> None:
    """Set before uvicorn makes the parser, which keeps what it finds."""
    lines: list[tuple[bytes, bytes]] = []

    class Ours(HttpToolsProtocol):
        def __init__(self, *args: Any) -> None:
            self.on_header = lambda name, value: lines.append((name, value))  # type: ignore[method-assign]
            super().__init__(*args)

    ours = Ours(protocol.config, ServerState(), {}, protocol.loop)
    ours.on_headers_complete = lambda: None  # type: ignore[method-assign]
    ours.parser.feed_data(b"GET / HTTP/1.1\r\nA: b\r\n")
    ours.parser.feed_data(b"C: d\r\n")
    assert lines == [(b"A", b"b")]  # the parser gives a line away when it has seen what follows
    protocol.loop.close()


def test_protocol_has_no_private_names_that_ours_would_hide() -> None:
    private = {name for name in OURS if name.startswith("_") and not name.startswith("__")}
    assert private.isdisjoint(dir(HttpToolsProtocol))


def test_cycle_has_the_state_we_read_and_set() -> None:
    constructor = ast.parse(textwrap.dedent(inspect.getsource(RequestResponseCycle.__init__)))
    fields = {node.attr for node in ast.walk(constructor) if isinstance(node, ast.Attribute)}
    assert fields >= {
        "scope",
        "disconnected",
        "keep_alive",
        "waiting_for_100_continue",
        "more_body",
        "message_event",
        "response_started",
        "response_complete",
        "chunked_encoding",
        "expected_content_length",
    }


def test_application_is_called_with_a_bound_method_of_its_cycle() -> None:
    """`send.__self__` is how a request's cycle is found."""
    calls = [
        node
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(RequestResponseCycle.run_asgi))))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "app"
    ]
    assert [ast.unparse(call) for call in calls] == ["app(self.scope, self.receive, self.send)"]
    assert inspect.iscoroutinefunction(RequestResponseCycle.send)


def test_latest_pipelined_request_is_leftmost() -> None:
    source = inspect.getsource(HttpToolsProtocol)
    assert "self.pipeline.appendleft((self.cycle, app))" in source
    assert "self.pipeline.pop()" in source
