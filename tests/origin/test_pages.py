"""Pages of a listing, made of a store's own, whatever the store does."""

from __future__ import annotations

import pytest

from proxy.errors import OriginUnavailable
from proxy.origin import ListedObject
from proxy.origin.pages import PAGES_MAX, FoundEntry, gather_page


async def test_a_store_that_never_ends_its_listing_is_given_up_or_gives_a_short_page() -> None:
    asked: list[str | None] = []

    async def ask_empty(token: str | None) -> FoundEntry:
        asked.append(token)
        return FoundEntry({}, f"t{len(asked)}")

    with pytest.raises(OriginUnavailable, match="nothing in them"):
        await gather_page(ask_empty, after="", limit=10, undecodable="surrogateescape")
    assert len(asked) == PAGES_MAX

    async def ask_same(token: str | None) -> FoundEntry:
        return FoundEntry({"a": ListedObject("a", 1, '"e"', 0.0)}, "t")

    page = await gather_page(ask_same, after="", limit=10, undecodable="surrogateescape")
    assert ([item.key for item in page.objects], page.next_after) == (["a"], "a")
