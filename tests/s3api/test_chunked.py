"""The framing comes off whatever way it is cut, and nothing that is wrong gets its last piece out."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import InvalidRequest
from s3api.chunked import LINE_BYTES_MAX, ChunkedDecoder, ChunkedForm, decode_chunked, parse_chunked_form
from tests.s3api.framing import CRC32, checksum, encode_chunked

ALGORITHMS = ["crc32", "crc32c", "crc64nvme", "sha1", "sha256", "sha512", "md5"]


def decode(form: ChunkedForm, *parts: bytes) -> bytes:
    decoder = ChunkedDecoder(form)
    pieces = [piece for part in parts for piece in decoder.feed(part)]
    return b"".join([*pieces, decoder.finish()])


def refusal(form: ChunkedForm, *parts: bytes) -> tuple[str, bytes]:
    """The code, and what had been released before."""
    decoder = ChunkedDecoder(form)
    released = b""
    with pytest.raises(InvalidRequest) as caught:
        for part in parts:
            for piece in decoder.feed(part):
                released += piece
        decoder.finish()
    return caught.value.code, released


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=200), max_size=8),
    cuts=st.lists(st.integers(0, 2000), max_size=12),
    signed=st.booleans(),
    algorithms=st.sets(st.sampled_from(ALGORITHMS), max_size=2),
)
def test_any_chunks_in_any_cuts_come_out_whole(
    chunks: list[bytes], cuts: list[int], signed: bool, algorithms: set[str]
) -> None:
    data = b"".join(chunks)
    names = tuple(f"x-amz-checksum-{algorithm}" for algorithm in sorted(algorithms))
    framed = encode_chunked(chunks, {name: checksum(name, data) for name in names}, signed=signed)
    places = sorted({0, len(framed), *(cut for cut in cuts if cut < len(framed))})
    parts = [framed[begin:end] for begin, end in itertools.pairwise(places)]
    assert decode(ChunkedForm(len(data), names), *parts) == data


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=4),
    place=st.integers(0, 10_000),
    bit=st.integers(0, 7),
)
def test_one_flipped_bit_never_yields_other_data_whole(chunks: list[bytes], place: int, bit: int) -> None:
    data = b"".join(chunks)
    framed = bytearray(encode_chunked(chunks, {CRC32: checksum(CRC32, data)}))
    framed[place % len(framed)] ^= 1 << bit
    try:
        decoded = decode(ChunkedForm(len(data), (CRC32,)), bytes(framed))
    except InvalidRequest:
        return
    assert decoded == data


@given(chunks=st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=4), kept=st.integers(0, 10_000))
def test_a_body_cut_short_is_never_released_whole(chunks: list[bytes], kept: int) -> None:
    data = b"".join(chunks)
    framed = encode_chunked(chunks, {CRC32: checksum(CRC32, data)})
    short = framed[: kept % (len(framed) - 4)]  # the last line breaks may be missing
    code, released = refusal(ChunkedForm(len(data), (CRC32,)), short)
    assert code in ("IncompleteBody", "MalformedTrailerError", "BadDigest")
    assert len(released) < len(data)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_wrong_trailing_checksum_holds_the_last_piece_back(algorithm: str) -> None:
    name = f"x-amz-checksum-{algorithm}"
    framed = encode_chunked([b"a" * 10, b"b" * 10], {name: checksum(name, b"other")})
    code, released = refusal(ChunkedForm(20, (name,)), framed)
    assert code == "BadDigest"
    assert released == b"a" * 10


@pytest.mark.parametrize("value", ["", "!!!", "AAAA", "AAAAAA==x", "AAAAAAAAAAA="])
def test_checksum_that_is_none_is_a_bad_digest(value: str) -> None:
    assert refusal(ChunkedForm(1, (CRC32,)), encode_chunked([b"a"], {CRC32: value}))[0] == "BadDigest"


def test_announced_trailer_must_come() -> None:
    assert refusal(ChunkedForm(1, (CRC32,)), encode_chunked([b"a"]))[0] == "MalformedTrailerError"


def test_checksum_of_an_empty_body_is_compared() -> None:
    good = encode_chunked([], {CRC32: checksum(CRC32, b"")})
    assert decode(ChunkedForm(0, (CRC32,)), good) == b""
    bad = encode_chunked([], {CRC32: checksum(CRC32, b"x")})
    assert refusal(ChunkedForm(0, (CRC32,)), bad)[0] == "BadDigest"


@pytest.mark.parametrize(
    ("newline", "end"), [(b"\r\n", b""), (b"\r\n", b"\r\n\r\n"), (b"\n", b"\r\n"), (b"\n\r\n", b"\r\n"), (b"", b"")]
)
def test_line_ends_of_trailers_may_differ(newline: bytes, end: bytes) -> None:
    framed = encode_chunked([b"abc"], {CRC32: checksum(CRC32, b"abc")}, newline=newline, end=end)
    assert decode(ChunkedForm(3, (CRC32,)), framed) == b"abc"


@pytest.mark.parametrize(
    "framed",
    [
        b"-1\r\n",
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b" 3\r\nabc\r\n0\r\n\r\n",
        b"\r\nabc",
        b"3\nabc\r\n0\r\n\r\n",
        b"g\r\nabc\r\n0\r\n\r\n",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"3\r\nab\r\n0\r\n\r\n",
        b"3\r\nabcXX0\r\n\r\n",
        b"00000000000000003\r\nabc\r\n0\r\n\r\n",  # more digits than any length has
    ],
)
def test_malformed_framing_is_refused(framed: bytes) -> None:
    code, released = refusal(ChunkedForm(3), framed)
    assert code in ("InvalidRequest", "IncompleteBody")
    assert len(released) < 3


@pytest.mark.parametrize("size", [b"4", b"ffffffffffffffff", b"7fffffffffffffff", b"8000000000000000"])
def test_chunk_longer_than_announced_is_refused_before_its_data(size: bytes) -> None:
    decoder = ChunkedDecoder(ChunkedForm(3))
    with pytest.raises(InvalidRequest, match="longer than x-amz-decoded-content-length"):
        decoder.feed(size + b"\r\n")


def test_chunks_that_add_up_to_less_are_incomplete() -> None:
    assert refusal(ChunkedForm(4), encode_chunked([b"abc"])) == ("IncompleteBody", b"")


def test_data_after_the_end_is_refused() -> None:
    assert refusal(ChunkedForm(3), encode_chunked([b"abc"]) + b"more")[0] == "MalformedTrailerError"


def test_endless_lines_and_trailers_are_refused() -> None:
    assert refusal(ChunkedForm(3), b"3;" + b"x" * LINE_BYTES_MAX)[0] == "InvalidRequest"
    lines = b"x-a:b\r\n" * 10_000
    assert refusal(ChunkedForm(3), b"3\r\nabc\r\n0\r\n" + lines)[0] == "InvalidRequest"


def test_only_headers_make_a_body_framed() -> None:
    assert parse_chunked_form({"x-amz-decoded-content-length": "5", "content-encoding": "gzip"}) is None
    assert parse_chunked_form({"x-amz-content-sha256": "UNSIGNED-PAYLOAD"}) is None


async def test_stream_ends_with_the_error_in_place_of_its_last_piece() -> None:
    async def body() -> AsyncIterator[bytes]:
        for byte in encode_chunked([b"abc"], {CRC32: checksum(CRC32, b"abd")}):
            yield bytes([byte])

    pieces = []
    with pytest.raises(InvalidRequest):
        async for piece in decode_chunked(ChunkedForm(3, (CRC32,)), body()):
            pieces.append(piece)
    assert pieces == [b"a", b"b"]
