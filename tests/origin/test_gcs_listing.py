"""A page of a GCS bucket is what S3 would list there, wherever it begins and however few names GCS gives at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import NotFound, NotSupported, OriginUnavailable
from proxy.origin import ListPage
from proxy.origin.gcs.listing import beyond, list_page, list_query, read_page
from proxy.origin.gcs.target import Query
from proxy.origin.pages import FoundEntry
from tests.fakes.scripted import ScriptedServer, in_turn
from tests.origin.asking import Tokens, gcs_origin
from tests.origin.gcs_answers import document, said

NAMES = st.text(alphabet="a/b\u00fc\U0001f680\ud7ff~", min_size=1, max_size=5)


def order(name: str) -> bytes:
    return name.encode()


def roll(name: str, prefix: str, delimiter: str) -> str:
    """The common prefix that a name is listed as, or the name."""
    found = name.find(delimiter, len(prefix)) if delimiter else -1
    return name[: found + len(delimiter)] if found >= 0 else name


class Bucket:
    """`Objects: list` as it is documented, at most `page` entries at once, sometimes none."""

    def __init__(self, names: Sequence[str], page: int) -> None:
        self.names = sorted(set(names), key=order)
        self.page = page
        self.asked: list[dict[str, str]] = []

    async def __call__(self, query: Query) -> FoundEntry:
        asked = dict(query)
        self.asked.append(asked)
        prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter", "")
        start = max(order(asked.get("startOffset", "")), order(asked.get("pageToken", "")))
        matching = [name for name in self.names if name.startswith(prefix) and order(name) >= start]
        entries: dict[str, bool] = {}
        for name in matching:
            entry = roll(name, prefix, delimiter)
            if entry not in entries and len(entries) == min(self.page, int(asked["maxResults"])):
                return self._found(entries, name)
            entries[entry] = entry != name or (bool(delimiter) and name.endswith(delimiter) and name != prefix)
        return self._found(entries, None)

    def _found(self, entries: dict[str, bool], token: str | None) -> FoundEntry:
        items = [
            {"name": name, "size": "1", "generation": "1", "updated": "2022-01-07T04:16:39Z"}
            for name, is_prefix in entries.items()
            if not is_prefix
        ]
        page: dict[str, Any] = {"items": items, "prefixes": [name for name, rolled in entries.items() if rolled]}
        return read_page(page | ({"nextPageToken": token} if token is not None else {}))


def expected(names: Sequence[str], prefix: str, delimiter: str, after: str) -> list[str]:
    """Entries of names beyond `after`; a common prefix that `after` is has been shown."""
    found = []
    for name in sorted(set(names), key=order):
        entry = roll(name, prefix, delimiter)
        shown = entry == after and delimiter and after.endswith(delimiter) and entry != prefix
        if name.startswith(prefix) and order(name) > order(after) and not shown and entry not in found:
            found.append(entry)
    return found


def entries(page: ListPage) -> list[str]:
    return sorted([*(item.key for item in page.objects), *page.prefixes], key=order)


@given(
    st.lists(NAMES, max_size=12),
    st.sampled_from(["", "a", "a/", "/"]),
    st.sampled_from(["", "/", "ab"]),
    st.just("") | NAMES,
    st.integers(1, 5),
    st.integers(1, 4),
)
async def test_every_page_is_what_the_bucket_holds(
    names: list[str], prefix: str, delimiter: str, after: str, limit: int, page: int
) -> None:
    wanted = expected(names, prefix, delimiter, after)
    bucket = Bucket(names, page)
    found: list[str] = []
    place: str | None = after
    while place is not None:
        listed = await list_page(bucket, prefix=prefix, delimiter=delimiter, after=place, limit=limit)
        assert len(entries(listed)) <= limit
        assert listed.next_after is None or listed.next_after == entries(listed)[-1]
        found += entries(listed)
        place = listed.next_after
    assert found == wanted


async def test_nothing_asked_for_is_nothing_and_asks_nobody() -> None:
    bucket = Bucket(["a"], 10)
    assert await list_page(bucket, prefix="", delimiter="", after="", limit=0) == ListPage((), (), None)
    assert not bucket.asked


def test_a_page_begins_where_the_last_one_ended() -> None:
    assert dict(list_query("p/", "/", "p/x/", 10))["startOffset"] == "p/x0"
    assert dict(list_query("p/", "/", "p/x/y", 10))["startOffset"] == "p/x/y\x01"
    assert dict(list_query("p/", "", "p/x/", 10))["startOffset"] == "p/x/"
    assert "startOffset" not in dict(list_query("", "", "", 10))
    assert dict(list_query("", "", "", 10))["maxResults"] == "11"
    assert dict(list_query("", "", "", 1000))["maxResults"] == "1000"


def test_the_first_name_beyond_a_prefix_is_a_name() -> None:
    assert beyond("a/") == "a0"
    assert beyond("a\ud7ff") == "a\ue000"
    assert beyond("\U0010ffff") is None


async def test_objects_and_buckets_are_listed_with_the_projects_name() -> None:
    item = {"name": "x/y", "size": "5", "md5Hash": "XrY7u+Ae7tCTyyK7j1rNww==", "updated": "2022-01-07T04:16:39.5Z"}
    handler = in_turn(
        document(items=[item], prefixes=["z/"]),
        document(items=[{"name": "one", "timeCreated": "2022-01-07T04:16:39Z"}], nextPageToken="t"),
        document(items=[{"name": "two", "timeCreated": "2022-01-07T04:16:39Z"}]),
    )
    async with ScriptedServer(handler) as server, gcs_origin(server.url, Tokens(), project="p") as origin:
        page = await origin.list_objects("models", prefix="", delimiter="/", after="", limit=10)
        [listed] = page.objects
        assert (listed.key, listed.size_bytes, listed.etag) == ("x/y", 5, '"5eb63bbbe01eeed093cb22bb8f5acdc3"')
        assert listed.last_modified_s == pytest.approx(1641528999.5)
        assert page.prefixes == ("z/",)
        assert await origin.list_buckets() == (("one", 1641528999.0), ("two", 1641528999.0))
        assert b"project=p" in server.requests[1].target
        assert b"pageToken=t" in server.requests[2].target
        assert server.requests[0].get("accept-encoding") == "identity"


async def test_listings_that_can_not_be_had_are_said_so() -> None:
    where = {"prefix": "", "delimiter": "", "after": ""}
    async with ScriptedServer(said(404, "notFound")) as server, gcs_origin(server.url) as origin:
        with pytest.raises(NotFound) as caught:
            await origin.list_objects("models", limit=10, **where)
        assert (caught.value.what, caught.value.name) == ("bucket", "models")
        with pytest.raises(NotSupported, match="project"):
            await origin.list_buckets()
    async with ScriptedServer(document(items=[{"size": "1"}])) as server, gcs_origin(server.url) as origin:
        with pytest.raises(OriginUnavailable):
            await origin.list_objects("models", limit=10, **where)
