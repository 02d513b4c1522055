"""The table of missing keys: what was put is found under its token, in bounded memory, whoever writes meanwhile."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.cache.missing import KINDS, MISSING_WORDS, SETS, WAYS, Missing, MissingTable

TOKEN = 77


def digest(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def same_set(number: int, count: int) -> list[bytes]:
    return [(number + SETS * each).to_bytes(8, "little") + digest(each) for each in range(count)]


@pytest.fixture
def words() -> memoryview:
    return memoryview(bytearray(8 * MISSING_WORDS)).cast("Q")


@pytest.fixture
def table(words: memoryview) -> MissingTable:
    return MissingTable(words)


@given(st.sampled_from(KINDS), st.floats(0, 1e11))
def test_an_entry_is_found_as_it_was_put_under_its_token_alone(what: str, at_s: float) -> None:
    table = MissingTable(memoryview(bytearray(8 * MISSING_WORDS)).cast("Q"))
    assert table.get(digest(1), TOKEN) is None
    table.put(digest(1), TOKEN, Missing(what, at_s))
    found = table.get(digest(1), TOKEN)
    assert found is not None
    assert found.what == what
    assert found.checked_at_s == pytest.approx(at_s, abs=2e-5)
    assert table.get(digest(1), TOKEN + 1) is None
    assert table.get(digest(2), TOKEN) is None
    table.drop(digest(1))
    assert table.get(digest(1), TOKEN) is None


def test_thousands_of_keys_are_remembered_at_once(table: MissingTable) -> None:
    """A hundred that are asked for again and again never push each other out."""
    for number in range(10_000):
        table.put(digest(number), TOKEN, Missing("key", float(number)))
    assert all(table.get(digest(number), TOKEN) for number in range(9_900, 10_000))
    assert sum(table.get(digest(number), TOKEN) is not None for number in range(10_000)) > 9_900


def test_a_set_that_is_full_loses_its_oldest(table: MissingTable) -> None:
    digests = same_set(5, WAYS + 1)
    for number, each in enumerate(digests):
        table.put(each, TOKEN, Missing("key", 1000.0 + number))
    assert [table.get(each, TOKEN) is not None for each in digests] == [False, *[True] * WAYS]
    table.put(digests[3], TOKEN, Missing("key", 5000.0))  # in its own place
    assert [table.get(each, TOKEN) is not None for each in digests] == [False, *[True] * WAYS]


@given(at=st.integers(0, 4), word=st.integers(0, 2**64 - 1))
def test_an_entry_that_another_process_is_writing_is_none_or_the_old_one(at: int, word: int) -> None:
    words = memoryview(bytearray(8 * MISSING_WORDS)).cast("Q")
    table, key = MissingTable(words), (7).to_bytes(8, "little") + digest(7)
    table.put(key, TOKEN, Missing("key", 1000.0))
    place = 7 * WAYS * 5 + at
    changed = words[place] != word
    words[place] = word
    assert (table.get(key, TOKEN) is None) == changed
