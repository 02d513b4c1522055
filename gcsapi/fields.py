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
_Tree = dict[str, "_Tree | None"]

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

FIELDS_MAX = 4096  # characters; every name of an object's resource, each with `items/`, has 900
DEPTH_MAX = 16
_END = ""  # behind the last token
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
    if len(text) > FIELDS_MAX:
        raise InvalidRequest("invalidParameter", f"A field selection has up to {FIELDS_MAX} characters.")
    text = text.replace(" ", "")
    tokens = _TOKENS.findall(text)
    if sum(map(len, tokens)) != len(text):
        raise _invalid(text)
    tokens.append(_END)
    selection: _Tree = {}
    if _parse_list(tokens, 0, text, 0, selection) != len(tokens) - 1:
        raise _invalid(text)
    return selection


def _parse_list(tokens: list[str], at: int, text: str, depth: int, chosen: _Tree) -> int:
    """Reads paths from a token on, up to the end, or to a parenthesis that it leaves; returns where that is."""
    while True:
        at = _parse_path(tokens, at, text, depth, chosen)
        if tokens[at] in (_END, ")"):
            return at
        if tokens[at] != ",":
            raise _invalid(text)
        at += 1


def _parse_path(tokens: list[str], at: int, text: str, depth: int, chosen: _Tree) -> int:
    """Adds one path to what is chosen already: a name that is chosen whole stays so."""
    if depth > DEPTH_MAX or tokens[at] in "(),/":
        raise _invalid(text)
    name, sign = tokens[at], tokens[at + 1]
    at += 1
    if sign not in ("/", "("):
        chosen[name] = None
        return at
    kept = chosen.setdefault(name, {})
    below: _Tree = {} if kept is None else kept
    if sign == "/":
        return _parse_path(tokens, at + 1, text, depth + 1, below)
    at = _parse_list(tokens, at + 1, text, depth + 1, below)
    if tokens[at] != ")":
        raise _invalid(text)
    return at + 1


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
