"""Every error of the family has its status, code and elements."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from proxy.errors import (
    AccessDenied,
    ConfigInvalid,
    InvalidRequest,
    NotFound,
    NotSupported,
    OriginRefused,
    OriginUnavailable,
    Overloaded,
    PreconditionFailed,
    RangeNotSatisfiable,
    StoreUnavailable,
    VersionChanged,
)
from proxy.surface.heads import Reply
from s3api.errors import Asked, render_error

ASKED = Asked("GET", "/models/a%20b", "REQ1", "bytes=200-")


def elements(reply: Reply) -> dict[str, str]:
    root = ElementTree.fromstring(reply.body)
    assert root.tag == "Error"
    return {child.tag: child.text or "" for child in root}


@pytest.mark.parametrize(
    ("error", "status", "code", "extra"),
    [
        (NotFound("bucket", "models"), 404, "NoSuchBucket", {"BucketName": "models"}),
        (NotFound("key", "a b"), 404, "NoSuchKey", {"Key": "a b"}),
        (NotFound("version", "a b"), 404, "NoSuchVersion", {"Key": "a b"}),
        (AccessDenied("set writes"), 403, "AccessDenied", {"Message": "set writes"}),
        (AccessDenied(), 403, "AccessDenied", {"Message": "Access Denied"}),
        (
            RangeNotSatisfiable(100),
            416,
            "InvalidRange",
            {"RangeRequested": "bytes=200-", "ActualObjectSize": "100"},
        ),
        (PreconditionFailed("If-Match"), 412, "PreconditionFailed", {"Condition": "If-Match"}),
        (InvalidRequest("InvalidURI", "m"), 400, "InvalidURI", {"Message": "m"}),
        (InvalidRequest("KeyTooLongError", "m"), 400, "KeyTooLongError", {}),
        (InvalidRequest("InvalidPartNumber", "m"), 416, "InvalidPartNumber", {}),
        (InvalidRequest("MethodNotAllowed", "m"), 405, "MethodNotAllowed", {}),
        (InvalidRequest("MissingContentLength", "m"), 411, "MissingContentLength", {}),
        (NotSupported("m"), 501, "NotImplemented", {"Message": "m"}),
        (Overloaded("m", retry_after_s=2.5), 503, "SlowDown", {}),
        (OriginUnavailable("m"), 503, "ServiceUnavailable", {}),
        (OriginUnavailable("m", throttled=True), 503, "SlowDown", {}),
        (VersionChanged("m"), 503, "ServiceUnavailable", {}),
        (StoreUnavailable("m"), 503, "ServiceUnavailable", {}),
        (ConfigInvalid("secret"), 500, "InternalError", {}),
        (ValueError("secret"), 500, "InternalError", {}),
    ],
)
def test_error_has_its_status_code_and_elements(
    error: Exception, status: int, code: str, extra: dict[str, str]
) -> None:
    reply = render_error(error, ASKED)
    found = elements(reply)
    assert reply.status == status
    assert dict(reply.headers)["content-type"] == "application/xml"
    assert found["Code"] == code
    assert found["Message"]
    assert found["Resource"] == "/models/a%20b"
    assert found["RequestId"] == "REQ1"
    assert extra.items() <= found.items()
    assert b"secret" not in reply.body


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Overloaded("m", retry_after_s=2.5), "3"),
        (Overloaded("m", retry_after_s=0.01), "1"),
        (OriginUnavailable("m", throttled=True), "1"),
        (OriginUnavailable("m", throttled=True, retry_after_s=30), "30"),
        (OriginUnavailable("m", retry_after_s=7), "7"),
        (OriginUnavailable("m"), None),
    ],
)
def test_trouble_that_passes_says_when_to_come_back(error: Exception, expected: str | None) -> None:
    assert dict(render_error(error, ASKED).headers).get("retry-after") == expected


def test_unsatisfiable_range_names_the_size_in_its_headers() -> None:
    assert dict(render_error(RangeNotSatisfiable(100), ASKED).headers)["content-range"] == "bytes */100"


def test_error_of_a_head_has_no_body() -> None:
    head = Asked("HEAD", "/models/a", "REQ1", None)
    for error in (NotFound("key", "a"), RangeNotSatisfiable(1), OriginRefused(403, (), b"<Error/>")):
        assert render_error(error, head).body == b""


def test_origins_refusal_keeps_status_headers_and_body() -> None:
    headers = (("content-type", "application/xml"), ("content-length", "8"), ("x-amz-request-id", "THEIRS"))
    reply = render_error(OriginRefused(409, headers, b"<Error/>"), ASKED)
    assert reply == Reply(409, (headers[0], headers[2]), b"<Error/>")


@pytest.mark.parametrize(
    ("status", "code"), [(401, "AccessDenied"), (405, "MethodNotAllowed"), (400, "BadRequest"), (418, "InvalidRequest")]
)
def test_refusal_that_lost_its_body_gets_a_document(status: int, code: str) -> None:
    headers = (("content-type", "text/html"), ("content-length", "9"), ("x-amz-delete-marker", "true"))
    reply = render_error(OriginRefused(status, headers, b""), ASKED)
    assert reply.status == status
    assert elements(reply)["Code"] == code
    assert dict(reply.headers) == {"content-type": "application/xml", "x-amz-delete-marker": "true"}


def test_redirect_of_an_origin_never_leads_the_client_away() -> None:
    reply = render_error(OriginRefused(301, (("location", "http://elsewhere"),), b""), ASKED)
    assert "location" not in dict(reply.headers)
    assert elements(reply)["Code"] == "PermanentRedirect"


def test_any_key_yields_a_document_that_parses() -> None:
    for key in ("<&>\"'", "\x00\x01\x1f\x7f", "\ud800", "\ufffe\uffff", "a\r\nb", "🚀"):
        found = elements(render_error(NotFound("key", key), ASKED))
        assert found["Code"] == "NoSuchKey"
    assert elements(render_error(NotFound("key", "a\r\nb"), ASKED))["Key"] == "a\r\nb"
