"""The table of hostile requests: what one client may send that must cost the others nothing. Add yours here.

`tests/hostile/test_worker.py` sends each to a running gateway and holds it to the same bounds. The gateway has a bucket
`b` with the objects `hit` (cached), `warm` (cached, too) and `cold`, and is a fleet's node with a control port.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat

LONG = 60_000  # fits into a head
ENDLESS = 48 << 20  # beyond any limit of what may come before it is refused
PIECE = 64 << 10
TIMEOUT_S = 30.0
UNREAD_BYTES = 4096  # of answers that a client holds which reads none
STOPPED_S = 0.5  # a server that takes nothing for so long has stopped reading


@dataclass(frozen=True, slots=True)
class HostileRequest:
    """`pieces` are sent in a row; `statuses` may be the answer's. `each`: every piece is a request, and is answered.

    `unread`: the client reads no answer. `port` is "data" or "control".
    """

    name: str
    pieces: Callable[[], Iterable[bytes]]
    statuses: frozenset[int] = frozenset({200})
    each: bool = False
    unread: bool = False
    port: str = "data"

    def __str__(self) -> str:
        return self.name


def head(*lines: bytes, method: bytes = b"GET", target: bytes = b"/b/hit") -> bytes:
    return b"\r\n".join([b"%b %b HTTP/1.1" % (method, target), b"Host: h", *lines, b"", b""])


def one(*lines: bytes, method: bytes = b"GET", target: bytes = b"/b/hit") -> Callable[[], Iterable[bytes]]:
    return lambda: [head(*lines, method=method, target=target)]


def endless(first: bytes, more: bytes) -> Callable[[], Iterable[bytes]]:
    """`more` again and again."""

    def pieces() -> Iterator[bytes]:
        yield first
        yield from repeat(more * (PIECE // len(more)), ENDLESS // PIECE)

    return pieces


def numbered(count: int, render: Callable[[bytes], bytes]) -> Callable[[], Iterable[bytes]]:
    return lambda: (render(b"%05d" % number) for number in range(count))


def _question(number: bytes) -> bytes:
    return head(target=b"/b/hit?x-id=" + number + b"a" * LONG)


def body(target: bytes, content: bytes, kind: bytes = b"multipart/mixed; boundary=b") -> Callable[[], Iterable[bytes]]:
    """A POST of the GCS dialect."""

    def pieces() -> Iterator[bytes]:
        yield head(b"Content-Type: " + kind, b"Content-Length: %d" % len(content), method=b"POST", target=target)
        yield from (content[at : at + PIECE] for at in range(0, len(content), PIECE))

    return pieces


def _condition(number: bytes) -> bytes:
    return head(b'If-None-Match: "' + number + b"a" * 8000 + b'"')


GCS = b"/storage/v1/b/b/o/hit?alt=media"
LIST = b"/storage/v1/b/b/o?"
SECTION = b"--b\r\n\r\nGET /storage/v1/b/b HTTP/1.1\r\n\r\n\r\n"
CHUNKED = head(b"Transfer-Encoding: chunked", method=b"PUT", target=b"/b/new")
UPGRADE = head(b"Connection: upgrade", b"Upgrade: h2c")
BLANKS = b" " * LONG
NOT_THERE = frozenset({404})
REFUSED = frozenset({400})
TOO_LARGE = frozenset({431})
NO_WRITE = frozenset({405, 431})  # a directory takes no writes: either is found first

HOSTILE = [
    HostileRequest("range of blanks, cached", one(b"Range: bytes=" + BLANKS + b"x")),
    HostileRequest("range of blanks, cold", one(b"Range: bytes=0-" + BLANKS + b"x", target=b"/b/cold")),
    HostileRequest("range of blanks, GCS", one(b"Range: bytes=" + BLANKS + b"x", target=GCS)),
    HostileRequest("range of digits", one(b"Range: bytes=" + b"9" * LONG + b"-")),
    HostileRequest("range of ranges", one(b"Range: bytes=" + b"0-0," * (LONG // 4))),
    HostileRequest("list of entity tags", one(b"If-None-Match: " + b'"a",' * (LONG // 4)), REFUSED),
    HostileRequest("list of entity tags, GCS", one(b"If-Match: " + b"a," * (LONG // 2), target=GCS), REFUSED),
    HostileRequest("date of brackets", one(b"If-Modified-Since: Sun, 06 Nov " + b"(" * LONG)),
    HostileRequest("cache control", one(b"Cache-Control: " + b"a," * (LONG // 2))),
    HostileRequest("accept encoding, GCS", one(b"Accept-Encoding: gzip;" + BLANKS + b"x", target=GCS)),
    HostileRequest("query of parameters", one(target=b"/b/hit?" + b"a&" * (LONG // 2)), REFUSED),
    HostileRequest("query of parameters, GCS", one(target=GCS + b"&a" * (LONG // 2)), REFUSED),
    HostileRequest("long bucket", one(target=b"/" + b"b" * LONG), REFUSED),
    HostileRequest("long absolute target", one(target=b"http://" + b"h." * (LONG // 2) + b"/b/hit")),
    HostileRequest("long host", lambda: [b"GET /b/hit HTTP/1.1\r\nHost: " + b"h." * (LONG // 2) + b"\r\n\r\n"]),
    HostileRequest("glob of alternatives", one(target=LIST + b"matchGlob={" + b"**a**b**c,**d" * 60 + b"}")),
    HostileRequest("glob of folders", one(target=LIST + b"matchGlob=" + b"**/" * 340)),
    HostileRequest("glob of braces", one(target=LIST + b"matchGlob=" + b"{a,b}" * (LONG // 5)), REFUSED),
    HostileRequest("selection of fields", one(target=LIST + b"fields=" + b"a," * (LONG // 2)), REFUSED),
    HostileRequest("selection of nests", one(target=LIST + b"fields=" + b"items(" * (LONG // 6)), REFUSED),
    HostileRequest("batch of header lines", body(b"/batch", b"--b\r\n" + b"a:\n" * (3 << 20)), REFUSED),
    HostileRequest("batch of parts", body(b"/batch", SECTION * 100_000), REFUSED),
    HostileRequest("batch of boundaries", body(b"/batch", b"--b\r\n" * (1 << 20)), REFUSED),
    HostileRequest("batch of types", body(b"/batch", b"", b"multipart/x;" * (LONG // 12)), REFUSED),
    HostileRequest("many header lines", one(*[b"a:"] * (LONG // 4))),
    HostileRequest("connection header", one(b"Connection: " + b"a," * (LONG // 2))),
    HostileRequest("questions that nobody asks twice", numbered(600, _question), each=True),
    HostileRequest("conditions that nobody asks twice", numbered(3000, _condition), each=True),
    HostileRequest("missing keys", numbered(500, lambda n: head(target=b"/b/" + n * 200)), NOT_THERE, each=True),
    HostileRequest("endless head line", endless(b"GET /b/hit HTTP/1.1\r\nHost: h\r\nX: ", b"y"), TOO_LARGE),
    HostileRequest("endless head lines", endless(b"GET /b/hit HTTP/1.1\r\nHost: h\r\n", b"x: y\r\n"), TOO_LARGE),
    HostileRequest("endless target", endless(b"GET /", b"y"), TOO_LARGE),
    HostileRequest("endless trailer", endless(CHUNKED + b"0\r\nX: ", b"y"), NO_WRITE),
    HostileRequest("endless trailers", endless(CHUNKED + b"0\r\n", b"x: y\r\n"), NO_WRITE),
    HostileRequest("endless line of a chunk", endless(CHUNKED + b"3;", b"y"), NO_WRITE),
    HostileRequest("endless trailer of who reads no answer", endless(CHUNKED + b"0\r\nX: ", b"y"), unread=True),
    HostileRequest("pipelined reads", endless(b"", head()), unread=True),
    HostileRequest("pipelined missing keys", endless(b"", head(target=b"/b/none")), unread=True),
    HostileRequest("pipelined requests to upgrade", endless(b"", UPGRADE), unread=True),
    HostileRequest("control: endless head line", endless(b"GET / HTTP/1.1\r\nX: ", b"y"), TOO_LARGE, port="control"),
    HostileRequest(
        "control: endless head lines", endless(b"GET / HTTP/1.1\r\n", b"x: y\r\n"), TOO_LARGE, port="control"
    ),
    HostileRequest(
        "control: endless body",
        endless(head(b"Transfer-Encoding: chunked", method=b"POST", target=b"/-/peer/ask"), b"1\r\na\r\n"),
        frozenset({405}),
        port="control",
    ),
    HostileRequest("control: pipelined asks", endless(b"", head(target=b"/-/peer/ask")), unread=True, port="control"),
]


def send(address: tuple[str, int], request: HostileRequest) -> list[int]:
    """Sends it and goes away; the statuses of the answers that were read."""
    with socket.socket() as sock:
        sock.settimeout(TIMEOUT_S)
        if request.unread:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UNREAD_BYTES)
        sock.connect(address)
        if request.each:
            return [_send_one(sock, piece) for piece in request.pieces()]
        for piece in request.pieces():
            if not _send_piece(sock, piece, stops_at_answer=not request.unread):
                break
        return [] if request.unread else [_read_answer(sock)]


def _send_one(sock: socket.socket, piece: bytes) -> int:
    sock.sendall(piece)
    return _read_answer(sock)


def _send_piece(sock: socket.socket, piece: bytes, *, stops_at_answer: bool) -> bool:
    """False: the server has answered, has closed the connection, or takes no more."""
    view = memoryview(piece)
    while view:
        readable, writable, _ = select.select([sock] if stops_at_answer else [], [sock], [], STOPPED_S)
        if readable or not writable:
            return False
        try:
            view = view[sock.send(view, socket.MSG_DONTWAIT) :]
        except OSError:
            return False
    return True


def _read_answer(sock: socket.socket) -> int:
    """The status; the body is read, too."""
    received = b""
    while b"\r\n\r\n" not in received:
        data = sock.recv(PIECE)
        assert data, f"closed after {received!r}"
        received += data
    lines, _, body = received.partition(b"\r\n\r\n")
    status, *fields = lines.lower().split(b"\r\n")
    length = next((int(field.partition(b":")[2]) for field in fields if field.startswith(b"content-length:")), 0)
    while len(body) < length:
        data = sock.recv(PIECE)
        assert data
        body += data
    return int(status.split()[1])
