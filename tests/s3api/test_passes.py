"""From heads to what goes on to the origin, and what it writes there."""

from __future__ import annotations

import pytest

from proxy.errors import InvalidRequest, NotSupported
from proxy.http.targets import parse_copy_source
from proxy.objects import ObjectName
from s3api.chunked import ChunkedForm
from s3api.requests import copy_source
from tests.s3api.heads import parse, passed, read

SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize(
    "parameter",
    ["acl", "tagging", "attributes", "uploadId=u", "torrent", "retention", "legal-hold", "x-id=GetObjectAcl&acl"],
)
def test_sub_resources_are_not_the_object(parameter: str) -> None:
    operation = passed("GET", f"/models/a?{parameter}")
    assert operation.instead is None
    assert not operation.mutates
    assert not operation.written


def test_unknown_parameter_is_left_to_the_origin_where_it_has_one() -> None:
    operation = passed("GET", "/models/a?shiny=1", range="bytes=0-1")
    assert operation.query == (("shiny", "1"),)
    assert operation.instead == read("GET", "/models/a", range="bytes=0-1")
    assert dict(operation.headers)["range"] == "bytes=0-1"


@pytest.mark.parametrize("header", ["x_amz_request_payer", "x_amz_expected_bucket_owner", "origin"])
def test_reads_that_only_the_origin_can_answer_pass_through(header: str) -> None:
    operation = passed("GET", "/models/a", **{header: "x"})
    assert operation.operation == "GetObject"
    assert operation.instead is not None


@pytest.mark.parametrize(
    "header",
    [
        "x_amz_server_side_encryption_customer_algorithm",
        "x_amz_server_side_encryption_customer_key",
        "x_amz_server_side_encryption_customer_key_md5",
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_reads_with_a_customers_key_bypass_the_cache(method: str, header: str) -> None:
    operation = passed(method, "/models/a?versionId=v", **{header: "x"})
    assert dict(operation.headers)[header.replace("_", "-")] == "x"
    assert operation.instead is None


def test_customers_key_in_a_presigned_query_bypasses_too() -> None:
    operation = passed("GET", "/models/a?X-Amz-Server-Side-Encryption-Customer-Algorithm=AES256&X-Amz-Signature=s")
    assert operation.instead is None
    assert operation.query == (("X-Amz-Server-Side-Encryption-Customer-Algorithm", "AES256"),)


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PATCH", "PROPFIND", "LOCK", "get", ""])
def test_methods_that_s3_does_not_know_are_refused(method: str) -> None:
    for target in ("/models/a", "/models", "/"):
        with pytest.raises(InvalidRequest) as caught:
            parse(method, target)
        assert caught.value.code == "MethodNotAllowed"


@pytest.mark.parametrize(
    ("method", "target", "headers", "operation"),
    [
        ("GET", "/", {}, "ListBuckets"),
        ("POST", "/", {}, "Other"),
        ("GET", "/models", {}, "ListObjects"),
        ("GET", "/models/?list-type=2&prefix=a", {}, "ListObjectsV2"),
        ("GET", "/models?versions", {}, "ListObjectVersions"),
        ("GET", "/models?uploads", {}, "ListMultipartUploads"),
        ("GET", "/models?location", {}, "GetBucketLocation"),
        ("GET", "/models?versioning", {}, "GetBucketVersioning"),
        ("PUT", "/models?policy", {}, "PutBucketPolicy"),
        ("DELETE", "/models?cors", {}, "DeleteBucketCors"),
        ("HEAD", "/models", {}, "HeadBucket"),
        ("PUT", "/models", {}, "CreateBucket"),
        ("DELETE", "/models", {}, "DeleteBucket"),
        ("POST", "/models?delete", {}, "DeleteObjects"),
        ("POST", "/models", {"content_type": "multipart/form-data; boundary=x"}, "PostObject"),
        ("OPTIONS", "/models/a", {}, "Other"),
        ("PUT", "/models/a", {}, "PutObject"),
        ("PUT", "/models/a", {"x_amz_copy_source": "/b/k"}, "CopyObject"),
        ("PUT", "/models/a?partNumber=1&uploadId=u", {}, "UploadPart"),
        ("PUT", "/models/a?partNumber=1&uploadId=u", {"x_amz_copy_source": "/b/k"}, "UploadPartCopy"),
        ("GET", "/models/a?uploadId=u", {}, "ListParts"),
        ("DELETE", "/models/a?uploadId=u", {}, "AbortMultipartUpload"),
        ("POST", "/models/a?uploadId=u", {}, "CompleteMultipartUpload"),
        ("POST", "/models/a?uploads", {}, "CreateMultipartUpload"),
        ("POST", "/models/a?select&select-type=2", {}, "SelectObjectContent"),
        ("POST", "/models/a?restore", {}, "RestoreObject"),
        ("PUT", "/models/a?tagging", {}, "PutObjectTagging"),
        ("PUT", "/models/a?acl", {}, "PutObjectAcl"),
        ("DELETE", "/models/a?tagging", {}, "DeleteObjectTagging"),
        ("GET", "/models/a?attributes", {}, "GetObjectAttributes"),
        ("DELETE", "/models/a", {}, "DeleteObject"),
    ],
)
def test_operation_has_its_name(method: str, target: str, headers: dict[str, str], operation: str) -> None:
    assert passed(method, target, **headers).operation == operation


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("PUT", "/models/a"),
        ("PUT", "/models/a?x-id=PutObject"),
        ("PUT", "/models/a?renameObject"),
        ("DELETE", "/models/a"),
        ("PUT", "/models/a?tagging"),
        ("PUT", "/models/a?acl"),
        ("PUT", "/models/a?retention"),
        ("DELETE", "/models/a?tagging"),
        ("POST", "/models/a?uploadId=u"),
        ("POST", "/models/a?restore"),
    ],
)
def test_write_invalidates_the_current_and_the_null_version(method: str, target: str) -> None:
    operation = passed(method, target)
    assert operation.written == (ObjectName("models", "a"), ObjectName("models", "a", "null"))
    assert operation.mutates


