"""Listing a bucket by ListObjectsV2 and the account by ListBuckets, as neutral values. Pure but for `ask`.

How it works. A page is asked for by the name where it begins (`start-after`); what else there is to it, `pages` does.
Stores differ in what `start-after` means for a common prefix: some show it once more. Names are asked for
percent-encoded, as XML can't hold them all.
Source: Amazon S3 API Reference, ListObjectsV2, ListBuckets.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from urllib.parse import unquote_to_bytes

from proxy.origin import ListedObject, ListPage
from proxy.origin.pages import Found, gather_page
from proxy.xml import ItemReader

ITEMS_MAX = 10_000  # accounts may have as many buckets; of objects, some stores give more than S3 at once
PAGE_MAX = 1000  # more, S3 does not give at once
Query = tuple[tuple[str, str], ...]


async def list_page(
    ask: Callable[[Query], Awaitable[Found]], *, prefix: str, delimiter: str, after: str, limit: int
) -> ListPage:
    """See `Origin.list_objects`. `limit` counts keys and common prefixes; 0 gives an empty, final page."""
    if limit <= 0:
        return ListPage((), (), None)
    query: Query = (("list-type", "2"), ("encoding-type", "url"), ("max-keys", str(min(limit + 1, PAGE_MAX))))
    query += tuple((name, value) for name, value in (("prefix", prefix), ("delimiter", delimiter)) if value)

    async def ask_at(token: str | None) -> Found:
        if token is not None:
            return await ask((*query, ("continuation-token", token)))
        return await ask((*query, ("start-after", after)) if after else query)

    return await gather_page(ask_at, after=after, limit=limit, undecodable="surrogateescape")


def read_page(document: bytes) -> Found:
    """Raises ValueError where it is no list of objects."""
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
    return Found(listed, reader.settings["NextContinuationToken"] if more else None)


def read_buckets(document: bytes) -> tuple[tuple[str, float], ...]:
    """Names and creation times. Raises ValueError where it is no list of buckets."""
    reader = ItemReader("ListAllMyBucketsResult", ("Buckets",), inner="Bucket", items_max=ITEMS_MAX)
    reader.parse(document)
    return tuple((item["Name"], _time(item["CreationDate"])) for _, item in reader.items)


def _decode(name: str, encoded: bool) -> str:
    """Percent-decoded where the store has encoded it; a space may have become a plus."""
    return unquote_to_bytes(name.replace("+", " ")).decode("utf-8", "surrogateescape") if encoded else name


def _etag(item: dict[str, str]) -> str:
    """As a HEAD tells it; some stores leave the quotes out in listings."""
    etag = item.get("ETag", "")
    return etag if '"' in etag or not etag else f'"{etag}"'


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
