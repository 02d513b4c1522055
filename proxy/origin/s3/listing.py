"""Listings of a bucket by ListObjectsV2 and of the account by ListBuckets, as neutral values. Pure except for `ask`.

How it works. A page is requested by the name after which it begins (`start-after`); `pages` does the rest. Stores
differ in what `start-after` means for a common prefix: some return it again. Names are requested percent-encoded, as
XML can't hold all of them.
Source: Amazon S3 API Reference, ListObjectsV2, ListBuckets.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from urllib.parse import unquote_to_bytes

from proxy.http.xml import ItemReader
from proxy.origin import ListedObject, ListPage
from proxy.origin.pages import FoundEntry, gather_page

ITEMS_MAX = 10_000  # accounts may have that many buckets; some stores return more objects at once than S3
PAGE_MAX = 1000  # S3 returns no more at once
Query = tuple[tuple[str, str], ...]


async def list_page(
    ask: Callable[[Query], Awaitable[FoundEntry]], *, prefix: str, delimiter: str, after: str, limit: int
) -> ListPage:
    """Return a page; see `Origin.list_objects`. `limit` counts keys and common prefixes; 0: an empty, final page."""
    if limit <= 0:
        return ListPage((), (), None)
    query: Query = (("list-type", "2"), ("encoding-type", "url"), ("max-keys", str(min(limit + 1, PAGE_MAX))))
    query += tuple((name, value) for name, value in (("prefix", prefix), ("delimiter", delimiter)) if value)

    async def ask_at(token: str | None) -> FoundEntry:
        if token is not None:
            return await ask((*query, ("continuation-token", token)))
        return await ask((*query, ("start-after", after)) if after else query)

    return await gather_page(ask_at, after=after, limit=limit, undecodable="surrogateescape")


def read_page(document: bytes) -> FoundEntry:
    """Parse a page. Raises ValueError unless it is a list of objects."""
    reader = ItemReader("ListBucketResult", ("Contents", "CommonPrefixes"), items_max=ITEMS_MAX)
    reader.parse(document)
    encoded = reader.settings.get("EncodingType", "").lower() == "url"
    listed: dict[str, ListedObject | None] = {}
    for kind, item in reader.items:
        name = _decode(item["Prefix" if kind == "CommonPrefixes" else "Key"], encoded)
        if kind == "CommonPrefixes":
            listed[name] = None
        else:
            listed[name] = ListedObject(name, int(item["Size"]), _etag(item), _time(item["LastModified"]))
    more = reader.settings.get("IsTruncated", "").lower() == "true"
    return FoundEntry(listed, reader.settings["NextContinuationToken"] if more else None)


def read_buckets(document: bytes) -> tuple[tuple[str, float], ...]:
    """Return names and creation times. Raises ValueError unless it is a list of buckets."""
    reader = ItemReader("ListAllMyBucketsResult", ("Buckets",), inner="Bucket", items_max=ITEMS_MAX)
    reader.parse(document)
    return tuple((item["Name"], _time(item["CreationDate"])) for _, item in reader.items)


def _decode(name: str, encoded: bool) -> str:
    """Percent-decode a name if the store has encoded it; a space may have become a plus."""
    return unquote_to_bytes(name.replace("+", " ")).decode("utf-8", "surrogateescape") if encoded else name


def _etag(item: dict[str, str]) -> str:
    """Return the ETag as in a HEAD; some stores omit the quotes in listings."""
    etag = item.get("ETag", "")
    return etag if '"' in etag or not etag else f'"{etag}"'


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
