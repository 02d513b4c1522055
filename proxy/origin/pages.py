"""A page of a listing, assembled from the store's own pages. Pure except for `ask`.

How it works. A page begins after a name (`after`), never at a store's own token: the name where a page ended is enough,
and means the same on every node. A store may repeat names up to `after`, which are dropped. It may also return fewer
names than requested, even none, with a token for the next ones. Such pages are added up until ours is full, or
PAGES_MAX have been read: then our page is short, and the next one continues at its end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial

from proxy.errors import OriginUnavailable
from proxy.origin import ListedObject, ListPage

PAGES_MAX = 100  # of the store's pages, for one of ours: an endless listing must not keep its reader for ever


@dataclass(frozen=True, slots=True)
class FoundEntry:
    """One page of the store. `listed` maps names to objects, and common prefixes to None."""

    listed: Mapping[str, ListedObject | None]
    token: str | None


async def gather_page(
    ask: Callable[[str | None], Awaitable[FoundEntry]], *, after: str, limit: int, undecodable: str
) -> ListPage:
    """Return a page. `ask` returns the store's page at a token, the first one for None.

    `limit` counts keys and common prefixes. Names are ordered by their UTF-8 bytes; `undecodable` is the codecs' error
    handler for names that are not UTF-8.
    """
    order = partial(str.encode, encoding="utf-8", errors=undecodable)

    def is_beyond(name: str, is_prefix: bool) -> bool:
        """Return whether a name belongs to the page. A prefix of `after` does: the store found later names in it."""
        return order(name) > order(after) or (is_prefix and name != after and after.startswith(name))

    listed: dict[str, ListedObject | None] = {}
    token: str | None = None
    for _ in range(PAGES_MAX):
        found = await ask(token)
        listed |= {name: item for name, item in found.listed.items() if is_beyond(name, item is None)}
        token = found.token
        if token is None or len(listed) >= limit:
            break
    if token is not None and not listed:
        raise OriginUnavailable(f"the origin sent {PAGES_MAX} pages of a listing with nothing in them")
    return _cut(listed, sorted(listed, key=order), limit, more=token is not None)


def _cut(listed: Mapping[str, ListedObject | None], names: list[str], limit: int, *, more: bool) -> ListPage:
    kept = names[:limit]
    objects = tuple(item for name in kept if (item := listed[name]) is not None)
    prefixes = tuple(name for name in kept if listed[name] is None)
    ended = not more and len(names) <= limit
    return ListPage(objects, prefixes, None if ended or not kept else kept[-1])
