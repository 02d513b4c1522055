"""Operations on buckets that are not at GCS (S3 stores, directories), in GCS's words; and listings of all origins."""

from __future__ import annotations

from typing import Protocol

from gcsapi.exchange import Exchange
from gcsapi.fields import BUCKET, BUCKETS, OBJECT, OBJECTS, select
from gcsapi.inserts import delete, insert
from gcsapi.listing import list_page, parse_json_list, parse_xml_list
from gcsapi.pages import json_page, xml_buckets, xml_page
from gcsapi.requests import Api, Pass
from gcsapi.resources import bucket_resource, object_resource, storage_layout
from gcsapi.responses import JSON_TYPE, XML_TYPE, json_reply, xml_reply
from proxy.errors import NotSupported
from proxy.gateway.answers import ReadAnswer, ReadObject
from proxy.gateway.forward import Forwarder
from proxy.gateway.routes import BucketRoute, Routes
from proxy.http.dialect_headers import goog_headers
from proxy.objects import ObjectName
from proxy.surface.heads import Reply


class Reader(Protocol):
    async def read(self, request: ReadObject) -> ReadAnswer: ...


async def answer_bucket(
    exchange: Exchange, reader: Reader, forwarder: Forwarder, route: BucketRoute, operation: Pass
) -> Reply:
    """Raises what the origin raises; NotSupported for what only GCS can do."""
    match operation.operation:
        case "storage.objects.list":
            return await list_objects(exchange, route, operation)
        case "storage.buckets.get":
            return await _get_bucket(exchange, route, operation)
        case "storage.buckets.storageLayout.get":
            await _check_exists(route)
            return json_reply(storage_layout(route.name))
        case "storage.objects.insert" if route.origin.dialect == "s3":
            return await _insert(exchange, reader, forwarder, route, operation)
        case "storage.objects.delete" if route.origin.dialect == "s3":
            return await _delete(reader, forwarder, route, operation)
    where = "an S3 store" if route.origin.dialect == "s3" else "a directory"
    raise NotSupported(f"{operation.operation} is not possible: the bucket {route.name!r} is at {where}.")


async def list_objects(exchange: Exchange, route: BucketRoute, operation: Pass) -> Reply:
    """Raises InvalidRequest, and what the origin raises."""
    parameters = operation.parameters
    if operation.api is Api.XML:
        request = parse_xml_list(parameters)
        return xml_reply(xml_page(route, request, parameters, await list_page(route, request)))
    request = parse_json_list(parameters)
    select({}, parameters.get("fields"), OBJECTS)  # refused before the origin is asked
    page = json_page(route, await list_page(route, request), exchange.host)
    return json_reply(select(page, parameters.get("fields"), OBJECTS))


async def list_buckets(exchange: Exchange, routes: Routes, operation: Pass) -> Reply:
    """See `Routes.list_buckets`."""
    created = await routes.list_buckets()
    if operation.api is Api.XML:
        return xml_reply(xml_buckets(created.items()))
    prefix = operation.parameters.get("prefix", "")
    items = [bucket_resource(name, created[name], exchange.host) for name in sorted(created) if name.startswith(prefix)]
    page = {"kind": "storage#buckets", "items": items}
    return json_reply(select(page, operation.parameters.get("fields"), BUCKETS))


async def _get_bucket(exchange: Exchange, route: BucketRoute, operation: Pass) -> Reply:
    if operation.api is Api.XML:
        await _check_exists(route)
        return Reply(200, (("content-type", XML_TYPE),))
    resource = select(bucket_resource(route.name, 0.0, exchange.host), operation.parameters.get("fields"), BUCKET)
    await _check_exists(route)
    return json_reply(resource)


async def _check_exists(route: BucketRoute) -> None:
    """Raises NotFound."""
    await route.origin.list_objects(route.real_bucket, prefix="", delimiter="/", after="", limit=1)


async def _insert(
    exchange: Exchange, reader: Reader, forwarder: Forwarder, route: BucketRoute, operation: Pass
) -> Reply:
    name = ObjectName(route.name, await insert(exchange, forwarder, route, operation))
    written = await reader.read(ReadObject(name, head_only=True, revalidate=True))
    if operation.api is Api.XML:
        return Reply(200, (("etag", written.record.etag), *goog_headers(written.record)))
    resource = object_resource(name, written.record, exchange.host)
    return json_reply(select(resource, operation.parameters.get("fields"), OBJECT))


async def _delete(reader: Reader, forwarder: Forwarder, route: BucketRoute, operation: Pass) -> Reply:
    name = operation.target.name
    assert name is not None
    forwarder.check_writable(route)
    found = await reader.read(ReadObject(ObjectName(route.name, name), head_only=True, revalidate=True))
    await delete(forwarder, route, operation, found.record)
    return Reply(204, (("content-type", JSON_TYPE),) if operation.api is Api.JSON else ())
