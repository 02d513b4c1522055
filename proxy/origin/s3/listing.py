"""Listing a bucket by ListObjectsV2 and the account by ListBuckets, as neutral values. Pure but for `ask`.

How it works. A page is asked for by the name where it begins (`start-after`), so the place where our page ended says
all and no token of the store's is kept. Stores differ in what `start-after` means for a common prefix: some show it
once more, so one that was shown is dropped here. More pages are asked for, by the store's own token, until ours is
full. Names are asked for percent-encoded, as XML can't hold them all.
Source: Amazon S3 API Reference, ListObjectsV2, ListBuckets.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import unquote_to_bytes
from xml.parsers import expat

from proxy.origin import ListedObject, ListPage

PAGE_MAX = 1000  # more, S3 does not give at once
Query = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Found:
    """One page of the store's. `listed` maps names to objects, and common prefixes to None."""

    listed: dict[str, ListedObject | None] = field(default_factory=dict)
    token: str | None = None


async def list_page(
    ask: Callable[[Query], Awaitable[Found]], *, prefix: str, delimiter: str, after: str, limit: int
) -> ListPage:
    """See `Origin.list_objects`. `limit` counts keys and common prefixes; 0 gives an empty, final page."""
    if limit <= 0:
        return ListPage((), (), None)
    query: Query = (("list-type", "2"), ("encoding-type", "url"), ("max-keys", str(min(limit + 1, PAGE_MAX))))
    query += tuple((name, value) for name, value in (("prefix", prefix), ("delimiter", delimiter)) if value)
    place: Query = (("start-after", after),) if after else ()
    listed: dict[str, ListedObject | None] = {}
    while True:
        found = await ask((*query, *place))
        listed |= {name: item for name, item in found.listed.items() if _is_beyond(name, item is None, after)}
        if found.token is None or len(listed) >= limit:
            return _cut(listed, limit, more=found.token is not None)
        place = (("continuation-token", found.token),)


def _is_beyond(name: str, is_prefix: bool, after: str) -> bool:
    """A prefix that `after` lies in is shown if there are names beyond `after` in it, and the store found some."""
    return _order(name) > _order(after) or (is_prefix and name != after and after.startswith(name))


def _cut(listed: dict[str, ListedObject | None], limit: int, *, more: bool) -> ListPage:
    names = sorted(listed, key=_order)
    kept = names[:limit]
    objects = tuple(item for name in kept if (item := listed[name]) is not None)
    prefixes = tuple(name for name in kept if listed[name] is None)
    ended = not more and len(names) <= limit
    return ListPage(objects, prefixes, None if ended or not kept else kept[-1])


def _order(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def read_page(document: bytes) -> Found:
    """Raises ValueError where it is no list of objects."""
    reader = _Reader("ListBucketResult", ("Contents", "CommonPrefixes"))
    reader.parse(document)
    encoded = reader.settings.get("EncodingType", "").lower() == "url"
    found = Found()
    for kind, item in reader.items:
        name = _decode(item["Prefix" if kind == "CommonPrefixes" else "Key"], encoded)
        if kind == "CommonPrefixes":
            found.listed[name] = None
        else:
            found.listed[name] = ListedObject(name, int(item["Size"]), _etag(item), _time(item["LastModified"]))
    if reader.settings.get("IsTruncated", "").lower() == "true":
        found.token = reader.settings["NextContinuationToken"]
    return found


def read_buckets(document: bytes) -> tuple[tuple[str, float], ...]:
    """Names and creation times. Raises ValueError where it is no list of buckets."""
    reader = _Reader("ListAllMyBucketsResult", ("Buckets",), inner="Bucket")
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


class _Reader:
    """A reader of `<ROOT><ITEM>fields</ITEM>…`; a document type, and so any entity, is refused.

    `settings` are the fields beside the items; `inner` names the items of a collection.
    """

    def __init__(self, root: str, kinds: tuple[str, ...], inner: str | None = None) -> None:
        self._root = root
        self._kinds = kinds
        self._depth = 2 if inner is None else 3
        self._path: list[str] = []
        self._text: list[str] = []
        self._item: dict[str, str] = {}
        self.items: list[tuple[str, dict[str, str]]] = []
        self.settings: dict[str, str] = {}

    def parse(self, content: bytes) -> None:
        """Raises ValueError."""
        parser = expat.ParserCreate()
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text.append
        parser.StartDoctypeDeclHandler = self._refuse
        try:
            parser.Parse(content, True)
        except expat.ExpatError as error:
            raise ValueError("no XML") from error

    def _refuse(self, *_: object) -> None:
        raise ValueError("a document type")

    def _start(self, name: str, _: dict[str, str]) -> None:
        self._path.append(name.rpartition(":")[2])
        self._text.clear()
        if self._path[0] != self._root:
            raise ValueError(f"a {self._path[0]}")
        if len(self._path) == self._depth:
            self._item = {}

    def _end(self, _: str) -> None:
        text = "".join(self._text)
        path, kind = self._path, self._path[1] if len(self._path) > 1 else ""
        if kind not in self._kinds:
            if len(path) == 2:
                self.settings[kind] = text
        elif len(path) == self._depth:
            self.items.append((kind, self._item))
        elif len(path) == self._depth + 1:
            self._item[path[-1]] = text
        path.pop()
