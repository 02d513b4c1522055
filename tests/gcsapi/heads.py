"""Request heads written short: `read("GET", "/storage/v1/b/w/o/x?alt=media", range="bytes=0-9")`."""

from __future__ import annotations

from gcsapi.requests import Operation, Pass, Read, parse_request


def parse(method: str, target: str, **headers: str) -> Operation:
    raw = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    return parse_request(method, target.encode(), [(b"host", b"127.0.0.1:9000"), *raw], ("goog.test",))


def read(method: str, target: str, **headers: str) -> Read:
    operation = parse(method, target, **headers)
    assert isinstance(operation, Read)
    return operation


def passed(method: str, target: str, **headers: str) -> Pass:
    operation = parse(method, target, **headers)
    assert isinstance(operation, Pass)
    return operation
