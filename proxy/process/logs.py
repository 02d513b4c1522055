"""Log lines: readable on a terminal, one JSON object each in a pipe or a file.

Everything goes to standard error, one write for each line, so that lines of several processes never mix. Whatever is
passed as `extra={"fields": {...}}` becomes fields of the object, or `name=value` behind the text. Query strings
never reach a log: a presigned URL's query is a credential.
"""

from __future__ import annotations

import datetime
import json
import logging
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from proxy.lanes.hot import HotLine

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

access_log = logging.getLogger("warmstart.access")

_COLOURS = {"DEBUG": "\x1b[2m", "WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[31;1m"}
_PROBES = ("/-/health", "/-/ready", "/-/metrics")
_QUIET = {"uvicorn": logging.WARNING, "httpx": logging.WARNING, "httpcore": logging.WARNING}
_QUIET |= {"botocore": logging.WARNING, "urllib3": logging.WARNING, "asyncio": logging.WARNING}


def start_logging(process: str, *, level: str = "info", form: str = "auto", stream: TextIO | None = None) -> None:
    """Send all loggers to `stream` (standard error). `form` is auto, text or json; `process` names who speaks."""
    stream = stream or sys.stderr
    terminal = stream.isatty()
    text = form == "text" or (form == "auto" and terminal)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextLines(process, colours=terminal) if text else JsonLines(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(max(least, root.level))
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    logging.getLogger("asyncio").addFilter(_is_unsaid)
    logging.captureWarnings(True)


def _is_news(record: logging.LogRecord) -> bool:
    """An application that breaks an answer off, and has said why, is no error of the server's."""
    return record.exc_info is None or not isinstance(record.exc_info[1], ConnectionAbortedError)


def _is_unsaid(record: logging.LogRecord) -> bool:
    """A listener that can accept nothing more has said so itself, once."""
    return not record.getMessage().startswith("socket.accept() out of system resource")


class JsonLines(logging.Formatter):
    """time, level, process, logger, message; then the record's own fields, and the traceback as one string."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line = {
            "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": _logger_name(record.name),
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def _logger_name(name: str) -> str:
    """All loggers of the gateway stand below `warmstart`, whatever package a line comes from."""
    package, dot, rest = name.partition(".")
    if package in ("proxy", "s3api", "gcsapi"):
        return f"warmstart.{rest if package == 'proxy' else package + dot + rest}"
    return name


class TextLines(logging.Formatter):
    """`12:00:00 worker-0 message name=value`, with the level where it is not info."""

    def __init__(self, process: str, *, colours: bool) -> None:
        super().__init__()
        self._process = process
        self._colours = colours

    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        fields = "".join(f" {name}={value}" for name, value in getattr(record, "fields", {}).items())
        text = f"{when} {self._process:<11} {level}{record.getMessage()}{fields}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        colour = _COLOURS.get(record.levelname) if self._colours else None
        return f"{colour}{text}\x1b[0m" if colour else text


class AccessLog:
    """An ASGI application around another one: a line for each request when its answer has ended.

    `probes`: also for those that ask only how the gateway is.
    """

    def __init__(self, app: App, *, probes: bool = False) -> None:
        self._app = app
        self._left_out = () if probes else _PROBES

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or raw_path(scope) in self._left_out:
            await self._app(scope, receive, send)
            return
        began_s = time.perf_counter()
        fields: dict[str, Any] = {"status": 0, "bytes": 0}

        async def note(message: Message) -> None:
            if message["type"] == "http.response.start":
                fields["status"] = message["status"]
                headers = {name.lower(): value for name, value in message.get("headers", ())}
                fields["cache"] = headers.get(b"x-cache", b"-").decode("latin-1")
            elif message["type"] == "http.response.body":
                fields["bytes"] += len(message.get("body", b""))
            elif message["type"] == "http.response.zerocopysend":
                fields["bytes"] += message.get("count") or 0
            await send(message)

        try:
            await self._app(scope, receive, note)
        finally:
            fields["ms"] = round((time.perf_counter() - began_s) * 1000, 1)
            fields["client"] = (scope.get("client") or ("-",))[0]
            access_log.info("%s %s", scope["method"], raw_path(scope), extra={"fields": fields})


def log_hot_answer(line: HotLine) -> None:
    """The same line for an answer that no application gave, a moment later, with its own time."""
    if not access_log.isEnabledFor(logging.INFO):
        return
    text = ("%s %s", (line.method, line.path))
    record = access_log.makeRecord(access_log.name, logging.INFO, __file__, 0, *text, None)
    record.created = line.ended_s
    record.fields = {
        "status": line.status,
        "bytes": line.sent_bytes,
        "cache": line.cache,
        "ms": round(line.took_s * 1000, 1),
        "client": line.client,
    }
    access_log.handle(record)


def raw_path(scope: Message) -> str:
    """The request's path as it was sent, without its query."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode("utf-8", "surrogateescape")
    return raw.partition(b"?")[0].decode("latin-1")
