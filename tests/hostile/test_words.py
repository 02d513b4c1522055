"""Through the front door, before a store that keeps what it is sent: what clients may name, and what they are told.

The store has any object, whose content is its name; a few names it refuses with documents that show secrets.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

import pytest

from tests.fakes.bucket import serve
from tests.fakes.scripted import Exchange
from tests.gateways import GatewayProcess, start_gateway

SECRETS = ("AKIACANARY", "canary-token", "canary-canonical", "canary-signature")
_DETAILS = (
    f"<AWSAccessKeyId>{SECRETS[0]}</AWSAccessKeyId><Token-0>{SECRETS[1]}</Token-0>"
    f"<CanonicalRequest>{SECRETS[2]}</CanonicalRequest><SignatureProvided>{SECRETS[3]}</SignatureProvided>"
)
REFUSALS = {
    "signature": (403, "SignatureDoesNotMatch"),
    "token": (400, "InvalidToken"),
    "key": (401, "InvalidAccessKeyId"),
}


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return f"{dict(self.headers)} {self.body.decode('latin-1')}"


@dataclass(slots=True)
class Store:
    """What has reached it: method and target."""

    asked: list[tuple[str, str]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)

    async def handle(self, exchange: Exchange) -> None:
        request = exchange.request
        self.asked.append((request.method, request.target.decode("latin-1")))
        self.heads.append(request.raw_head.decode("latin-1").lower())
        path, _, query = request.target.partition(b"?")
        name = unquote_to_bytes(path).partition(b"/real-open/")[2]
        code = next((code for word, code in REFUSALS.items() if word.encode() in name + query), None)
        if code is not None:
            body = f"<Error><Code>{code[1]}</Code><Message>No.</Message>{_DETAILS}</Error>".encode()
            await exchange.respond(code[0], body, [("content-type", "application/xml")])
        elif request.method in ("GET", "HEAD") and name and not query:
            ours = [("x-warmstart-resource", "{"), ("X-Warmstart-Odd", "1")]
            headers = [("etag", '"v1"'), ("content-type", "text/plain"), ("accept-ranges", "bytes"), *ours]
            wanted = request.get("range")
            if wanted is not None and request.method == "GET":
                headers.append(("content-range", f"bytes 0-{len(name) - 1}/{len(name)}"))
            status = 206 if wanted is not None and request.method == "GET" else 200
            await exchange.send_head(status, headers, content_length=len(name))
            if request.method == "GET":
                await exchange.send(name)
        else:
            await exchange.respond(200, b"<Answer/>", [("etag", '"v1"'), ("x-warmstart-odd", "1")])


@dataclass(slots=True)
class Front:
    gateway: GatewayProcess
    store: Store

    def ask(self, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Answer:
        connection = http.client.HTTPConnection(self.gateway.url.removeprefix("http://"), timeout=60)
        try:
            connection.putrequest(method, target, skip_accept_encoding=True)
            for name, value in (headers or {}).items():
                connection.putheader(name, value.encode("latin-1"))
            if body or method in ("PUT", "POST"):
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body or None)
            response = connection.getresponse()
            return Answer(
                response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
            )
        finally:
            connection.close()


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    store = Store()
    with serve(store.handle) as url:
        rule = {"origin": "store", "bucket": "real-open"}
        config = {
            "origins": {
                "store": {
                    "type": "s3",
                    "endpoint": url,
                    "region": "us-east-1",
                    "access_key_id": "AKIAOURS",
                    "secret_access_key": "ours",
                    "addressing": "path",
                }
            },
            "buckets": {"open": {**rule, "writes": "through"}, "locked": {**rule, "writes": "deny"}},
        }
        with start_gateway(tmp_path_factory.mktemp("words"), config=config) as gateway:
            yield Front(gateway, store)


S3 = {"x-amz-date": "20261130T000000Z"}
GCS = {"Authorization": "Bearer x"}


@pytest.mark.parametrize("word", REFUSALS)
@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        ("GET", "/open/{}", S3),
        ("HEAD", "/open/{}", S3),
        ("GET", "/open/{}?acl", S3),
        ("GET", "/open/{}?odd=1", S3),
        ("PUT", "/open/{}", S3),
        ("DELETE", "/open/{}", S3),
        ("POST", "/open/{}?uploads", S3),
        ("GET", "/open?list-type=2&prefix={}", S3),
        ("GET", "/open/{}", GCS),
        ("GET", "/storage/v1/b/open/o/{}?alt=media", GCS),
        ("GET", "/storage/v1/b/open/o/{}", GCS),
        ("GET", "/storage/v1/b/open/o?prefix={}", GCS),
        ("POST", "/upload/storage/v1/b/open/o?uploadType=media&name={}", GCS),
        ("DELETE", "/storage/v1/b/open/o/{}", GCS),
    ],
)
def test_a_refusal_of_the_gateways_own_credentials_shows_nothing_of_them(
    front: Front, method: str, target: str, headers: Mapping[str, str], word: str
) -> None:
    found = front.ask(method, target.format(word), headers, b"data" if method in ("PUT", "POST") else b"")
    assert found.status == 403
    assert not [secret for secret in (*SECRETS, "AKIAOURS") if secret in found.text]
    assert method == "HEAD" or "refuses this gateway" in found.text


@pytest.mark.parametrize(
    ("target", "header", "source", "status"),
    [
        ("/open/k", "x-amz-copy-source", "arn:aws:s3:eu:1:accesspoint/secret-ap/object/k", 400),
        ("/open/k", "x-amz-copy-source", "arn%3aaws%3as3:eu:1:accesspoint%2Fsecret-ap%2Fobject%2Fk", 400),
        ("/open/k?uploadId=u&partNumber=1", "x-amz-copy-source", "arn:aws:s3:eu:1:accesspoint/a/object/k", 400),
        ("/open/k", "x-amz-copy-source", "secret/k", 404),
        ("/open/k", "x-amz-copy-source", "/secret/k?versionId=v", 404),
        ("/open/k", "x-amz-copy-source", "secret%2Fdir%2F/", 404),
        ("/open/k", "x-amz-copy-source", "%2Fsecret%2Fk", 404),
        ("/open/k", "x-amz-copy-source", "s%65cret/k", 404),
        ("/open/k", "x-amz-copy-source", "open", 400),
        ("/open/k", "x-goog-copy-source", "secret/k", 400),
        ("/open/k", "x-oss-copy-source", "/secret/k", 400),
    ],
)
def test_a_copy_is_made_only_of_what_a_bucket_of_ours_has(
    front: Front, target: str, header: str, source: str, status: int
) -> None:
    front.store.asked.clear()
    assert front.ask("PUT", target, {**S3, header: source}).status == status
    assert front.store.asked == []
    assert front.ask("PUT", target, {**S3, "x-amz-copy-source": "open%2Fa%20b?versionId=v"}).status == 200
    assert "x-amz-copy-source: /real-open/a%20b?versionid=v\r\n" in front.store.heads[-1]


@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        ("POST", "/locked/k?select&restore", S3),
        ("POST", "/locked/k?select&tagging", S3),
        ("POST", "/locked/k?select", S3),
        ("POST", "/locked/k?select&select-type=2&uploads", S3),
        ("PUT", "/locked/k?select&select-type=2", S3),
        ("POST", "/locked?select&select-type=2", S3),
        ("POST", "/storage/v1/b/locked/o/k", {**GCS, "x-http-method-override": "PATCH"}),
    ],
)
def test_nothing_that_might_write_reaches_a_bucket_whose_writes_are_denied(
    front: Front, method: str, target: str, headers: Mapping[str, str]
) -> None:
    front.store.asked.clear()
    assert front.ask(method, target, headers, b"<x/>").status in (403, 501)
    assert front.store.asked == []


def test_a_select_passes_where_writes_are_denied(front: Front) -> None:
    assert front.ask("POST", "/locked/k?select&select-type=2", S3, b"<SelectObjectContentRequest/>").status == 200


@pytest.mark.parametrize("target", ["/open/mine", "/open/mine?acl", "/storage/v1/b/open/o/mine"])
def test_our_own_words_are_neither_believed_of_an_origin_nor_told_to_clients(front: Front, target: str) -> None:
    found = front.ask("GET", target, GCS if "storage" in target else S3)
    assert found.status == 200
    assert "warmstart" not in found.text.lower()


FORM = b'--b\r\nContent-Disposition: form-data; name="key"\r\n\r\nk\r\n'
FORM += b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n--b--'


@pytest.mark.parametrize(
    ("method", "target", "headers", "body"),
    [
        ("HEAD", "/open/k?acl", S3, b"body"),
        ("HEAD", "/open", S3, b"body"),
        ("HEAD", "/storage/v1/b/open/o/k", {**GCS, "x-goog-encryption-key": "k"}, b"body"),
        ("POST", "/storage/v1/b/open/o/k", {**GCS, "x-http-method-override": "\xff"}, b"{}"),
        ("POST", "/storage/v1/b/open/o/k", {**GCS, "x-http-method-override": "TRACE"}, b"{}"),
        (
            "POST",
            "/open",
            {**S3, "Content-Type": "multipart/form-data; boundary=b", "Connection": "content-type"},
            FORM,
        ),
        ("POST", "/open", {**S3, "Content-Type": "multipart/form-data"}, FORM),
        ("POST", "/upload/storage/v1/b/open/o?uploadType=multipart", {**GCS, "Content-Type": "multipart/x"}, b"--"),
        ("POST", "/batch", {**GCS, "Content-Type": "multipart/mixed; boundary=b"}, b"--b--"),
        ("PUT", "/open/k", {**S3, "x-amz-copy-source": "\xff/\xff"}, b""),
    ],
)
def test_what_is_the_clients_fault_is_no_failure_of_ours(
    front: Front, method: str, target: str, headers: Mapping[str, str], body: bytes
) -> None:
    sent = {**headers, "Content-Length": str(len(body))} if method == "HEAD" else headers
    assert 400 <= front.ask(method, target, sent, b"" if method == "HEAD" else body).status < 500
    assert "Traceback" not in front.gateway.logs()


def test_a_client_that_offers_rdma_is_declined_and_gets_its_reads_by_http(front: Front) -> None:
    token = {**S3, "x-amz-rdma-token": "0102030405060708:01020304:01020304"}
    for _ in range(3):
        assert "x-amz-rdma-reply" not in front.ask("GET", "/open/weights", S3).headers
        found = front.ask("GET", "/open/weights", token)
        assert (found.status, found.body, found.headers["x-amz-rdma-reply"]) == (200, b"weights", "501")
    ranged = front.ask("GET", "/open/weights", {**token, "Range": "bytes=1-2"})
    assert (ranged.status, ranged.body, ranged.headers["x-amz-rdma-reply"]) == (206, b"ei", "501")


@pytest.mark.parametrize("target", ["/open/up", "/open/up?uploadId=u&partNumber=1"])
def test_an_upload_that_would_come_by_rdma_stores_nothing(front: Front, target: str) -> None:
    token = {**S3, "x-amz-rdma-token": "0102030405060708:01020304:01020304"}
    front.store.asked.clear()
    found = front.ask("PUT", target, token)
    assert (found.status, found.headers["x-amz-rdma-reply"]) == (501, "501")
    assert front.store.asked == []
    assert front.ask("PUT", target, token, b"data").status == 200  # the data is here after all
    assert "x-amz-rdma" not in front.store.heads[-1]


@pytest.mark.parametrize(
    "target",
    [
        "/open/nim%2Fv1%2Fmodel.bin",
        "/open/nim%2fv1/model.bin",
        "/storage/v1/b/open/o/nim%2Fv1%2Fmodel.bin?alt=media",
        "/download/storage/v1/b/open/o/nim%2Fv1%2Fmodel.bin",
    ],
)
@pytest.mark.parametrize("headers", [S3, GCS, {}], ids=["s3", "gcs", "bare"])
def test_an_encoded_slash_in_a_key_reads_the_same_object_in_either_lane(
    front: Front, target: str, headers: Mapping[str, str]
) -> None:
    json_path = target.startswith(("/storage", "/download"))
    words = GCS if json_path and headers is S3 else headers

    def read() -> None:
        found = front.ask("GET", target, words)
        assert (found.status, found.body) == (200, b"nim/v1/model.bin")

    front.gateway.wait_until_hot(read)
    literal = target.replace("%2F", "%252F").replace("%2f", "%252F")
    found = front.ask("GET", literal, words)
    assert found.body in (b"nim%2Fv1%2Fmodel.bin", b"nim%2Fv1/model.bin")


def test_a_resource_whose_bucket_is_no_name_is_refused() -> None:
    from gcsapi.links import rewrite_names
    from proxy.errors import InvalidRequest

    for document in ('{"bucket": ["g"]}', '{"destination": {"bucket": {}}}', '{"kind": "storage#bucket", "name": 5}'):
        with pytest.raises(InvalidRequest, match="not a name"):
            rewrite_names(json.loads(document), {"g": "real-g"})
