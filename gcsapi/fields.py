"""Partial responses: what the `fields` parameter chooses of a JSON resource. Pure.

How it works. `items(name,size),nextPageToken`, `metadata/colour` and `*` become a tree of names, a leaf being all that
is below it. A name that the resource can never have is refused, as GCS does, so that a typing error is not an empty
answer.
Source: Cloud Storage documentation, "JSON API performance tips: Using partial responses".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from proxy.errors import InvalidRequest

Selection = Mapping[str, "Selection | None"]  # None: all of it

OBJECT: Selection = dict.fromkeys(
    [
        "acl",
        "bucket",
        "cacheControl",
        "componentCount",
        "contentDisposition",
        "contentEncoding",
        "contentLanguage",
        "contentType",
        "contexts",
        "crc32c",
        "customTime",
        "customerEncryption",
        "etag",
        "eventBasedHold",
        "generation",
        "hardDeleteTime",
        "id",
        "kind",
        "kmsKeyName",
        "md5Hash",
        "mediaLink",
        "metadata",
        "metageneration",
        "name",
        "owner",
        "restoreToken",
        "retention",
        "retentionExpirationTime",
        "selfLink",
        "size",
        "softDeleteTime",
        "storageClass",
        "temporaryHold",
        "timeCreated",
        "timeDeleted",
        "timeFinalized",
        "timeStorageClassUpdated",
        "updated",
    ]
)
BUCKET: Selection = dict.fromkeys(
    [
        "acl",
        "autoclass",
        "billing",
        "cors",
        "customPlacementConfig",
        "defaultEventBasedHold",
        "defaultObjectAcl",
        "encryption",
        "etag",
        "generation",
        "hierarchicalNamespace",
        "iamConfiguration",
        "id",
        "ipFilter",
        "kind",
        "labels",
        "lifecycle",
        "location",
        "locationType",
        "logging",
        "metageneration",
        "name",
        "objectRetention",
        "owner",
        "projectNumber",
        "retentionPolicy",
        "rpo",
        "satisfiesPZI",
        "satisfiesPZS",
        "selfLink",
        "softDeletePolicy",
        "storageClass",
        "timeCreated",
        "updated",
        "versioning",
        "website",
    ]
)
OBJECTS: Selection = {"kind": None, "nextPageToken": None, "prefixes": None, "items": OBJECT}
BUCKETS: Selection = {"kind": None, "nextPageToken": None, "items": BUCKET, "unreachable": None}

DEPTH_MAX = 16
_TOKENS = re.compile(r"[A-Za-z0-9_.\-]+|\*|[(),/]")


def select(resource: Mapping[str, Any], fields: str | None, schema: Selection) -> Mapping[str, Any]:
    """What `fields` chooses of the resource. Raises InvalidRequest("invalidParameter")."""
    if not fields:
        return resource
    selection = parse_fields(fields)
    _check(selection, schema)
    chosen: Mapping[str, Any] = _project(resource, selection)
    return chosen


def parse_fields(text: str) -> Selection:
    """The tree of names. Raises InvalidRequest("invalidParameter")."""
    tokens = _TOKENS.findall(text.replace(" ", ""))
    if "".join(tokens) != text.replace(" ", ""):
        raise _invalid(text)
    selection = _parse_list(tokens, text, 0)
    if tokens:
        raise _invalid(text)
    return selection


def _parse_list(tokens: list[str], text: str, depth: int) -> Selection:
    """Consumes tokens up to the end, or to a parenthesis that it leaves."""
    chosen: dict[str, Selection | None] = {}
    while True:
        _parse_path(tokens, text, depth, chosen)
        if not tokens or tokens[0] == ")":
            return chosen
        if tokens.pop(0) != ",":
            raise _invalid(text)


def _parse_path(tokens: list[str], text: str, depth: int, chosen: dict[str, Selection | None]) -> None:
    if depth > DEPTH_MAX or not tokens or tokens[0] in "(),/":
        raise _invalid(text)
    name = tokens.pop(0)
    below: Selection | None = None
    if tokens and tokens[0] == "/":
        tokens.pop(0)
        inner: dict[str, Selection | None] = {}
        _parse_path(tokens, text, depth + 1, inner)
        below = inner
    elif tokens and tokens[0] == "(":
        tokens.pop(0)
        below = _parse_list(tokens, text, depth + 1)
        if not tokens or tokens.pop(0) != ")":
            raise _invalid(text)
    chosen[name] = _merge(chosen[name], below) if name in chosen else below


def _merge(one: Selection | None, other: Selection | None) -> Selection | None:
    if one is None or other is None:
        return None
    return {**one, **{name: _merge(one[name], below) if name in one else below for name, below in other.items()}}


def _check(selection: Selection, schema: Selection) -> None:
    for name, below in selection.items():
        if name == "*":
            continue
        if name not in schema:
            raise _invalid(name)
        known = schema[name]
        if below is not None and known is not None:
            _check(below, known)


def _project(value: Any, selection: Selection) -> Any:
    if isinstance(value, list):
        return [_project(item, selection) for item in value]
    if not isinstance(value, Mapping):
        return value
    chosen = {}
    for name, item in value.items():
        rule = name if name in selection else "*"
        if rule in selection:
            below = selection[rule]
            chosen[name] = item if below is None else _project(item, below)
    return chosen


def _invalid(what: str) -> InvalidRequest:
    return InvalidRequest("invalidParameter", f"Invalid field selection {what[:200]}")
