"""Tokens: invalidation told to every process by one store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxy.cache.shared import SharedTables
from proxy.cache.tokens import TOKEN_COUNT, TokenTable
from proxy.objects import ObjectKey


@pytest.fixture
def tokens() -> Iterator[TokenTable]:
    shared = SharedTables.create()
    yield shared.tokens
    shared.close()


def key(name: str) -> ObjectKey:
    return ObjectKey("s3://origin", "bucket", name)


def test_a_token_stays_until_it_is_renewed(tokens: TokenTable) -> None:
    first = tokens.peek(key("a"))
    assert tokens.peek(key("a")) == first
    second = tokens.renew(key("a"))
    assert second not in (0, first)
    assert tokens.peek(key("a")) == second


def test_renewals_never_repeat_and_are_never_zero(tokens: TokenTable) -> None:
    seen = {tokens.renew(key("a")) for _ in range(2000)}
    assert len(seen) == 2000
    assert 0 not in seen
    assert max(seen) > 1 << 60, "random over all 64 bits, not a count"


def test_a_renewal_touches_one_slot_only(tokens: TokenTable) -> None:
    others = [key(f"other {number}") for number in range(500)]
    slot = key("a").digest[:2]
    before = [tokens.peek(other) for other in others]
    tokens.renew(key("a"))
    after = [tokens.peek(other) for other in others]
    changed = [other for other, was, now in zip(others, before, after, strict=True) if was != now]
    assert all(other.digest[:2] == slot for other in changed)


def test_keys_that_differ_by_version_only_have_slots_of_their_own() -> None:
    assert key("a").digest != ObjectKey("s3://origin", "bucket", "a", "v1").digest


def test_every_slot_of_the_table_can_be_named(tokens: TokenTable) -> None:
    table = memoryview(bytearray(8 * TOKEN_COUNT)).cast("Q")
    own = TokenTable(table)
    token = own.renew(key("a"))
    assert table[int.from_bytes(key("a").digest[:2], "big")] == token
