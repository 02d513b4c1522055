"""Targets are built byte for byte, and signed as botocore signs them."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from unittest.mock import patch
from urllib.parse import unquote

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.errors import ConfigInvalid, InvalidRequest
from proxy.origin.s3.signing import EMPTY_PAYLOAD, Credentials, Signer
from proxy.origin.s3.target import Query, Site, Target, encode, parse_site, redirected
from proxy.wire.endpoint import Endpoint
from tests.origin.asking import KEYS, NOW_S

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
HEADER_TEXT = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20)
HEADER_NAME = st.sampled_from(["x-amz-meta-a", "x-amz-meta-b", "content-type", "content-md5", "x-amz-acl"])
AWKWARD_KEYS = (
    "a//b",
    "/lead",
    "//",
    "./x",
    "a/../b",
    "..",
    ".",
    "tr/",
    "a b",
    "a+b",
    "a%2Fb",
    "ü/日本",
    "~-._",
    "?#&=",
)


@pytest.mark.parametrize("key", AWKWARD_KEYS)
def test_a_key_is_sent_as_it_is_but_for_percent_encoding(key: str) -> None:
    target = parse_site("http://127.0.0.1:9", "path").locate("bkt", key, "r")
    assert target.path == "/bkt/" + encode(key)
    assert unquote(target.path) == "/bkt/" + key
    assert target.path.count("/") == 2 + key.count("/")


@given(key=TEXT, query=st.lists(st.tuples(TEXT.filter(bool), TEXT), max_size=4))
@example(key="a//../b/./c", query=[("versionId", "")])
def test_a_target_is_ascii_without_blanks_and_decodes_to_the_key(key: str, query: list[tuple[str, str]]) -> None:
    target = Target(Endpoint("h", 80), "/b/" + encode(key), tuple(query))
    sent = target.request_target.decode("ascii")
    assert sent.isprintable()
    assert " " not in sent
    assert unquote(sent.partition("?")[0]) == "/b/" + key


def test_bytes_that_are_no_utf8_survive_as_escapes_and_other_lone_surrogates_are_refused() -> None:
    assert encode(b"\xff/x".decode("utf-8", "surrogateescape")) == "%FF/x"
    with pytest.raises(InvalidRequest):
        encode("\ud800")


@given(
    key=TEXT,
    query=st.lists(st.tuples(TEXT.filter(bool), TEXT), max_size=5),
    headers=st.lists(st.tuples(HEADER_NAME, HEADER_TEXT), max_size=4, unique_by=lambda pair: pair[0]),
    token=st.one_of(st.none(), st.just("session-token")),
    payload=st.sampled_from([b"", b"payload"]),
)
@example(key="a/../b//c d+e%", query=[("b", "2"), ("a", ""), ("a", "1")], headers=[], token=None, payload=b"")
@example(key="k", query=[], headers=[("x-amz-meta-a", "  two   blanks ")], token="t", payload=b"")
def test_signatures_are_botocores(
    key: str, query: list[tuple[str, str]], headers: list[tuple[str, str]], token: str | None, payload: bytes
) -> None:
    target = parse_site("http://storage.example:9000", "path").locate("bkt", key, "eu-west-1", tuple(query))
    keys = Credentials("AKID", "secret", token)
    digest = hashlib.sha256(payload).hexdigest()
    ours = dict(Signer(lambda: NOW_S).sign(keys, "eu-west-1", "GET", target, tuple(headers), digest))
    assert ours["authorization"] == _botocore(keys, target, headers, payload)
    assert ours["host"] == "storage.example:9000"


def _botocore(keys: Credentials, target: Target, headers: list[tuple[str, str]], payload: bytes) -> str:
    url = f"http://{target.endpoint.authority}{target.request_target.decode()}"
    request = AWSRequest("GET", url, headers=dict(headers), data=payload or None)
    request.context["timestamp"] = ""
    now = datetime.fromtimestamp(NOW_S, UTC)
    with patch("botocore.auth.get_current_datetime", return_value=now):
        boto = BotoCredentials(keys.access_key_id, keys.secret_access_key, keys.session_token)
        S3SigV4Auth(boto, "s3", "eu-west-1").add_auth(request)
    return str(request.headers["Authorization"])


def test_header_bytes_beyond_ascii_are_signed_as_they_are_sent() -> None:
    target = parse_site("http://h", "path").locate("bkt", "k", "r")
    signed = Signer(lambda: NOW_S).sign(KEYS, "r", "GET", target, (("x-amz-meta-a", "caf\xe9\xa0"),), EMPTY_PAYLOAD)
    assert ("x-amz-meta-a", "caf\xe9\xa0") in signed


def test_range_and_conditions_are_sent_but_not_signed() -> None:
    target = parse_site("http://h", "path").locate("bkt", "k", "r")
    sent = (("range", "bytes=0-1"), ("if-match", '"x"'))
    signed = dict(Signer(lambda: NOW_S).sign(KEYS, "r", "GET", target, sent, EMPTY_PAYLOAD))
    assert signed["range"] == "bytes=0-1"
    assert "SignedHeaders=host;x-amz-content-sha256;x-amz-date," in signed["authorization"]


def test_without_credentials_nothing_is_signed() -> None:
    target = parse_site("http://h", "path").locate("bkt", "k", "r")
    assert Signer().sign(None, "r", "GET", target, (("range", "x"),), EMPTY_PAYLOAD) == (("host", "h"), ("range", "x"))


def test_secrets_stay_out_of_repr() -> None:
    assert "secret" not in repr(Credentials("AKID", "my-secret", "my-secret-token")).replace("secret_access_key", "")


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://127.0.0.1:5000", "s3://127.0.0.1:5000"),
        ("https://storage.example.com/", "s3://storage.example.com:443"),
        ("http://[::1]:9000", "s3://[::1]:9000"),
        ("https://host/some/prefix/", "s3://host:443/some/prefix"),
        (None, "s3://s3.amazonaws.com"),
    ],
)
def test_an_origin_is_named_by_its_endpoint(url: str | None, origin: str) -> None:
    assert parse_site(url, "auto").id == origin


@pytest.mark.parametrize(
    ("site", "bucket", "host", "path"),
    [
        (parse_site(None, "auto"), "models", "models.s3.eu-west-1.amazonaws.com", "/k"),
        (parse_site(None, "auto"), "my.models", "s3.eu-west-1.amazonaws.com", "/my.models/k"),
        (parse_site(None, "path"), "models", "s3.eu-west-1.amazonaws.com", "/models/k"),
        (parse_site("https://store:9000", "auto"), "models", "store:9000", "/models/k"),
        (parse_site("https://store:9000", "virtual"), "my.models", "my.models.store:9000", "/k"),
        (parse_site("https://store:9000", "virtual"), "Old_Bucket", "store:9000", "/Old_Bucket/k"),
        (parse_site("https://store/pre fix", "path"), "models", "store", "/pre%20fix/models/k"),
    ],
)
def test_addressing(site: Site, bucket: str, host: str, path: str) -> None:
    target = site.locate(bucket, "k", "eu-west-1")
    assert (target.endpoint.authority, target.path) == (host, path)


def test_bucket_and_service_have_targets_of_their_own() -> None:
    site = parse_site("http://h", "path")
    assert (
        site.locate("bkt", None, "r", (("list-type", "2"), ("prefix", ""))).request_target == b"/bkt?list-type=2&prefix"
    )
    assert site.locate("", None, "r").request_target == b"/"
    assert parse_site("http://h", "virtual").locate("bkt", None, "r").request_target == b"/"
    assert (
        parse_site(None, "auto").locate("bkt", "", "cn-north-1").endpoint.host == "bkt.s3.cn-north-1.amazonaws.com.cn"
    )


@pytest.mark.parametrize(
    "url", ["ftp://x", "http://", "127.0.0.1:5000", "http://h:99999", "http://u:p@h", "http://h?x=1"]
)
def test_an_endpoint_that_makes_no_sense_is_named(url: str) -> None:
    with pytest.raises(ConfigInvalid, match="endpoint"):
        parse_site(url, "auto")


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("http://h/b/k%20x?versionId=1", ("h", b"/b/k%20x?versionId=1")),
        ("https://h/b/k", ("h", b"/b/k")),
        ("/b/%7Ek(1)", ("h", b"/b/~k%281%29")),
        ("http://h:81/b/k", None),
        ("https://h:9443/b/k", None),
        ("http://other/b/k", None),
        ("http://b.h/k", None),
        ("http://h.other/b/k", None),
        ("http://h@other/b/k", None),
        ("//other/b/k", None),
        ("http://127.0.0.1/b/k", None),
        ("http://169.254.169.254/latest/meta-data/", None),
        ("http://[::1]/b/k", None),
        ("https://s3.eu-west-3.amazonaws.com/b/k", None),
        ("ftp://h/", None),
        ("relative", None),
        ("http://[broken", None),
    ],
)
def test_a_location_is_followed_only_to_the_same_server(location: str, expected: tuple[str, bytes] | None) -> None:
    target = redirected(Target(Endpoint("h", 80), "/b/k"), location, "b")
    assert (target and (target.endpoint.authority, target.request_target)) == expected


@pytest.mark.parametrize(
    ("location", "followed"),
    [
        ("https://b.s3.eu-west-3.amazonaws.com/k", True),
        ("https://b.s3.dualstack.eu-west-3.amazonaws.com/k", True),
        ("https://b.s3-eu-west-3.amazonaws.com/k", True),
        ("https://s3.eu-west-3.amazonaws.com/b/k", True),
        ("https://b.s3.amazonaws.com/k", True),
        ("https://other.s3.eu-west-3.amazonaws.com/k", False),
        ("https://s3.eu-west-3.amazonaws.com/other/k", False),
        ("http://b.s3.eu-west-3.amazonaws.com/k", False),
        ("https://b.s3.eu-west-3.amazonaws.com:8443/k", False),
        ("https://b.s3.cn-north-1.amazonaws.com.cn/k", False),
        ("https://b.s3.eu-west-3.amazonaws.com.attacker.example/k", False),
        ("https://b.s3.x.execute-api.us-east-1.amazonaws.com/k", False),
        ("https://ec2.us-east-1.amazonaws.com/b/k", False),
        ("https://xs3.eu-west-3.amazonaws.com/b/k", False),
    ],
)
def test_aws_may_name_another_of_its_hosts_for_the_same_bucket(location: str, followed: bool) -> None:
    target = Target(Endpoint("b.s3.us-east-1.amazonaws.com", 443, True), "/k")
    assert (redirected(target, location, "b") is not None) == followed


def test_a_redirect_never_leads_from_tls_to_plain() -> None:
    assert redirected(Target(Endpoint("h", 443, True), "/b/k"), "http://h/b/k", "b") is None


def test_a_query_keeps_the_clients_order() -> None:
    query: Query = (("b", "2"), ("a", "1 +"), ("acl", ""))
    assert Target(Endpoint("h", 80), "/", query).request_target == b"/?b=2&a=1%20%2B&acl"
