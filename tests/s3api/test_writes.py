"""Writes through a running gateway: they reach the origin whole or not at all, and the next read sees them."""

from __future__ import annotations

import base64
import hashlib
import http.client
import socket
import uuid
from collections.abc import Iterator
from contextlib import closing
from xml.etree import ElementTree

import pytest

from tests.s3api.framing import CRC32, checksum, encode_chunked
from tests.s3api.running_gateway import Answer, RunningGateway
from tests.waiting import wait_until

XML = "{http://s3.amazonaws.com/doc/2006-03-01/}"


@pytest.fixture
def key() -> str:
    return f"key-{uuid.uuid4()}"


def seen(site: RunningGateway, key: str, bucket: str = "plain") -> set[bytes]:
    """What readers get, over enough connections to meet both workers."""
    return {site.get(key, bucket).body for _ in range(8)}


def put_framed(site: RunningGateway, key: str, framed: bytes, length: int, **headers: str) -> Answer:
    fields = {
        "x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "x-amz-decoded-content-length": str(length),
        "x-amz-trailer": CRC32,
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return site.ask("PUT", f"/plain/{key}", fields, framed)


def test_put_is_seen_by_the_next_read_of_every_worker(site: RunningGateway, key: str) -> None:
    for content in (b"one", b"two", b"three"):
        answer = site.ask("PUT", f"/plain/{key}", {"Content-Type": "text/x", "x-amz-meta-a": "b"}, content)
        assert (answer.status, answer.cache) == (200, "BYPASS")
        assert answer.headers["etag"] == f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'
        assert seen(site, key) == {content}
    stored = site.stored(key)
    assert stored is not None
    assert stored["ContentType"] == "text/x"
    assert stored["Metadata"] == {"a": "b"}


def test_delete_is_seen_by_the_next_read(site: RunningGateway, key: str) -> None:
    site.ask("PUT", f"/plain/{key}", body=b"x")
    assert seen(site, key) == {b"x"}
    assert site.ask("DELETE", f"/plain/{key}").status == 204
    assert {site.get(key, "plain").status for _ in range(8)} == {404}


def test_batch_delete_is_seen_by_the_next_read(site: RunningGateway, key: str) -> None:
    keys = [f"{key}/{number} & <more>" for number in range(3)]
    for name in keys:
        site.moto.client().put_object(Bucket="plain", Key=name, Body=b"x")
        assert seen(site, name) == {b"x"}
    escaped = [name.replace("&", "&amp;").replace("<", "&lt;") for name in keys]
    document = f"<Delete>{''.join(f'<Object><Key>{name}</Key></Object>' for name in escaped)}</Delete>".encode()
    md5 = base64.b64encode(hashlib.md5(document, usedforsecurity=False).digest()).decode()
    answer = site.ask("POST", "/plain?delete", {"Content-MD5": md5}, document)
    assert answer.status == 200
    assert len(ElementTree.fromstring(answer.body).findall(XML + "Deleted")) == 3
    assert {site.get(name, "plain").status for name in keys for _ in range(4)} == {404}


def test_malformed_batch_delete_goes_nowhere(site: RunningGateway) -> None:
    answer = site.ask("POST", "/plain?delete", {}, b"<Delete><Object>")
    assert (answer.status, answer.error()["Code"]) == (400, "MalformedXML")


def test_copy_finds_its_source_by_the_clients_name_and_is_seen(site: RunningGateway, key: str) -> None:
    site.ask("PUT", f"/models/{key}", body=b"source")
    site.ask("PUT", f"/plain/{key}", body=b"old")
    assert seen(site, key) == {b"old"}
    answer = site.ask("PUT", f"/plain/{key}", {"x-amz-copy-source": f"/models/{key}"})
    assert answer.status == 200
    assert seen(site, key) == {b"source"}


def test_copy_from_a_directory_is_refused_clearly(site: RunningGateway, key: str) -> None:
    answer = site.ask("PUT", f"/plain/{key}", {"x-amz-copy-source": "/shelf/config.json"})
    assert (answer.status, answer.error()["Code"]) == (501, "NotImplemented")


def test_parts_are_seen_when_the_upload_completes(site: RunningGateway, key: str) -> None:
    site.ask("PUT", f"/plain/{key}", body=b"old")
    assert seen(site, key) == {b"old"}
    begun = ElementTree.fromstring(site.ask("POST", f"/plain/{key}?uploads").body)
    upload = begun.findtext(XML + "UploadId")
    contents = [b"a" * (5 << 20), b"tail"]
    tags = [
        site.ask("PUT", f"/plain/{key}?partNumber={number}&uploadId={upload}", body=content).headers["etag"]
        for number, content in enumerate(contents, 1)
    ]
    assert seen(site, key) == {b"old"}
    parts = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>" for number, tag in enumerate(tags, 1)
    )
    document = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
    assert site.ask("POST", f"/plain/{key}?uploadId={upload}", body=document).status == 200
    assert seen(site, key) == {b"".join(contents)}
    part = site.ask("HEAD", f"/plain/{key}?partNumber=2")
    assert (part.status, part.headers["content-length"], part.headers["x-amz-mp-parts-count"]) == (206, "4", "2")


