"""Sealed messages: what a member has written is read, in time; everything else is refused before it is parsed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.fleet.messages import DEPTH_MAX, Seals, Unsealed, parse_json
from proxy.fleet.signing import WINDOW_S
from tests.hostile.cost import Shape, assert_linear, hostile

SECRET, OTHER = b"0123456789abcdef", b"another secret, as long"
NOW_S = 1_700_000_000.0
BYTES_MAX = 4096

numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def seals(*secrets: bytes, now_s: float = NOW_S) -> Seals:
    return Seals(secrets or [SECRET], lambda: now_s)


def read(text: bytes, *secrets: bytes, kind: str = "news", now_s: float = NOW_S) -> Any:
    return seals(*secrets, now_s=now_s).open(kind, text, bytes_max=BYTES_MAX)


@given(st.dictionaries(st.text("abcxyz", min_size=1), values, max_size=3), st.text("0123456789abcdef.", max_size=50))
def test_a_message_is_read_as_it_was_sealed(content: dict[str, Any], node_id: str) -> None:
    text = seals().seal("news", node_id, content)
    if len(text) > BYTES_MAX or _depth(content) >= DEPTH_MAX:
        return
    found = read(text)
    assert (found.node_id, found.at_s, found.values) == (node_id, NOW_S, content)
    assert json.loads(text)["seal"]


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max((_depth(each) for each in inner), default=0)


@given(at=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_a_message_with_another_byte_is_refused(at: int, byte: int) -> None:
    text = seals().seal("news", "node", {"keys": ["a", "b"], "at": 1.5})
    at %= len(text)
    changed = text[:at] + bytes([byte]) + text[at + 1 :]
    if changed != text:
        with pytest.raises(Unsealed):
            read(changed)


@given(st.binary(max_size=300) | st.text(max_size=100).map(lambda text: json.dumps(text).encode()))
def test_whatever_nobody_has_sealed_is_refused_and_never_another_error(text: bytes) -> None:
    with pytest.raises(Unsealed):
        read(text)
    with pytest.raises(Unsealed):
        read(text + b',"seal":"' + b"0" * 64 + b'"}')


def test_a_message_of_another_kind_or_with_another_secret_is_refused() -> None:
    text = seals().seal("news", "node", {})
    with pytest.raises(Unsealed):
        read(text, kind="member")
    with pytest.raises(Unsealed):
        read(text, OTHER)


def test_a_fleet_changes_its_secret_without_a_pause() -> None:
    text = seals(OTHER, SECRET).seal("news", "node", {})
    assert read(text, SECRET, OTHER).node_id == "node"


@pytest.mark.parametrize("off_s", [-WINDOW_S - 2, WINDOW_S + 2])
def test_a_message_of_another_time_is_refused_where_its_time_matters(off_s: float) -> None:
    text = seals(now_s=NOW_S + off_s).seal("news", "node", {})
    with pytest.raises(Unsealed, match="sealed"):
        read(text)
    assert seals().open("news", text, bytes_max=BYTES_MAX, window_s=None).at_s == NOW_S + off_s


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 9 + b"]" * 9,
        b'{"a":' * 9 + b"1" + b"}" * 9,
        b"1" * 21,
        b"-" + b"1" * 20,
        b"1e999",
        b"[1" + b"0" * 400 + b"]",
        b" " * (BYTES_MAX + 1),
        b"\xff",
        b"",
        b"{",
        b'"\\',
    ],
)
def test_json_that_is_too_much_or_none_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(text, bytes_max=BYTES_MAX)


def test_brackets_in_strings_are_no_levels() -> None:
    text = json.dumps(["[" * 100, '\\"[[[[[[[[[[[', {"{{{{{{{{{{": "]"}]).encode()
    assert parse_json(text, bytes_max=BYTES_MAX) == json.loads(text)


@given(hostile(["[", "]", "{", "}", '"', "\\", ":", ",", "1", "-", "e", "null", "[[", '\\"']))
def test_json_costs_no_more_than_its_length(shape: Shape) -> None:
    assert_linear(lambda text: parse_json(text, bytes_max=1 << 20), shape.raw)


@given(hostile(["{", '"', '","seal":"', '"}', "a"]))
def test_opening_costs_no_more_than_the_length(shape: Shape) -> None:
    opener = seals()
    assert_linear(lambda text: opener.open("news", text, bytes_max=1 << 20), shape.raw)
