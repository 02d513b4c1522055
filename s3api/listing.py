"""ListObjects, ListObjectsV2, ListBuckets and GetBucketLocation for origins that have no S3 of their own. Pure.

How it works. A page comes in the order of S3 (UTF-8 bytes, keys and common prefixes together) with the place where the
next one begins, which the continuation token carries. `max-keys` counts keys and common prefixes alike, 1000 at most.
Source: Amazon S3 API Reference, ListObjects, ListObjectsV2.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote

from proxy.errors import InvalidRequest
from proxy.gateway.answers import ListedObject, ListPage
from proxy.surface.page_tokens import parse_page_token, render_page_token
from s3api.xml import document, element

MAX_KEYS = 1000
_INT32_MAX = 2_147_483_647
_OWNER = "<Owner><ID>warmstart</ID><DisplayName>warmstart</DisplayName></Owner>"


@dataclass(frozen=True, slots=True)
class ListRequest:
    """What a client asks to list. `after` is exclusive; "" begins at the beginning."""

    bucket: str
    version: int = 1
    prefix: str = ""
    delimiter: str = ""
    after: str = ""
    max_keys: int = MAX_KEYS
    encoded: bool = False
    owners: bool = True
    marker: str = ""  # version 1
    start_after: str = ""  # version 2
    token: str | None = None  # version 2


def parse_list_request(bucket: str, parameters: Mapping[str, str]) -> ListRequest:
    """Raises InvalidRequest("InvalidArgument")."""
    encoding = parameters.get("encoding-type", "")
    if encoding not in ("", "url"):
        raise InvalidRequest("InvalidArgument", "Invalid Encoding Method specified in Request")
    version = 2 if parameters.get("list-type") == "2" else 1
    marker = parameters.get("marker", "")
    start_after = parameters.get("start-after", "")
    token = parameters.get("continuation-token") if version == 2 else None
    after = marker if version == 1 else start_after
    if token is not None:
        after = parse_token(token)
    return ListRequest(
        bucket=bucket,
        version=version,
        prefix=parameters.get("prefix", ""),
        delimiter=parameters.get("delimiter", ""),
        after=after,
        max_keys=_parse_max_keys(parameters.get("max-keys", "")),
        encoded=encoding == "url",
        owners=version == 1 or parameters.get("fetch-owner", "").lower() == "true",
        marker=marker,
        start_after=start_after,
        token=token,
    )


def render_list(request: ListRequest, page: ListPage) -> bytes:
    """The ListBucketResult of either version."""
    truncated = page.next_after is not None and request.max_keys > 0
    content = [element("Name", request.bucket), element("Prefix", _name(request, request.prefix))]
    content += _render_continuation(request, page) if request.version == 1 else _render_continuation_v2(request, page)
    content.append(element("MaxKeys", request.max_keys))
    if request.delimiter:
        content.append(element("Delimiter", _name(request, request.delimiter)))
    if request.encoded:
        content.append(element("EncodingType", "url"))
    content.append(element("IsTruncated", "true" if truncated else "false"))
    content += [_render_object(request, listed) for listed in page.objects]
    content += [f"<CommonPrefixes>{element('Prefix', _name(request, name))}</CommonPrefixes>" for name in page.prefixes]
    return document("ListBucketResult", "".join(content))


def render_buckets(buckets: Iterable[tuple[str, float]]) -> bytes:
    """Names and creation times (Unix seconds), in the order of names."""
    items = [
        f"<Bucket>{element('Name', name)}{element('CreationDate', _time(created_s))}</Bucket>"
        for name, created_s in sorted(buckets)
    ]
    return document("ListAllMyBucketsResult", f"{_OWNER}<Buckets>{''.join(items)}</Buckets>")


def render_location() -> bytes:
    """An empty constraint is us-east-1, the region that every client can sign for."""
    return document("LocationConstraint", "")


def parse_token(token: str) -> str:
    """Where the page begins; raises InvalidRequest for a token that this gateway has not made."""
    after = parse_page_token(token)
    if after is None:
        raise InvalidRequest("InvalidArgument", "The continuation token provided is incorrect")
    return after


def _parse_max_keys(value: str) -> int:
    if not value:
        return MAX_KEYS
    if not value.isascii() or not value.isdigit() or len(value) > 10 or int(value) > _INT32_MAX:
        raise InvalidRequest("InvalidArgument", "Provided max-keys not an integer or within integer range")
    return min(int(value), MAX_KEYS)


def _render_continuation(request: ListRequest, page: ListPage) -> list[str]:
    content = [element("Marker", _name(request, request.marker))]
    if (
        page.next_after is not None and request.delimiter and request.max_keys
    ):  # without one, the last key is the marker
        content.append(element("NextMarker", _name(request, page.next_after)))
    return content


def _render_continuation_v2(request: ListRequest, page: ListPage) -> list[str]:
    content = [element("KeyCount", len(page.objects) + len(page.prefixes))]
    if request.token is not None:
        content.append(element("ContinuationToken", request.token))
    if request.start_after:
        content.append(element("StartAfter", _name(request, request.start_after)))
    if page.next_after is not None and request.max_keys:
        content.append(element("NextContinuationToken", render_page_token(page.next_after)))
    return content


def _render_object(request: ListRequest, listed: ListedObject) -> str:
    content = (
        element("Key", _name(request, listed.key))
        + element("LastModified", _time(listed.last_modified_s))
        + element("ETag", listed.etag)
        + element("Size", listed.size_bytes)
        + element("StorageClass", "STANDARD")
        + (_OWNER if request.owners else "")
    )
    return f"<Contents>{content}</Contents>"


def _name(request: ListRequest, name: str) -> str:
    """Percent-encoded where the client asked for it, `%20` for a space: every decoder reads that."""
    if not request.encoded:
        return name
    return quote(name.encode("utf-8", "surrogateescape"), safe="/*-._~")


def _time(seconds: float) -> str:
    moment = datetime.fromtimestamp(max(0.0, seconds), UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"