def test_form_upload_is_seen(site: RunningGateway, key: str) -> None:
    site.ask("PUT", f"/plain/{key}.bin", body=b"old")
    assert seen(site, f"{key}.bin") == {b"old"}
    body = (
        f'--XX\r\nContent-Disposition: form-data; name="key"\r\n\r\n{key}.bin\r\n'
        '--XX\r\nContent-Disposition: form-data; name="file"; filename="up.bin"\r\n\r\nnew\r\n--XX--\r\n'
    ).encode()
    answer = site.ask("POST", "/plain", {"Content-Type": "multipart/form-data; boundary=XX"}, body)
    assert answer.status in (200, 204)
    assert seen(site, f"{key}.bin") == {b"new"}


def test_new_tags_are_seen(site: RunningGateway, key: str) -> None:
    site.ask("PUT", f"/plain/{key}", body=b"x")
    assert "x-amz-tagging-count" not in site.get(key, "plain").headers
    tagging = b"<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>"
    assert site.ask("PUT", f"/plain/{key}?tagging", body=tagging).status == 200
    assert b"<Value>b</Value>" in site.ask("GET", f"/plain/{key}?tagging").body
    assert {site.get(key, "plain").headers.get("x-amz-tagging-count") for _ in range(4)} == {"1"}


@pytest.mark.parametrize("signed", [False, True])
def test_framed_upload_is_stored_without_its_framing(site: RunningGateway, key: str, signed: bool) -> None:
    chunks = [b"a" * 70_000, b"b" * 70_000, b"c"]
    content = b"".join(chunks)
    framed = encode_chunked(chunks, {CRC32: checksum(CRC32, content)}, signed=signed)
    answer = put_framed(site, key, framed, len(content), content_encoding="gzip, aws-chunked")
    assert answer.status == 200
    stored = site.stored(key)
    assert stored is not None
    assert stored["Body"] == content
    assert stored["ContentEncoding"] == "gzip"
    assert seen(site, key) == {content}


def test_framed_empty_upload_is_stored_empty(site: RunningGateway, key: str) -> None:
    assert put_framed(site, key, encode_chunked([], {CRC32: checksum(CRC32, b"")}), 0).status == 200
    stored = site.stored(key)
    assert stored is not None
    assert stored["Body"] == b""


@pytest.mark.parametrize("content", [b"", b"x", b"x" * 300_000])
def test_framed_upload_with_a_wrong_checksum_commits_nothing(site: RunningGateway, key: str, content: bytes) -> None:
    framed = encode_chunked([content] if content else [], {CRC32: checksum(CRC32, b"other")})
    answer = put_framed(site, key, framed, len(content))
    assert (answer.status, answer.error()["Code"]) == (400, "BadDigest")
    assert site.stored(key) is None
    assert site.get(key, "plain").status == 404


@pytest.mark.parametrize(
    ("framed", "length", "code"),
    [
        (b"3\r\nabc\r\n", 3, "IncompleteBody"),
        (b"4\r\nabcd\r\n0\r\n\r\n", 3, "InvalidRequest"),
        (b"3\r\nabc\r\n0\r\n\r\n", 4, "IncompleteBody"),
        (b"abc", 3, "IncompleteBody"),
        (b"3\r\nabc\r\n0\r\n\r\n", 3, "MalformedTrailerError"),
    ],
)
def test_malformed_framing_commits_nothing(
    site: RunningGateway, key: str, framed: bytes, length: int, code: str
) -> None:
    answer = put_framed(site, key, framed, length)
    assert (answer.status, answer.error()["Code"]) == (400, code)
    assert site.stored(key) is None