def test_write_of_a_version_invalidates_that_version_too() -> None:
    assert ObjectName("models", "a", "v1") in passed("DELETE", "/models/a?versionId=v1").written


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("PUT", "/models/a?partNumber=1&uploadId=u"),
        ("DELETE", "/models/a?uploadId=u"),
        ("POST", "/models/a?uploads"),
        ("PUT", "/models"),
        ("PUT", "/models?policy"),
    ],
)
def test_writes_that_show_no_object_invalidate_nothing_but_are_writes(method: str, target: str) -> None:
    operation = passed(method, target)
    assert operation.mutates
    assert operation.written == ()


def test_select_reads() -> None:
    operation = passed("POST", "/models/a?select&select-type=2")
    assert not operation.mutates
    assert operation.written == ()


def test_bodies_that_name_keys_are_marked() -> None:
    assert passed("POST", "/models?delete").body_names == "delete"
    assert passed("POST", "/models", content_type="Multipart/Form-Data; boundary=x").body_names == "form"
    assert passed("POST", "/models", content_type="text/plain").body_names is None
    assert passed("PUT", "/models/a").body_names is None


def test_signature_connection_and_hop_headers_end_here() -> None:
    operation = passed(
        "PUT",
        "/models/a?X-Amz-Signature=s&x-id=PutObject&AWSAccessKeyId=k&Signature=s&Expires=1",
        authorization="AWS4-HMAC-SHA256 x",
        date="d",
        x_amz_date="d",
        x_amz_security_token="t",
        x_amz_content_sha256=SHA256,
        connection="keep-alive, X-Private",
        x_private="1",
        keep_alive="5",
        te="trailers",
        expect="100-continue",
        content_length="3",
        content_type="text/plain",
        content_encoding="gzip",
        x_amz_meta_a="b",
        x_amz_checksum_crc32="AAAA",
        x_amz_sdk_checksum_algorithm="CRC32",
        if_none_match="*",
    )
    assert operation.query == (("x-id", "PutObject"),)
    assert operation.headers == (
        ("content-type", "text/plain"),
        ("content-encoding", "gzip"),
        ("x-amz-meta-a", "b"),
        ("x-amz-checksum-crc32", "AAAA"),
        ("x-amz-sdk-checksum-algorithm", "CRC32"),
        ("if-none-match", "*"),
    )
    assert operation.body.present
    assert operation.body.length_bytes == 3
    assert operation.body.payload_hash == SHA256
    assert operation.body.expects_continue


