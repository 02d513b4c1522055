"""What nodes ask each other: any key arrives as it was, and what nobody would send is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.fleet.protocol import (
    ASK_PATH,
    BLOCK_PATH,
    RECORD_PATH,
    Ask,
    NamedSource,
    WantedBlock,
    WantedRecord,
    parse_query,
)
from proxy.objects import ObjectKey, ObjectVersion, SumKind

texts = st.text(st.characters(exclude_categories=()), max_size=60)  # surrogates, too
keys = texts | st.sampled_from(["a&b=c", "+ %2B", "\udc80\udcff", "\ud83d\ude00", "😀", "a\x00b\n", "//../?#", "ä;é"])
numbers = st.integers(0, 10**18)
words = st.integers(0, 2**64 - 1)


def query_of(target: bytes, path: str) -> dict[str, str]:
    assert target.isascii()
    assert not any(byte <= 32 or byte >= 127 for byte in target), "a target goes into a request line"
    found, _, query = target.partition(b"?")
    assert found == path.encode()
    return parse_query(query)


@given(
    digest=st.binary(min_size=32, max_size=32),
    index=numbers,
    level=st.integers(0, 3),
    uploads=numbers,
    slow=st.booleans(),
    tried=st.lists(st.text("0123456789abcdef", min_size=1, max_size=32), max_size=6),
)
def test_an_ask_arrives_as_it_was(
    digest: bytes, index: int, level: int, uploads: int, slow: bool, tried: list[str]
) -> None:
    ask = Ask(digest, index, level, uploads, slow, tuple(tried))
    assert Ask.parse(query_of(ask.target(), ASK_PATH)) == ask


@given(
    names=st.tuples(texts, texts, keys),
    validator=texts.filter(bool),
    size=numbers,
    index=numbers,
    start=numbers,
    length=st.integers(1, 1 << 24),
    fill_id=words,
    flags=st.tuples(st.booleans(), st.booleans()),
    sums=st.lists(st.tuples(st.sampled_from(SumKind), words), max_size=3),
)
def test_a_wanted_block_arrives_as_it_was_whatever_its_key(
    names: tuple[str, str, str],
    validator: str,
    size: int,
    index: int,
    start: int,
    length: int,
    fill_id: int,
    flags: tuple[bool, bool],
    sums: list[tuple[SumKind, int]],
) -> None:
    version = ObjectVersion(*names, validator, size)
    wanted = WantedBlock(version, index, start, start + length, fill_id, flags[0], tuple(sums), flags[1])
    found = WantedBlock.parse(query_of(wanted.target(), BLOCK_PATH))
    assert found == wanted
    assert found.version.digest == version.digest


@given(
    names=st.tuples(texts, texts, keys, st.none() | texts),
    ttl_s=st.none() | st.floats(0, allow_nan=False),
    anew=st.booleans(),
    heard=st.none() | numbers,
)
def test_a_wanted_record_arrives_as_it_was(
    names: tuple[str, str, str, str | None], ttl_s: float | None, anew: bool, heard: int | None
) -> None:
    key = ObjectKey(*names)
    wanted = WantedRecord(key, ttl_s, anew, heard)
    found = WantedRecord.parse(query_of(wanted.target(), RECORD_PATH))
    assert found == wanted
    assert found.key.digest == key.digest


@given(source=st.none() | st.text("0123456789abcdef", max_size=64), fill_id=words)
def test_an_owners_answer_arrives_as_it_was(source: str | None, fill_id: int) -> None:
    assert NamedSource.parse(NamedSource(source, fill_id).render()) == NamedSource(source, fill_id)


ANSWERS: list[Any] = [
    None,
    [],
    "text",
    7,
    {},
    {"source": "0a"},
    {"source": 7, "fill": "1"},
    {"source": ["0a"], "fill": "1"},
    {"source": "0a", "fill": 1},
    {"source": "0a", "fill": None},
    {"source": "0a", "fill": "-1"},
    {"source": "0a", "fill": "1" + "0" * 16},
    {"source": "0a", "fill": "nothing"},
]


@pytest.mark.parametrize("answer", ANSWERS)
def test_answers_that_no_owner_gives_are_refused(answer: Any) -> None:
    with pytest.raises(ValueError):  # each has words of its own
        NamedSource.parse(answer)


@given(st.binary(max_size=300))
def test_no_query_is_more_than_a_value_error(query: bytes) -> None:
    try:
        fields = parse_query(query)
        for parse in (Ask.parse, WantedBlock.parse, WantedRecord.parse):
            parse(fields)
    except ValueError:
        return


@pytest.mark.parametrize("query", [b"a=1&a=2", b"a=%ff", b"\xff=1", b"key=%C3"])
def test_queries_that_have_no_one_meaning_are_refused(query: bytes) -> None:
    with pytest.raises(ValueError):
        parse_query(query)


BLOCK = {
    "origin": "s3://o",
    "bucket": "b",
    "key": "k",
    "validator": 'etag "1"',
    "size": "100",
    "index": "0",
    "start": "0",
    "end": "100",
    "fill": "ab",
    "last": "1",
    "sums": "crc32c:1",
}


@pytest.mark.parametrize(
    "change",
    [
        {"start": "100"},
        {"start": "101"},
        {"start": "-1"},
        {"end": ""},
        {"end": "1e3"},
        {"end": "١٠٠"},
        {"end": "1" * 20},
        {"index": "-1"},
        {"index": " 1"},
        {"index": "1_0"},
        {"size": "-5"},
        {"validator": ""},
        {"fill": ""},
        {"fill": "-1"},
        {"fill": "1" + "0" * 16},
        {"sums": "md5:1"},
        {"sums": "crc32c:nothing"},
        {"sums": "crc32c"},
    ],
)
def test_a_block_that_nobody_can_want_is_refused(change: dict[str, str]) -> None:
    assert WantedBlock.parse(BLOCK).sums == ((SumKind.CRC32C, 1),)
    with pytest.raises(ValueError):
        WantedBlock.parse(BLOCK | change)


@pytest.mark.parametrize("missing", ["origin", "bucket", "key", "validator", "size", "index", "start", "end", "fill"])
def test_a_block_without_one_of_its_names_is_refused(missing: str) -> None:
    with pytest.raises(ValueError, match=missing):
        WantedBlock.parse({name: value for name, value in BLOCK.items() if name != missing})


@pytest.mark.parametrize("ttl", ["soon", "", "0x10"])
def test_a_time_that_is_no_number_is_refused(ttl: str) -> None:
    with pytest.raises(ValueError):
        WantedRecord.parse({"origin": "o", "bucket": "b", "key": "k", "ttl": ttl})


def test_for_ever_and_an_endless_time_are_told_apart() -> None:
    key = ObjectKey("o", "b", "k")
    for ttl_s in (None, math.inf, 0.0, 0.1):
        assert WantedRecord.parse(query_of(WantedRecord(key, ttl_s).target(), RECORD_PATH)).ttl_s == ttl_s