def test_client_that_leaves_in_mid_upload_commits_nothing(site: RunningGateway, key: str) -> None:
    site.ask("PUT", f"/plain/{key}", body=b"old")
    before = site.gateway.metric("warmstart_origin_requests_total", kind="forward")
    head = f"PUT /plain/{key} HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n".encode()
    with socket.create_connection(site.address, timeout=60) as connection:
        connection.sendall(head + b"x" * 500_000)
        wait_until(
            lambda: site.gateway.metric("warmstart_origin_requests_total", kind="forward") > before,
            "the upload never reached the origin",
        )
    assert seen(site, key) == {b"old"}
    stored = site.stored(key)
    assert stored is not None
    assert stored["Body"] == b"old"


def test_upload_of_unknown_length_gets_the_origins_word(site: RunningGateway, key: str) -> None:
    def pieces() -> Iterator[bytes]:
        yield from (b"5\r\nhello\r\n", b"0\r\n\r\n")

    answer = site.ask("PUT", f"/plain/{key}", {"Transfer-Encoding": "chunked"}, pieces())
    stored = site.stored(key)
    assert (answer.status, stored and stored["Body"]) in [(200, b"hello"), (411, None)]


def test_client_that_waits_is_told_to_continue(site: RunningGateway, key: str) -> None:
    head = f"PUT /plain/{key} HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n".encode()
    with socket.create_connection(site.address, timeout=60) as connection:
        connection.sendall(head)
        received = connection.recv(4096)
        assert received.startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"abc")
        while b"HTTP/1.1 200 " not in received:
            data = connection.recv(4096)
            assert data
            received += data
    assert seen(site, key) == {b"abc"}


def test_denied_write_is_refused_before_its_body_and_names_the_key_to_set(site: RunningGateway, key: str) -> None:
    request = f"PUT /locked/{key} HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n".encode()
    received = site.talk(request)
    assert received.startswith(b"HTTP/1.1 403 ")
    assert b"buckets.locked.writes" in received
    for method, target in (
        ("DELETE", f"/locked/{key}"),
        ("PUT", "/locked?policy"),
        ("POST", f"/locked/{key}?uploads"),
        ("POST", "/locked?delete"),
        ("DELETE", "/locked"),
    ):
        answer = site.ask(method, target, body=b"x")
        assert (answer.status, answer.error()["Code"]) == (403, "AccessDenied")
    assert site.ask("GET", "/locked").status == 200
    assert site.stored(key, "locked") is None


def test_connection_serves_on_after_a_refused_upload(site: RunningGateway, key: str) -> None:
    with closing(http.client.HTTPConnection(*site.address, timeout=60)) as connection:
        connection.request("PUT", f"/locked/{key}", body=b"x" * 300_000)
        refused = connection.getresponse()
        refused.read()
        connection.request("GET", "/models/empty")
        assert (refused.status, connection.getresponse().status) == (403, 200)


def test_origins_refusal_of_a_write_is_its_own(site: RunningGateway) -> None:
    answer = site.ask("PUT", f"/missing-{uuid.uuid4()}/k", body=b"x")
    assert answer.status == 404
    assert answer.error()["Code"] == "NoSuchBucket"
    assert answer.cache == "BYPASS"


def test_buckets_are_made_listed_and_removed(site: RunningGateway) -> None:
    name = f"made-{uuid.uuid4()}"
    assert site.ask("PUT", f"/{name}").status == 200
    assert site.ask("HEAD", f"/{name}").status == 200
    names = ElementTree.fromstring(site.ask("GET", "/").body).iter(XML + "Name")
    assert name in {found.text for found in names}
    assert b"LocationConstraint" in site.ask("GET", f"/{name}?location").body
    assert site.ask("DELETE", f"/{name}").status == 204
    assert site.ask("HEAD", f"/{name}").status == 404


def test_listing_passes_through(site: RunningGateway) -> None:
    answer = site.ask("GET", "/models?list-type=2&prefix=%2F%2F&encoding-type=url")
    assert answer.status == 200
    assert answer.cache == "BYPASS"
    assert [found.text for found in ElementTree.fromstring(answer.body).iter(XML + "Key")] == ["//double"]


@pytest.mark.parametrize(("method", "target"), [("POST", "/"), ("PUT", "/"), ("DELETE", "/"), ("OPTIONS", "/")])
def test_service_takes_no_other_methods(site: RunningGateway, method: str, target: str) -> None:
    answer = site.ask(method, target)
    assert (answer.status, answer.error()["Code"]) == (405, "MethodNotAllowed")