def test_expires_is_a_signature_parameter_only_beside_one() -> None:
    assert passed("PUT", "/models/a?Expires=1").query == (("Expires", "1"),)


@pytest.mark.parametrize("claimed", ["UNSIGNED-PAYLOAD", "", "abc", "0" * 63, SHA256 + "0"])
def test_only_a_real_hash_is_a_payload_hash(claimed: str) -> None:
    assert passed("PUT", "/models/a", content_length="1", x_amz_content_sha256=claimed).body.payload_hash is None


@pytest.mark.parametrize(
    ("headers", "present", "length"),
    [
        ({}, False, None),
        ({"content_length": "0"}, False, 0),
        ({"content_length": "7"}, True, 7),
        ({"transfer_encoding": "chunked"}, True, None),
    ],
)
def test_body_is_there_when_its_headers_say_so(headers: dict[str, str], present: bool, length: int | None) -> None:
    form = passed("PUT", "/models/a", **headers).body
    assert (form.present, form.length_bytes) == (present, length)


@pytest.mark.parametrize(
    "headers",
    [
        {"x_amz_content_sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"},
        {"x_amz_content_sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "x_amz_trailer": "x-amz-checksum-crc32"},
        {"x_amz_content_sha256": "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD"},
        {"content_encoding": "aws-chunked"},
        {"content_encoding": "gzip, aws-chunked"},
    ],
)
def test_framed_body_is_known_by_its_headers(headers: dict[str, str]) -> None:
    operation = passed("PUT", "/models/a", content_length="90", x_amz_decoded_content_length="5", **headers)
    trailers = tuple(filter(None, [headers.get("x_amz_trailer")]))
    assert operation.body.chunked == ChunkedForm(5, trailers)
    assert operation.body.length_bytes == 5
    assert operation.body.payload_hash is None
    names = {name for name, _ in operation.headers}
    assert not names & {"x-amz-decoded-content-length", "x-amz-trailer", "x-amz-content-sha256"}
    assert dict(operation.headers).get("content-encoding") == ("gzip" if "gzip" in str(headers) else None)


def test_framing_without_a_body_is_an_empty_upload_or_a_broken_one() -> None:
    empty = passed(
        "PUT", "/models/a", content_length="0", content_encoding="aws-chunked", x_amz_decoded_content_length="0"
    )
    assert not empty.body.present
    assert empty.headers == ()
    with pytest.raises(InvalidRequest):
        parse("PUT", "/models/a", content_length="0", content_encoding="aws-chunked", x_amz_decoded_content_length="5")


def test_algorithm_of_a_trailing_checksum_goes_with_it() -> None:
    framed = {"x_amz_content_sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "x_amz_decoded_content_length": "1"}
    trailing = passed(
        "PUT",
        "/models/a",
        content_length="9",
        x_amz_trailer="x-amz-checksum-crc32",
        x_amz_sdk_checksum_algorithm="CRC32",
        **framed,
    )
    assert "x-amz-sdk-checksum-algorithm" not in dict(trailing.headers)
    leading = passed("PUT", "/models/a", content_length="9", x_amz_sdk_checksum_algorithm="CRC32", **framed)
    assert "x-amz-sdk-checksum-algorithm" in dict(leading.headers)


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({}, InvalidRequest),
        ({"x_amz_decoded_content_length": "-1"}, InvalidRequest),
        ({"x_amz_decoded_content_length": "1", "x_amz_trailer": "x-amz-checksum-odd"}, NotSupported),
    ],
)
def test_framing_that_cannot_be_checked_is_refused_before_the_body(
    headers: dict[str, str], error: type[Exception]
) -> None:
    with pytest.raises(error):
        parse("PUT", "/models/a", content_length="9", content_encoding="aws-chunked", **headers)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/src/a/b%20c", ("src", "a/b%20c")),
        ("src/a?versionId=v", ("src", "a?versionId=v")),
        ("src%2Fa%2Fb", ("src", "a/b")),
        ("%2Fsrc%2Fa%20b?versionId=v", ("src", "a%20b?versionId=v")),
        ("secret%2Fdir%2F/", ("secret", "dir//")),
        ("secret%2Fdir/x", ("secret", "dir/x")),
        ("s%72c/a%2Fb", ("src", "a/b")),
        ("/src//a", ("src", "/a")),
        ("src/a%252Fb", ("src", "a%252Fb")),
    ],
)
def test_copy_source_names_its_bucket(value: str, expected: tuple[str, str]) -> None:
    assert parse_copy_source(value) == expected


