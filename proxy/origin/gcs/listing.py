"""Listings of a bucket by GCS's JSON API, in the pages that clients ask for. Pure except for `ask`.

How it works. A page is requested by the name where it begins (`startOffset`); `pages` does the rest. `startOffset` is
inclusive and our `after` is not, so the name itself is dropped. A common prefix that was already returned is skipped by
starting at the first name beyond it. One that contains `after` is returned if it contains names beyond `after`.
Source: Cloud Storage documentation, "Objects: list".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from proxy.origin import ListedObject, ListPage
from proxy.origin.gcs.record import listed_etag, parse_time
from proxy.origin.gcs.target import Query
from proxy.origin.pages import FoundEntry, gather_page

PAGE_MAX = 1000  # GCS returns no more at once
FIELDS = "items(name,size,updated,md5Hash,generation,metageneration),prefixes,nextPageToken"


async def list_page(
    ask: Callable[[Query], Awaitable[FoundEntry]], *, prefix: str, delimiter: str, after: str, limit: int
) -> ListPage:
    """Return a page; see `Origin.list_objects`. `limit` counts keys and common prefixes; 0: an empty, final page."""
    if limit <= 0:
        return ListPage((), (), None)
    query = list_query(prefix, delimiter, after, limit)

    async def ask_at(token: str | None) -> FoundEntry:
        return await ask(query if token is None else (*query, ("pageToken", token)))

    return await gather_page(ask_at, after=after, limit=limit, undecodable="surrogatepass")


def list_query(prefix: str, delimiter: str, after: str, limit: int) -> Query:
    """Return the query. With a delimiter it asks for whole pages: some servers don't count common prefixes."""
    query = [("projection", "noAcl"), ("fields", FIELDS)]
    query.append(("maxResults", str(PAGE_MAX if delimiter else min(limit + 1, PAGE_MAX))))
    query += [(name, value) for name, value in (("prefix", prefix), ("delimiter", delimiter)) if value]
    if after:
        query.append(("startOffset", _offset(prefix, delimiter, after)))
    return tuple(query)


def read_page(document: Mapping[str, Any]) -> FoundEntry:
    """Parse a page. Raises KeyError, TypeError or ValueError unless it is a list of objects."""
    listed: dict[str, ListedObject | None] = {}
    for item in document.get("items") or ():
        modified_s = parse_time(item.get("updated"))
        numbers = (int(item[field]) if field in item else None for field in ("generation", "metageneration"))
        listed[item["name"]] = ListedObject(
            item["name"], int(item["size"]), listed_etag(item), modified_s or 0.0, *numbers
        )
    listed |= {str(name): None for name in document.get("prefixes") or ()}
    token = document.get("nextPageToken")
    return FoundEntry(listed, str(token) if token else None)


def beyond(prefix: str) -> str | None:
    """Return the least name that is greater than every name with this prefix, or None if there is none."""
    last = ord(prefix[-1]) + 1
    if last == 0xD800:  # surrogates are not characters
        last = 0xE000
    return prefix[:-1] + chr(last) if last <= 0x10FFFF else None


def _offset(prefix: str, delimiter: str, after: str) -> str:
    """Return where to begin. `\x01` is appended because GCS takes no NUL, and no name continues with it."""
    found = after.find(delimiter, len(prefix)) if delimiter and after.startswith(prefix) else -1
    if found < 0:
        return after
    if found + len(delimiter) == len(after):
        return beyond(after) or after
    return after + "\x01"
