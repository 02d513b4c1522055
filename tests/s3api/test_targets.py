"""Targets of every form, and keys byte for byte."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import InvalidRequest
from proxy.http.targets import parse_query
from s3api.targets import S3Target, bucket_of_host, parse_target, render_path

SUFFIXES = ("s3.local", "eu.s3.local")


@pytest.mark.parametrize(
    ("target", "bucket", "key"),
    [
        (b"/", "", None),
        (b"/?x=1", "", None),
        (b"/models", "models", None),
        (b"/models/", "models", None),
        (b"/models/a", "models", "a"),
        (b"/models/a/b.safetensors", "models", "a/b.safetensors"),
        (b"/models/a%2Fb", "models", "a/b"),
        (b"/models/a%252Fb", "models", "a%2Fb"),
        (b"/models/a+b", "models", "a+b"),
        (b"/models/a%2Bb", "models", "a+b"),
        (b"/models/a%20b", "models", "a b"),
        (b"/models//a", "models", "/a"),
        (b"/models///", "models", "//"),
        (b"/models/a//b", "models", "a//b"),
        (b"/models/a/", "models", "a/"),
        (b"/models/../b", "models", "../b"),
        (b"/models/./b", "models", "./b"),
        (b"/models/%2e%2E/b", "models", "../b"),
        (b"/models/%C3%A9", "models", "é"),
        ("/models/é".encode(), "models", "é"),
        (b"/models/%E2%9C%93%F0%9F%9A%80", "models", "✓🚀"),
        (b"/models/a%0Ab%00", "models", "a\nb\0"),
        (b"/models/a:b;c=d@e&f$g,h", "models", "a:b;c=d@e&f$g,h"),
        (b"/my%2Dbucket/k%2Ebin", "my-bucket", "k.bin"),
        (b"/models/-/health", "models", "-/health"),
        (b"http://127.0.0.1:9000/models/a", "models", "a"),
        (b"HTTP://h/models//a", "models", "/a"),
        (b"https://user@h/models/a?x=1", "models", "a"),
        (b"http://h", "", None),
        (b"http://h?x=1", "", None),
        (b"http://[::1]:9000/models/a", "models", "a"),
    ],
)
def test_path_style_target_names_its_bucket_and_key(target: bytes, bucket: str, key: str | None) -> None:
    found = parse_target(target, "127.0.0.1:9000", SUFFIXES)
    assert (found.bucket, found.key) == (bucket, key)


@pytest.mark.parametrize(
    ("target", "host", "bucket", "key"),
    [
        (b"/a/b", "models.s3.local", "models", "a/b"),
        (b"/a/b", "models.s3.local:9000", "models", "a/b"),
        (b"/a/b", "MODELS.S3.local", "models", "a/b"),
        (b"/a/b", "models.s3.local.", "models", "a/b"),
        (b"/", "models.s3.local", "models", None),
        (b"//a", "models.s3.local", "models", "/a"),
        (b"/-/health", "models.s3.local", "models", "-/health"),
        (b"/a", "my.models.s3.local", "my.models", "a"),
        (b"/a", "models.eu.s3.local", "models", "a"),
        (b"/models/a", "s3.local", "models", "a"),
        (b"/models/a", "evils3.local", "models", "a"),
        (b"/models/a", "[::1]:9000", "models", "a"),
        (b"/models/a", None, "models", "a"),
        (b"http://models.s3.local/a", "other.s3.local", "models", "a"),
        (b"http://127.0.0.1:9000/models/a", "other.s3.local", "models", "a"),
    ],
)
def test_host_of_a_suffix_names_the_bucket(target: bytes, host: str | None, bucket: str, key: str | None) -> None:
    assert parse_target(target, host, SUFFIXES) == S3Target(bucket, key, ())


def test_no_suffix_configured_means_path_style() -> None:
    assert parse_target(b"/models/a", "x.s3.local").bucket == "models"
    assert bucket_of_host("x.s3.local", ()) is None


@pytest.mark.parametrize(
    ("target", "code"),
    [
        (b"/models/%", "InvalidURI"),
        (b"/models/%4", "InvalidURI"),
        (b"/models/%zz", "InvalidURI"),
        (b"/models/%ff", "InvalidURI"),
        (b"/models/%ED%A0%80", "InvalidURI"),  # a lone surrogate
        (b"/mod%els/a", "InvalidURI"),
        (b"/models/a?x=%", "InvalidURI"),
        (b"*", "InvalidURI"),
        (b"models/a", "InvalidURI"),
        (b"ftp://h/models/a", "InvalidURI"),
        (b"http:///models/a", "InvalidURI"),
        (b"", "InvalidURI"),
        (b"//a", "InvalidBucketName"),
        (b"/-/health", "InvalidBucketName"),
        (b"/../a", "InvalidBucketName"),
        (b"/.%2e/a", "InvalidBucketName"),
        (b"/a%2Fb/c", "InvalidBucketName"),
        (b"/a%00b/c", "InvalidBucketName"),
        (b"/a%0A/c", "InvalidBucketName"),
        (b"/a b/c", "InvalidBucketName"),
        (b"/m%C3%A9/c", "InvalidBucketName"),
        (b"/" + b"b" * 256 + b"/c", "InvalidBucketName"),
        (b"/models/" + b"k" * 1025, "KeyTooLongError"),
        (b"/models/" + b"%C3%A9" * 513, "KeyTooLongError"),
    ],
)
def test_bad_target_is_refused_with_its_code(target: bytes, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_target(target, None)
    assert caught.value.code == code


def test_key_of_1024_bytes_is_taken_however_it_is_encoded() -> None:
    assert parse_target(b"/models/" + b"%6B" * 1024, None).key == "k" * 1024
    assert parse_target(b"/models/" + b"%C3%A9" * 512, None).key == "é" * 512


@given(key=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200))
def test_any_key_survives_encoding(key: str) -> None:
    for safe in ("", "/", "/~+:@!$&'()*,;="):
        target = b"/models/" + quote(key, safe=safe).encode()
        assert parse_target(target, None).key == key


def test_query_keeps_order_and_repeated_names() -> None:
    query = parse_query(b"b=2&a&c=&a=1+2%2B3&&d=x=y&%C3%A9=%E2%9C%93")
    assert query == (("b", "2"), ("a", ""), ("c", ""), ("a", "1 2+3"), ("d", "x=y"), ("é", "✓"))


def test_query_bytes_that_are_no_utf8_survive() -> None:
    assert parse_query(b"prefix=%ff")[0][1].encode("utf-8", "surrogateescape") == b"\xff"


@pytest.mark.parametrize(
    ("target", "path"),
    [(b"/b/k%20x?versionId=secret", "/b/k%20x"), (b"http://h/b/k?x", "b/k"), (b"/\xff", "/\ufffd")],
)
def test_path_for_messages_has_no_query(target: bytes, path: str) -> None:
    assert render_path(target) in (path, "/" + path)