SOURCES = [
    "arn:aws:s3:eu-central-1:1:accesspoint/secret-ap/object/k",
    "arn%3Aaws:s3:eu-central-1:1:accesspoint/secret-ap/object/k",
    "/arn:aws:s3-outposts:eu:1:outpost/o/object/k",
    "",
    "/",
    "src",
    "src/",
    "src%2F",
    "//src/k",
    "/%2Fsrc/k",
    "%00/k",
    "sr%c3%bc/k",
    "src?versionId=v/k",
    "http://host/src/k",
]


@pytest.mark.parametrize("value", SOURCES)
def test_a_copy_source_that_names_no_bucket_and_key_is_refused_with_a_sentence(value: str) -> None:
    with pytest.raises(InvalidRequest, match="copy source is") as caught:
        parse_copy_source(value)
    assert caught.value.code == "InvalidArgument"


@pytest.mark.parametrize(
    "headers",
    [
        [("x-amz-copy-source", "a/k"), ("x-amz-copy-source", "b/k")],
        [("x-goog-copy-source", "b/k")],
        [("x-amz-copy-source", "a/k"), ("x-oss-copy-source", "b/k")],
        [("x-ms-copy-source", "http://b/k")],
    ],
)
def test_one_header_alone_names_a_copys_source(headers: list[tuple[str, str]]) -> None:
    with pytest.raises(InvalidRequest, match="One header"):
        copy_source(tuple(headers))


@pytest.mark.parametrize(
    "query",
    [
        "select",
        "select-type=2",
        "select&select-type=1",
        "select=x&select-type=2",
        "select&select-type=2&restore",
        "select&tagging",
        "select&restore",
        "select&select-type=2&select-type=3",
        "select&select-type=2&acl",
        "select&select-type=2&uploadId=u",
        "select&select-type=2&versionId=v",
        "Select&select-type=2",
    ],
)
def test_a_select_with_more_or_less_to_it_may_be_a_write(query: str) -> None:
    assert passed("POST", f"/models/a?{query}").mutates


@pytest.mark.parametrize("query", ["select&select-type=2", "select-type=2&select=&x-id=SelectObjectContent"])
def test_a_select_is_a_read(query: str) -> None:
    operation = passed("POST", f"/models/a?{query}")
    assert (operation.operation, operation.mutates) == ("SelectObjectContent", False)


def test_what_would_make_another_method_of_a_request_stays_here() -> None:
    for name in ("x_http_method_override", "x_http_method", "x_method_override"):
        assert dict(passed("GET", "/models?acl", **{name: "DELETE"}).headers) == {}


def test_a_head_with_a_body_a_rename_and_an_upload_by_rdma_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="no body"):
        parse("HEAD", "/models", content_length="5")
    with pytest.raises(NotSupported, match="copy the object"):
        parse("PUT", "/models/a?renameObject", x_amz_rename_source="b")
    for target in ("/models/a", "/models/a?uploadId=u&partNumber=1"):
        with pytest.raises(NotSupported, match="RDMA"):
            parse("PUT", target, content_length="0", x_amz_rdma_token="t")
    kept = passed("PUT", "/models/a", content_length="5", x_amz_rdma_token="t", x_amz_rdma_protocol="p")
    assert dict(kept.headers) == {}
