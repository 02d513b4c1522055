"""Objects: what a client asks to list, and the page that a neutral listing makes of it.

How it works. Origins list by prefix, delimiter and the name behind which a page begins. What GCS has beyond that is
made of it here: `startOffset` is inclusive, so the object of just that name is looked for; `endOffset` ends the walk;
`matchGlob` leaves names out, and pages are added until there are enough names, or PAGES_MAX are read, or matching has
cost GLOB_STEPS_MAX: then the answer is short and its token goes on, as GCS may do it, too; names are matched in slices,
between which other requests are answered; `includeTrailingDelimiter` looks for an object that is called like each
common prefix, a request each, so such pages are shorter. An object has one version here, so `versions` changes nothing.
Source: Cloud Storage documentation, "Objects: list", "XML API: GET Bucket (List Objects)".
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gcsapi.globs import Glob
from proxy.errors import InvalidRequest
from proxy.gateway.answers import ListedObject
from proxy.gateway.routes import BucketRoute
from proxy.generations import derive_generation
from proxy.objects import ObjectVersion
from proxy.surface.page_tokens import parse_page_token

RESULTS_MAX = 1000
PAGES_MAX = 10
TRAILING_MAX = 200  # entries of a page whose common prefixes cost a request each
AT_ONCE_MAX = 16
GLOB_STEPS_MAX = 1_000_000  # of one request: about 0.15 s of CPU
SLICE_STEPS = 20_000  # about 3 ms
_INT32_MAX = 2_147_483_647


@dataclass(frozen=True, slots=True)
class ListRequest:
    """What to list. `after` is exclusive, `start` inclusive, `end` exclusive; "" begins and ends nowhere."""

    prefix: str = ""
    delimiter: str = ""
    after: str = ""
    start: str = ""
    end: str = ""
    limit: int = RESULTS_MAX
    glob: Glob | None = None
    trailing: bool = False


@dataclass(slots=True)
class Page:
    """`next_after` (exclusive) continues it; None where there is no more."""

    objects: list[ListedObject] = field(default_factory=list)
    prefixes: dict[str, None] = field(default_factory=dict)
    next_after: str | None = None


def parse_json_list(parameters: Mapping[str, str]) -> ListRequest:
    """Raises InvalidRequest."""
    pattern = parameters.get("matchGlob", "")
    token = parameters.get("pageToken", "")
    prefix, delimiter = parameters.get("prefix", ""), parameters.get("delimiter", "")
    limit = _parse_limit(parameters.get("maxResults", ""), "maxResults") or RESULTS_MAX
    trailing = parameters.get("includeTrailingDelimiter", "").lower() == "true"
    glob = Glob(pattern) if pattern else None
    if glob is not None and glob.prefix.startswith(prefix):
        prefix = glob.prefix if not delimiter else prefix
    return ListRequest(
        prefix=prefix,
        delimiter=delimiter,
        after=_parse_token(token, "pageToken") if token else "",
        start=parameters.get("startOffset", "") if not token else "",
        end=parameters.get("endOffset", ""),
        limit=min(limit, TRAILING_MAX) if trailing and delimiter else limit,
        glob=glob,
        trailing=trailing,
    )


def parse_xml_list(parameters: Mapping[str, str]) -> ListRequest:
    """Of either version: `marker`, or `list-type=2`. Raises InvalidRequest."""
    after = parameters.get("start-after" if parameters.get("list-type") == "2" else "marker", "")
    token = parameters.get("continuation-token", "")
    if parameters.get("encoding-type", "") not in ("", "url"):
        raise InvalidRequest("InvalidArgument", "Invalid argument: encoding-type.")
    return ListRequest(
        prefix=parameters.get("prefix", ""),
        delimiter=parameters.get("delimiter", ""),
        after=_parse_token(token, "continuation-token") if token else after,
        limit=_parse_limit(parameters.get("max-keys", ""), "max-keys", default=RESULTS_MAX),
    )


async def list_page(route: BucketRoute, request: ListRequest) -> Page:
    """Raises what the origin raises."""
    page, after = Page(), request.after
    if request.start:
        after = request.start
        page = await _first(route, request)
    for _ in range(PAGES_MAX):
        found = await route.origin.list_objects(
            route.real_bucket, prefix=request.prefix, delimiter=request.delimiter, after=after, limit=request.limit
        )
        objects = {item.key: item for item in found.objects}
        page.next_after = found.next_after
        for name in sorted([*objects, *found.prefixes], key=_order):
            if len(page.objects) + len(page.prefixes) >= request.limit:
                page.next_after = after
                break
            if request.end and not await _begins_before(route, name, request.end, is_prefix=name not in objects):
                page.next_after = None
                break
            after = name
            _add(page, request, name, objects.get(name))
            if await _rest(request.glob):
                page.next_after = after
                return page
        if page.next_after is None or len(page.objects) + len(page.prefixes) >= request.limit:
            break
        after = page.next_after
    if request.trailing and request.delimiter:
        page.objects += await _trailing(route, page.prefixes)
    return page


def generation_of(route: BucketRoute, listed: ListedObject) -> int:
    """The origin's own, else the one that the object's record has, too."""
    if listed.generation is not None:
        return listed.generation
    validator = f"etag {listed.etag}"
    version = ObjectVersion(route.origin.id, route.real_bucket, listed.key, validator, listed.size_bytes)
    return derive_generation(version, listed.last_modified_s)


def _add(page: Page, request: ListRequest, name: str, listed: ListedObject | None) -> None:
    glob = request.glob
    if glob is not None and not glob.matches(name if listed is not None else name.removesuffix(request.delimiter)):
        return
    if listed is None:
        page.prefixes[name] = None
    else:
        page.objects.append(listed)


async def _rest(glob: Glob | None) -> bool:
    """Lets others have their turn after each slice of matching. Whether this request has had its share of it."""
    if glob is None or glob.steps - glob.rested_at < SLICE_STEPS:
        return False
    glob.rested_at = glob.steps
    await asyncio.sleep(0)
    return glob.steps >= GLOB_STEPS_MAX


async def _first(route: BucketRoute, request: ListRequest) -> Page:
    """The object whose name is just where the listing begins, or the common prefix that it is listed as."""
    page, start = Page(), request.start
    if not start.startswith(request.prefix) or (request.end and _order(start) >= _order(request.end)):
        return page
    listed = await _exactly(route, start)
    if listed is not None:
        cut = start.find(request.delimiter, len(request.prefix)) if request.delimiter else -1
        if cut < 0:
            _add(page, request, start, listed)
        else:
            _add(page, request, start[: cut + len(request.delimiter)], None)
    return page


async def _exactly(route: BucketRoute, name: str) -> ListedObject | None:
    found = await route.origin.list_objects(route.real_bucket, prefix=name, delimiter="", after="", limit=1)
    return found.objects[0] if found.objects and found.objects[0].key == name else None


async def _begins_before(route: BucketRoute, name: str, end: str, *, is_prefix: bool) -> bool:
    """Whether an entry holds a name before `end`: of a common prefix, only its first name can tell."""
    if _order(name) >= _order(end):
        return False
    if not is_prefix or not end.startswith(name):
        return True
    found = await route.origin.list_objects(route.real_bucket, prefix=name, delimiter="", after="", limit=1)
    return bool(found.objects) and _order(found.objects[0].key) < _order(end)


async def _trailing(route: BucketRoute, prefixes: Iterable[str]) -> list[ListedObject]:
    """The objects that are called like these prefixes."""
    room = asyncio.Semaphore(AT_ONCE_MAX)

    async def look(name: str) -> ListedObject | None:
        async with room:
            return await _exactly(route, name)

    return [listed for listed in await asyncio.gather(*map(look, prefixes)) if listed is not None]


def _order(name: str) -> bytes:
    """Names are ordered by their UTF-8 bytes."""
    return name.encode("utf-8", "surrogateescape")


def _parse_token(token: str, parameter: str) -> str:
    after = parse_page_token(token)
    if after is None:
        raise InvalidRequest("invalid", f"Invalid value for {parameter}: it is not from a listing of this gateway.")
    return after


def _parse_limit(value: str, parameter: str, *, default: int = 0) -> int:
    if not value:
        return default
    if not value.isascii() or not value.isdigit() or len(value) > 10 or int(value) > _INT32_MAX:
        raise InvalidRequest("invalid", f"Invalid value for {parameter}: '{value[:100]}' is no number.")
    return min(int(value), RESULTS_MAX)
