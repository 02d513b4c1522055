"""The reader of responses, without sockets: any cut gives the same, any garbage gives an error of ours."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.errors import ConnectionBroken, MalformedResponse
from proxy.wire.head import MAX_HEAD_BYTES, ResponseHead
from proxy.wire.response import MAX_COLLECTED_BYTES, ResponseReader
from tests.wire.sinks import CopyingSink, give

NAME = st.from_regex(r"x-[a-z0-9!#$%&'*+.^_`|~-]{0,12}", fullmatch=True)
VALUE = st.from_regex(r"([\x21-\x7e\x80-\xff]([\x20-\x7e\x80-\xff\t]{0,20}[\x21-\x7e\x80-\xff])?)?", fullmatch=True)
HEADERS = st.lists(st.tuples(NAME, VALUE), max_size=6)
STATUS = st.integers(200, 599).filter(lambda status: status not in (204, 304))
CONTINUE, HINTS = b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hints\r\nlink: <x>\r\n\r\n"
INTERIM = st.lists(st.sampled_from([CONTINUE, HINTS]), max_size=2)
CUTS = st.lists(st.integers(0, 1 << 16), max_size=12)


def cut(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """`data` in pieces, none of them empty."""
    edges = sorted({0, len(data), *(position % (len(data) + 1) for position in cuts)})
    return [data[start:end] for start, end in pairwise(edges)]


def read(pieces: Sequence[bytes], *, then_close: bool = True) -> tuple[ResponseReader, bytes]:
    """Feed a reader as a connection does, from memory that is overwritten after each piece."""
    sink = CopyingSink()
    reader = ResponseReader(give(sink))
    for piece in pieces:
        if reader.complete:
            break
        memory = bytearray(piece)
        assert reader.receive(memoryview(memory)) is None
        memory[:] = b"\xee" * len(memory)
    if then_close and not reader.complete:
        reader.end()
    return reader, bytes(sink.data)


def render(status: int, headers: Sequence[tuple[str, str]], *more: tuple[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Some Reason", *(f"{name}: {value}" for name, value in [*headers, *more]), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def check_head(reader: ResponseReader, status: int, headers: Sequence[tuple[str, str]]) -> None:
    assert reader.head is not None
    assert reader.head.status == status
    own = [(name, value) for name, value in reader.head.headers if name.startswith("x-")]
    assert own == [(name, value) for name, value in headers]


@given(STATUS, HEADERS, st.binary(max_size=2000), INTERIM, CUTS)
def test_a_body_with_a_length_is_the_same_however_it_is_cut(
    status: int, headers: list[tuple[str, str]], body: bytes, interim: list[bytes], cuts: list[int]
) -> None:
    raw = b"".join(interim) + render(status, headers, ("Content-Length", str(len(body)))) + body
    reader, received = read(cut(raw, cuts), then_close=False)
    check_head(reader, status, headers)
    assert received == body
    assert reader.received_bytes == len(body)
    assert reader.complete
    assert reader.reusable


@given(STATUS, HEADERS, st.lists(st.binary(min_size=1, max_size=300), max_size=8), st.booleans(), CUTS)
def test_a_chunked_body_is_the_same_however_it_is_cut(
    status: int, headers: list[tuple[str, str]], chunks: list[bytes], extras: bool, cuts: list[int]
) -> None:
    extension, trailer = (b";name=value", b"x-trailer: 1\r\n") if extras else (b"", b"")
    framed = b"".join(b"%X%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    raw = render(status, headers, ("Transfer-Encoding", "Chunked")) + framed + b"0\r\n" + trailer + b"\r\n"
    reader, received = read(cut(raw, cuts), then_close=False)
    check_head(reader, status, headers)
    assert received == b"".join(chunks)
    assert reader.complete
    assert reader.reusable


@given(STATUS, HEADERS, st.binary(max_size=2000), CUTS)
def test_a_body_until_close_is_the_same_however_it_is_cut(
    status: int, headers: list[tuple[str, str]], body: bytes, cuts: list[int]
) -> None:
    reader, received = read(cut(render(status, headers) + body, cuts))
    check_head(reader, status, headers)
    assert received == body
    assert reader.complete
    assert not reader.reusable


@given(st.binary(max_size=400), st.binary(min_size=1, max_size=100), st.booleans(), CUTS)
def test_what_follows_a_body_never_reaches_the_sink(body: bytes, more: bytes, chunked: bool, cuts: list[int]) -> None:
    if chunked:
        framed = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        raw = render(200, [("transfer-encoding", "chunked")]) + framed + b"0\r\n\r\n"
    else:
        raw = render(200, [("content-length", str(len(body)))]) + body
    _, received = read(cut(raw + more, cuts), then_close=False)
    assert received == body


FRAGMENTS = [
    *(b"HTTP/1.1 200 OK", b"HTTP/1.1 ", b"206", b"101 Switching", b"\r\n", b"\n", b"\r", b" ", b":", b"\r\n\r\n"),
    *(
        b"content-length",
        b"content-length: 5\r\n",
        b"transfer-encoding: chunked",
        b"connection: upgrade",
        b"upgrade: x",
    ),
    *(b"5", b"-1", b"0\r\n\r\n", b"fffffffffffffffff", b"abcde", b";x=y", b"\0", b"\xff"),
]
GARBAGE = st.one_of(st.binary(max_size=300), st.lists(st.sampled_from(FRAGMENTS), max_size=20).map(b"".join))


@given(GARBAGE, CUTS)
def test_garbage_is_a_response_or_an_error_of_ours_the_same_however_it_is_cut(raw: bytes, cuts: list[int]) -> None:
    outcomes: list[tuple[object, bytes]] = []
    for pieces in ([raw] if raw else [], cut(raw, cuts), [raw[at : at + 1] for at in range(len(raw))]):
        try:
            reader, received = read(pieces)
            outcomes.append((reader.head, received))
        except (MalformedResponse, ConnectionBroken) as error:
            outcomes.append((type(error), b""))
    assert outcomes[0] == outcomes[1] == outcomes[2]


@given(st.binary(min_size=1, max_size=300), st.integers(0, 400), CUTS)
def test_a_response_that_is_cut_off_anywhere_is_broken_and_counts_its_body(
    body: bytes, kept: int, cuts: list[int]
) -> None:
    raw = render(200, [("content-length", str(len(body)))]) + body
    kept = min(kept, len(raw) - 1)
    with pytest.raises(ConnectionBroken) as raised:
        read(cut(raw[:kept], cuts))
    assert raised.value.received_bytes == max(0, kept - (len(raw) - len(body)))


def test_a_head_of_just_the_limit_passes_and_one_byte_more_does_not() -> None:
    frame = len(render(200, [("x-a", ""), ("content-length", "0")]))
    for excess, accepted in [(0, True), (1, False)]:
        value = "a" * (MAX_HEAD_BYTES - frame + excess)
        raw = render(200, [("x-a", value), ("content-length", "0")])
        for pieces in ([raw], cut(raw, [1, 60_000, len(raw) - 2]), cut(raw, [len(raw) - 1])):
            if accepted:
                assert read(pieces)[0].complete
            else:
                with pytest.raises(MalformedResponse):
                    read(pieces)


@pytest.mark.parametrize("size", [0, 1, MAX_COLLECTED_BYTES, MAX_COLLECTED_BYTES + 1])
def test_an_unwanted_body_is_collected_to_the_limit(size: int) -> None:
    reader = ResponseReader(give(None))
    reader.receive(memoryview(render(404, [("content-length", str(size))])))
    for start in range(0, size, 1000):
        reader.receive(memoryview(b"x" * min(1000, size - start)))
    response = reader.response()
    assert reader.complete
    assert len(response.body) == min(size, MAX_COLLECTED_BYTES)
    assert response.truncated == (size > MAX_COLLECTED_BYTES)


def test_an_unwanted_body_of_unknown_length_is_given_up_at_the_limit() -> None:
    reader = ResponseReader(give(None))
    reader.receive(memoryview(render(200, [])))
    reader.receive(memoryview(b"x" * (MAX_COLLECTED_BYTES + 1)))
    assert reader.complete
    assert not reader.reusable
    assert reader.response().truncated


def test_equal_content_lengths_do_not_contradict_each_other_but_are_refused_all_the_same() -> None:
    with pytest.raises(MalformedResponse):
        read([render(200, [("content-length", "3"), ("content-length", "3")]) + b"abc"])


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [
        ("1.1", None, True),
        ("1.1", "keep-alive", True),
        ("1.1", "close", False),
        ("1.1", "x, CLOSE", False),
        ("1.0", None, False),
        ("1.0", "keep-alive", False),
    ],
)
def test_whether_the_connection_is_kept(version: str, connection: str | None, kept: bool) -> None:
    more = f"connection: {connection}\r\n" if connection else ""
    reader, _ = read([f"HTTP/{version} 200 OK\r\n{more}content-length: 0\r\n\r\n".encode()])
    assert reader.reusable == kept


def test_a_server_that_offers_an_upgrade_nobody_asked_for_is_understood() -> None:
    raw = render(200, [("connection", "upgrade"), ("upgrade", "h2,h2c"), ("content-length", "2")]) + b"ok"
    assert read([raw])[1] == b"ok"


def test_accept_is_asked_once_with_the_final_head() -> None:
    heads: list[ResponseHead] = []

    def accept(head: ResponseHead) -> CopyingSink | None:
        heads.append(head)
        return None

    reader = ResponseReader(accept)
    reader.receive(memoryview(CONTINUE + render(403, [("ETag", '"q"'), ("content-length", "0")])))
    assert [(head.status, head.get("etag"), head.get("x-none")) for head in heads] == [(403, '"q"', None)]
