"""The head of a response: status line and headers, checked strictly.

httptools (llhttp) checks the grammar. This module decides the rest: which lengths and transfer codings are valid, and
that line folding, which RFC 9112 section 5.2 declares obsolete, is rejected.
"""

from __future__ import annotations

from dataclasses import dataclass

import httptools

from proxy.wire.errors import MalformedResponse

MAX_HEAD_BYTES = 64 << 10  # S3 allows 2 KiB of user metadata, GCS 8 KiB; proxies add a little
HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """Status and headers as received, with names in lower case and values stripped of surrounding blanks.

    `content_length` is the length of the body in bytes; None if it is known only at its end.
    """

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    content_length: int | None = None
    chunked: bool = False
    keep_alive: bool = True
    http_version: str = "1.1"

    def get(self, name: str) -> str | None:
        """Return the first value of that header; `name` is in lower case."""
        for own, value in self.headers:
            if own == name:
                return value
        return None

    @property
    def interim(self) -> bool:
        """Whether this is a 1xx head, before the actual response (RFC 9110 section 15.2)."""
        return self.status < 200


class _Fields:
    """The callbacks of httptools."""

    def __init__(self) -> None:
        self.pairs: list[tuple[str, str]] = []
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.pairs.append((name.decode("latin-1").lower(), value.decode("latin-1").strip(" \t")))

    def on_headers_complete(self) -> None:
        self.complete = True


def parse_head(raw: bytes) -> ResponseHead:
    """Parse all bytes up to and including the empty line. Raises MalformedResponse for an unacceptable head."""
    assert raw.endswith(HEAD_END)
    if b"\r\n " in raw or b"\r\n\t" in raw:
        raise MalformedResponse("a header is folded over lines")
    fields = _Fields()
    parser = httptools.HttpResponseParser(fields)
    try:
        parser.feed_data(raw)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
        raise MalformedResponse(f"not a response head: {error}") from error
    if not fields.complete:
        raise MalformedResponse("an empty line where a status line should be")
    return _judge(parser.get_status_code(), parser.get_http_version(), tuple(fields.pairs))


def _judge(status: int, version: str, headers: tuple[tuple[str, str], ...]) -> ResponseHead:
    if version not in ("1.0", "1.1"):
        raise MalformedResponse(f"HTTP version {version}")
    if not 100 <= status <= 599 or status == 101:
        raise MalformedResponse(f"status {status}")
    chunked = _parse_chunked(version, headers)
    content_length = _parse_content_length(headers)
    if chunked and content_length is not None:
        raise MalformedResponse("both Content-Length and Transfer-Encoding")
    if status < 200 or status in (204, 304):  # never a body, whatever the headers say (RFC 9112 section 6.3)
        chunked, content_length = False, 0
    keep_alive = version == "1.1" and "close" not in _list(headers, "connection")
    return ResponseHead(status, headers, content_length, chunked, keep_alive, version)


def _parse_chunked(version: str, headers: tuple[tuple[str, str], ...]) -> bool:
    """Return whether the coding is `chunked`, the only one supported, and not in HTTP/1.0 (RFC 9112 section 6.1)."""
    codings = _list(headers, "transfer-encoding")
    if not codings:
        return False
    if codings != ["chunked"] or version == "1.0":
        raise MalformedResponse(f"transfer coding {', '.join(codings)} in HTTP/{version}")
    return True


def _parse_content_length(headers: tuple[tuple[str, str], ...]) -> int | None:
    values = [value for name, value in headers if name == "content-length"]
    if not values:
        return None
    if len(set(values)) > 1:
        raise MalformedResponse("several different Content-Lengths")
    if not (values[0].isascii() and values[0].isdigit() and len(values[0]) <= 19):
        raise MalformedResponse(f"Content-Length {values[0]!r}")
    return int(values[0])


def _list(headers: tuple[tuple[str, str], ...], name: str) -> list[str]:
    """Return the items of a list header, in lower case, from all its lines."""
    items = [item.strip(" \t").lower() for own, value in headers if own == name for item in value.split(",")]
    return [item for item in items if item]
