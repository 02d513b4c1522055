"""Log lines: JSON in a pipe, text on a terminal, and nothing of a query in either."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from proxy.lanes.hot import HotLine
from proxy.process.logs import AccessLog, Message, Receive, Send, log_hot_answer, start_logging


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """The root logger as pytest left it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)


def test_a_pipe_gets_one_json_object_for_each_line() -> None:
    stream = io.StringIO()
    start_logging("worker-0", stream=stream)
    logging.getLogger("warmstart.x").info("brought %d\nblocks", 3, extra={"fields": {"origin": "s3://h", "n": 3}})
    [line] = stream.getvalue().splitlines()
    parsed = json.loads(line)
    assert parsed.pop("time").endswith("Z")
    assert parsed == {
        "level": "info",
        "process": "worker-0",
        "logger": "warmstart.x",
        "message": "brought 3\nblocks",
        "origin": "s3://h",
        "n": 3,
    }


def test_a_traceback_is_one_field_of_the_line() -> None:
    stream = io.StringIO()
    start_logging("p", stream=stream)
    try:
        raise ValueError("boom")
    except ValueError:
        logging.getLogger("x").exception("failed")
    [line] = stream.getvalue().splitlines()
    assert "ValueError: boom" in json.loads(line)["exception"]


def test_an_answer_that_was_broken_off_on_purpose_is_no_error() -> None:
    stream = io.StringIO()
    start_logging("worker-0", stream=stream)
    for error in (ConnectionAbortedError("the other node is told by a short body"), ValueError("a bug")):
        try:
            raise error
        except Exception:
            logging.getLogger("uvicorn.error").exception("Exception in ASGI application")
    [line] = stream.getvalue().splitlines()
    assert "a bug" in line


def test_a_terminal_gets_readable_text() -> None:
    stream = Terminal()
    start_logging("supervisor", stream=stream)
    logging.getLogger("x").info("serving", extra={"fields": {"pid": 7}})
    logging.getLogger("x").warning("careful")
    first, second = stream.getvalue().splitlines()
    assert first.endswith("supervisor  serving pid=7")
    assert "warning: careful" in second


@pytest.mark.parametrize(("form", "stream", "is_json"), [("text", io.StringIO(), False), ("json", Terminal(), True)])
def test_the_form_can_be_fixed(form: str, stream: io.StringIO, is_json: bool) -> None:
    start_logging("p", form=form, stream=stream)
    logging.getLogger("x").info("hello")
    assert stream.getvalue().startswith("{") is is_json


def test_the_level_is_obeyed_and_chatty_libraries_are_quieter() -> None:
    stream = io.StringIO()
    start_logging("p", level="info", stream=stream)
    logging.getLogger("x").debug("no")
    logging.getLogger("httpx").info("no")
    logging.getLogger("uvicorn.error").info("no")
    logging.getLogger("botocore.credentials").info("no")
    logging.getLogger("httpx").warning("yes")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["yes"]


async def access_line(messages: list[Message], scope: dict[str, Any]) -> dict[str, Any]:
    stream = io.StringIO()
    start_logging("p", stream=stream)

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {}

    await AccessLog(app)(scope, receive, send)
    assert sent == messages
    line: dict[str, Any] = json.loads(stream.getvalue())
    return line


async def test_the_access_log_tells_status_bytes_cache_and_time_but_no_query() -> None:
    line = await access_line(
        [
            {"type": "http.response.start", "status": 206, "headers": [(b"X-Cache", b"HIT")]},
            {"type": "http.response.body", "body": b"12345", "more_body": True},
            {"type": "http.response.zerocopysend", "file": 3, "count": 95},
        ],
        {
            "type": "http",
            "method": "GET",
            "path": "/b/a key",
            "raw_path": b"/b/a%20key?X-Amz-Signature=hush",
            "query_string": b"X-Amz-Signature=hush",
            "client": ("10.0.0.9", 5),
        },
    )
    assert line["message"] == "GET /b/a%20key"
    assert (line["status"], line["bytes"], line["cache"], line["client"]) == (206, 100, "HIT", "10.0.0.9")
    assert line["ms"] >= 0
    assert "hush" not in json.dumps(line)


async def test_an_answer_that_never_began_has_the_status_0() -> None:
    line = await access_line([], {"type": "http", "method": "GET", "path": "/b", "raw_path": b"/b", "client": None})
    assert (line["status"], line["client"]) == (0, "-")


async def test_a_hot_answer_has_the_same_line_with_its_own_time() -> None:
    messages: list[Message] = [
        {"type": "http.response.start", "status": 206, "headers": [(b"X-Cache", b"HIT")]},
        {"type": "http.response.zerocopysend", "count": 1000},
    ]
    scope = {"type": "http", "method": "GET", "path": "/b/k", "raw_path": b"/b/k", "client": ("10.0.0.1", 5)}
    other = await access_line(messages, scope)
    stream = io.StringIO()
    start_logging("p", stream=stream)
    log_hot_answer(HotLine("GET", "/b/k", 206, "HIT", 1000, 0.0123, "10.0.0.1", 1_800_000_000.25))
    line = json.loads(stream.getvalue())
    assert line.keys() == other.keys()
    assert (line["time"], line["ms"]) == ("2027-01-15T08:00:00.250Z", 12.3)
    different = {"time", "ms"}
    assert {name: value for name, value in line.items() if name not in different} == {
        name: value for name, value in other.items() if name not in different
    }
