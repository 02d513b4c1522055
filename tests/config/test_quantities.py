"""Sizes, durations, shares and addresses: what is accepted, and what is refused with which fix."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.quantities import (
    Address,
    parse_address,
    parse_duration,
    parse_share,
    parse_size,
    render_duration,
    render_size,
)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("8MiB", 8 << 20),
        ("20GiB", 20 << 30),
        ("20Gi", 20 << 30),
        ("500MB", 500_000_000),
        ("64KiB", 64 << 10),
        ("64 kib", 64 << 10),
        ("1.5TiB", 3 << 39),
        ("2PB", 2 * 10**15),
        ("7B", 7),
        ("4096", 4096),
        (4096, 4096),
        (0, 0),
    ],
)
def test_a_size_is_read_in_its_unit(text: object, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("20G", "write 20GiB"),
        ("5 k", "write 5KiB"),
        ("12XB", "unknown unit 'XB'"),
        ("big", "write a number and its unit"),
        ("-1MiB", "write a number and its unit"),
        (-1, "negative"),
        ("", "write a number"),
        (True, "write a number"),
        (None, "write a number"),
        (1.5, "write a number"),
        ("0.3B", "not a whole number of bytes"),
        ("1e3", "write a number and its unit"),
        ("٨MiB", "write a number and its unit"),
    ],
)
def test_a_size_that_is_none_is_refused_with_the_fix(text: object, fix: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_size(text)
    assert fix in str(caught.value)


@given(st.integers(0, 1 << 60))
def test_a_rendered_size_is_read_as_itself(size_bytes: int) -> None:
    assert parse_size(render_size(size_bytes)) == size_bytes


@pytest.mark.parametrize(
    ("text", "duration_s"),
    [("60s", 60), ("5m", 300), ("500ms", 0.5), ("1h", 3600), ("2d", 172_800), ("1.5s", 1.5), ("0", 0), (0, 0)],
)
def test_a_duration_is_read_in_its_unit(text: object, duration_s: float) -> None:
    assert parse_duration(text) == duration_s


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("60", "write 60s"),
        (60, "write 60s"),
        ("5min", "write a number and its unit"),
        ("5M", "write a number and its unit"),
        ("-5s", "write a number and its unit"),
        ("soon", "write a number and its unit"),
        (None, "write a number and its unit"),
        (True, "write a number and its unit"),
        (False, "write a number and its unit"),
    ],
)
def test_a_duration_that_is_none_is_refused_with_the_fix(text: object, fix: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_duration(text)
    assert fix in str(caught.value)


@given(st.integers(0, 10**9))
def test_a_rendered_duration_is_read_as_itself(milliseconds: int) -> None:
    assert parse_duration(render_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


@pytest.mark.parametrize(("text", "share"), [("95%", 0.95), ("0.5", 0.5), (0.25, 0.25), (1, 1.0), ("100%", 1.0)])
def test_a_share_is_a_percentage_or_a_fraction(text: object, share: float) -> None:
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["95", "0%", "101%", "half", 0, -0.5, True, None, "%", "nan%"])
def test_a_share_that_is_none_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="write"):
        parse_share(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9000", Address("127.0.0.1", 9000)),
        ("[::1]:9000", Address("::1", 9000)),
        ("localhost:0", Address("localhost", 0)),
        ("gateway.internal:80", Address("gateway.internal", 80)),
        ("0.0.0.0:65535", Address("0.0.0.0", 65535)),
    ],
)
def test_an_address_is_host_and_port(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    ["9000", ":9000", "127.0.0.1", "::1:9000", "[::1]", "[zz]:1", "h:70000", "h:-1", "http://h:1", "", 9000, None],
)
def test_an_address_that_is_none_is_refused_with_the_fix(text: object) -> None:
    with pytest.raises(ValueError) as caught:
        parse_address(text)
    assert "write host:port" in str(caught.value) or "choose one from 1 to 65535" in str(caught.value)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.7", False),
        ("example.com", False),
        ("localhost.example.com", False),
    ],
)
def test_only_addresses_of_this_machine_are_loopback(host: str, loopback: bool) -> None:
    assert Address(host, 1).loopback is loopback
