"""Pages of listings as the JSON API and the XML API write them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from urllib.parse import quote

from gcsapi.listing import ListRequest, Page, generation_of
from gcsapi.resources import Resource, listed_resource
from proxy.gateway.answers import ListedObject
from proxy.gateway.routes import BucketRoute
from proxy.generations import METAGENERATION
from proxy.http.xml import document, element
from proxy.surface.page_tokens import render_page_token

NAMESPACE = "http://doc.s3.amazonaws.com/2006-03-01"


def json_page(route: BucketRoute, page: Page, host: str) -> Resource:
    resource: Resource = {"kind": "storage#objects"}
    if page.next_after:
        resource["nextPageToken"] = render_page_token(page.next_after)
    if page.prefixes:
        resource["prefixes"] = list(page.prefixes)
    if page.objects:
        resource["items"] = [
            listed_resource(listed, generation_of(route, listed), route.name, host) for listed in page.objects
        ]
    return resource


def xml_page(route: BucketRoute, request: ListRequest, parameters: Mapping[str, str], page: Page) -> bytes:
    encoded = parameters.get("encoding-type") == "url"
    second = parameters.get("list-type") == "2"
    truncated = page.next_after is not None and request.limit > 0
    content = [element("Name", route.name), element("Prefix", _name(request.prefix, encoded))]
    content += _continuation_v2(parameters, page, encoded) if second else _continuation(parameters, page, encoded)
    content.append(element("MaxKeys", request.limit))
    if request.delimiter:
        content.append(element("Delimiter", _name(request.delimiter, encoded)))
    if encoded:
        content.append(element("EncodingType", "url"))
    content.append(element("IsTruncated", "true" if truncated else "false"))
    content += [_object(route, listed, encoded) for listed in page.objects]
    content += [f"<CommonPrefixes>{element('Prefix', _name(name, encoded))}</CommonPrefixes>" for name in page.prefixes]
    return document("ListBucketResult", "".join(content), namespace=NAMESPACE)


def xml_buckets(buckets: Iterable[tuple[str, float]]) -> bytes:
    """Names and creation times (Unix seconds), in the order of names."""
    items = [
        f"<Bucket>{element('Name', name)}{element('CreationDate', _time(created_s))}</Bucket>"
        for name, created_s in sorted(buckets)
    ]
    content = f"<Owner>{element('ID', 'warmstart')}</Owner><Buckets>{''.join(items)}</Buckets>"
    return document("ListAllMyBucketsResult", content, namespace=NAMESPACE)


def _continuation(parameters: Mapping[str, str], page: Page, encoded: bool) -> list[str]:
    content = [element("Marker", _name(parameters.get("marker", ""), encoded))]
    if page.next_after:
        content.append(element("NextMarker", _name(page.next_after, encoded)))
    return content


def _continuation_v2(parameters: Mapping[str, str], page: Page, encoded: bool) -> list[str]:
    content = [element("KeyCount", len(page.objects) + len(page.prefixes))]
    if "continuation-token" in parameters:
        content.append(element("ContinuationToken", parameters["continuation-token"]))
    if parameters.get("start-after"):
        content.append(element("StartAfter", _name(parameters["start-after"], encoded)))
    if page.next_after:
        content.append(element("NextContinuationToken", render_page_token(page.next_after)))
    return content


def _object(route: BucketRoute, listed: ListedObject, encoded: bool) -> str:
    content = (
        element("Key", _name(listed.key, encoded))
        + element("Generation", generation_of(route, listed))
        + element("MetaGeneration", listed.metageneration or METAGENERATION)
        + element("LastModified", _time(listed.last_modified_s))
        + element("ETag", listed.etag)
        + element("Size", listed.size_bytes)
    )
    return f"<Contents>{content}</Contents>"


def _name(name: str, encoded: bool) -> str:
    """Percent-encoded where the client asked for it, `%20` for a space: every decoder reads that."""
    return quote(name.encode("utf-8", "surrogateescape"), safe="/*-._~") if encoded else name


def _time(seconds: float) -> str:
    moment = datetime.fromtimestamp(max(0.0, seconds), UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"
