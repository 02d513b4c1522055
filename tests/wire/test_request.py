"""Requests as bytes, and endpoints as URLs."""

from __future__ import annotations

import pytest

from proxy.wire import Endpoint
from proxy.wire.request import render_request


@pytest.mark.parametrize(
    "target",
    [b"", b"key", b"http://host/key", b"*", b"/a b", b"/a\r\nx: y", b"/a\n", b"/a\tb", b"/a\x00", b"/a\x7f"],
)
def test_a_target_that_could_end_the_line_is_refused(target: bytes) -> None:
    with pytest.raises(ValueError, match="target"):
        render_request("host", target, [])


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\n", "ä", "a\x00"])
def test_a_header_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="header name"):
        render_request("host", b"/", [(name, "x")])


@pytest.mark.parametrize("value", ["a\r\nx: y", "a\n", "\r", "a\x00b"])
def test_a_header_value_that_could_end_the_line_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        render_request("host", b"/", [("x-a", value)])


def test_a_header_value_beyond_latin_1_is_refused() -> None:
    with pytest.raises(ValueError, match="latin-1"):
        render_request("host", b"/", [("x-a", "€")])


def test_headers_go_out_in_order_and_host_first_where_none_is_given() -> None:
    raw = render_request("host:9000", b"/b/k?x=1&y", [("Range", "bytes=0-1"), ("If-Match", '"e"')])
    assert raw == b'GET /b/k?x=1&y HTTP/1.1\r\nhost: host:9000\r\nRange: bytes=0-1\r\nIf-Match: "e"\r\n\r\n'


@pytest.mark.parametrize(
    ("url", "endpoint", "authority"),
    [
        ("http://store", Endpoint("store", 80), "store"),
        ("https://store/", Endpoint("store", 443, True), "store"),
        ("http://Store.Example:9000", Endpoint("store.example", 9000), "store.example:9000"),
        ("http://store:443", Endpoint("store", 443), "store:443"),
        ("https://store:80", Endpoint("store", 80, True), "store:80"),
        ("https://[::1]", Endpoint("::1", 443, True), "[::1]"),
        ("http://[2001:db8::1]:8080/", Endpoint("2001:db8::1", 8080), "[2001:db8::1]:8080"),
    ],
)
def test_a_url_names_an_endpoint(url: str, endpoint: Endpoint, authority: str) -> None:
    assert Endpoint.parse(url) == endpoint
    assert endpoint.authority == authority
    assert Endpoint.parse(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    "url",
    [
        "store:9000",
        "ftp://store",
        "http://",
        "http://:80",
        "http://user@store",
        "http://store/prefix",
        "http://store?x",
        "http://store#x",
        "http://store:0",
        "http://store:65536",
        "http://store:x",
        "http://[::1",
        "",
    ],
)
def test_a_url_that_names_more_or_less_than_an_endpoint_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        Endpoint.parse(url)


@pytest.mark.parametrize("host", ["", "a/b", "a b", "a\r\nb", "[::1]", "u@h"])
def test_a_host_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match="not a host"):
        Endpoint(host, 80)
