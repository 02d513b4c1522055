"""Every error of the family in GCS's two shapes, and nothing else's secrets."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree

import pytest

from gcsapi.errors import Asked, render_error
from gcsapi.requests import Api
from proxy.errors import (
    AccessDenied,
    InvalidRequest,
    NotFound,
    NotSupported,
    OriginRefused,
    OriginUnavailable,
    OtherGeneration,
    Overloaded,
    PreconditionFailed,
    RangeNotSatisfiable,
    StoreUnavailable,
    VersionChanged,
)

FAMILY: list[tuple[Exception, int, str, str]] = [
    (NotFound("bucket", "w"), 404, "notFound", "NoSuchBucket"),
    (NotFound("key", "x"), 404, "notFound", "NoSuchKey"),
    (NotFound("version", "x"), 404, "notFound", "NoSuchKey"),
    (OtherGeneration("generation 5"), 404, "notFound", "NoSuchKey"),
    (AccessDenied("set writes"), 403, "forbidden", "AccessDenied"),
    (RangeNotSatisfiable(10), 416, "requestedRangeNotSatisfiable", "InvalidRange"),
    (PreconditionFailed("If-Match"), 412, "conditionNotMet", "PreconditionFailed"),
    (InvalidRequest("invalid", "no number"), 400, "invalid", "InvalidArgument"),
    (InvalidRequest("InvalidArgument", "bad"), 400, "invalid", "InvalidArgument"),
    (InvalidRequest("invalidAltValue", "bad"), 400, "invalidAltValue", "InvalidArgument"),
    (InvalidRequest("required", "name"), 400, "required", "InvalidArgument"),
    (InvalidRequest("RequestTimeout", "slow"), 408, "requestTimeout", "RequestTimeout"),
    (InvalidRequest("MaxMessageLengthExceeded", "big"), 413, "uploadTooLarge", "EntityTooLarge"),
    (InvalidRequest("MethodNotAllowed", "no"), 405, "methodNotAllowed", "MethodNotAllowed"),
    (NotSupported("compose is not possible"), 501, "notImplemented", "NotImplemented"),
    (Overloaded("full", retry_after_s=2.5), 503, "backendError", "ServiceUnavailable"),
    (OriginUnavailable("down"), 503, "backendError", "ServiceUnavailable"),
    (VersionChanged("x"), 503, "backendError", "ServiceUnavailable"),
    (StoreUnavailable("disk"), 503, "backendError", "ServiceUnavailable"),
    (OriginRefused(409, (), b"<Error/>", "conflict"), 409, "conflict", "Conflict"),
    (OriginRefused(418, (), b""), 418, "invalid", "InvalidArgument"),
    (OriginRefused(501, (), b""), 501, "notImplemented", "NotImplemented"),
    (ZeroDivisionError("secret"), 500, "internalError", "InternalError"),
]
ids = [f"{type(error).__name__}-{status}-{reason}" for error, status, reason, _ in FAMILY]


def json_error(error: Exception, method: str = "GET") -> tuple[int, Any]:
    reply = render_error(error, Asked(method, Api.JSON, "w/x"))
    assert dict(reply.headers)["content-type"] == "application/json; charset=UTF-8"
    return reply.status, json.loads(reply.body)["error"]


@pytest.mark.parametrize(("error", "status", "reason", "code"), FAMILY, ids=ids)
def test_the_json_apis_shape(error: Exception, status: int, reason: str, code: str) -> None:
    found, document = json_error(error)
    assert (found, document["code"]) == (status, status)
    (item,) = document["errors"]
    assert (item["reason"], item["domain"], item["message"]) == (reason, "global", document["message"])


@pytest.mark.parametrize(("error", "status", "reason", "code"), FAMILY, ids=ids)
def test_the_xml_apis_shape(error: Exception, status: int, reason: str, code: str) -> None:
    reply = render_error(error, Asked("GET", Api.XML, "w/x"))
    root = ElementTree.fromstring(reply.body)
    assert (reply.status, root.tag, root.findtext("Code")) == (status, "Error", code)
    assert root.findtext("Message")
    assert dict(reply.headers)["content-type"].startswith("application/xml")


@pytest.mark.parametrize("api", list(Api))
@pytest.mark.parametrize("error", [error for error, *_ in FAMILY], ids=ids)
def test_a_head_gets_no_body(error: Exception, api: Api) -> None:
    assert render_error(error, Asked("HEAD", api)).body == b""


def test_a_missing_object_is_named_as_gcs_names_it() -> None:
    assert json_error(NotFound("key", "x"))[1]["message"] == "No such object: w/x"
    assert json_error(NotFound("bucket", "w"))[1]["message"] == "The specified bucket does not exist."


def test_what_failed_inside_is_not_told() -> None:
    assert b"secret" not in render_error(ZeroDivisionError("secret"), Asked("GET", Api.JSON)).body


def test_waiting_times_and_sizes_go_out_as_headers() -> None:
    asked = Asked("GET", Api.JSON)
    assert dict(render_error(Overloaded("full", retry_after_s=2.5), asked).headers)["retry-after"] == "3"
    throttled = OriginUnavailable("slow", throttled=True)
    assert dict(render_error(throttled, asked).headers)["retry-after"] == "1"
    assert dict(render_error(RangeNotSatisfiable(10), asked).headers)["content-range"] == "bytes */10"


def test_an_s3_stores_document_is_not_shown() -> None:
    refused = OriginRefused(400, (("x-amz-request-id", "1"),), b"<Error><Code>Bad</Code></Error>")
    reply = render_error(refused, Asked("GET", Api.JSON))
    assert b"<Error>" not in reply.body
    assert not [name for name, _ in reply.headers if name.startswith("x-amz-")]
