"""Signed requests: whoever knows the secret is believed, once, in time, in just these words; nobody else ever is."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.fleet.signing import WINDOW_S, Caller, Nonces, Signed, sign, verify

SECRET = b"0123456789abcdef"
NOW_S = 1_700_000_000.5
TARGET = b"/-/peer/block?key=a%20b&index=3"

identities = st.text("0123456789abcdef", min_size=1, max_size=64)
targets = st.binary(min_size=1, max_size=60).map(lambda data: b"/" + data.replace(b"\n", b""))


def request(
    *, sender: str = "0a", receiver: str = "0b", method: str = "GET", target: bytes = TARGET, secret: bytes = SECRET
) -> Signed:
    return sign([secret], sender=sender, receiver=receiver, method=method, target=target, now_s=NOW_S)


def check(
    authorization: str | None,
    *,
    receiver: str = "0b",
    method: str = "GET",
    target: bytes = TARGET,
    now_s: float = NOW_S,
    secrets: tuple[bytes, ...] = (SECRET,),
) -> Caller | None:
    found = verify(secrets, authorization, receivers=(receiver,), method=method, target=target, now_s=now_s)
    return found if isinstance(found, Caller) else None


@given(sender=identities, receiver=identities, method=st.sampled_from(["GET", "PUT", "HEAD"]), target=targets)
def test_what_was_signed_is_believed_and_its_proof_is_the_one_that_is_expected(
    sender: str, receiver: str, method: str, target: bytes
) -> None:
    signed = request(sender=sender, receiver=receiver, method=method, target=target)
    caller = check(signed.authorization, receiver=receiver, method=method, target=target)
    assert caller is not None
    assert caller.node_id == sender
    assert caller.proofs == signed.proofs


@given(target=targets, at=st.integers(0, 1000), byte=st.integers(0, 255))
def test_a_target_with_another_byte_is_refused(target: bytes, at: int, byte: int) -> None:
    signed = request(target=target)
    at %= len(target)
    other = target[:at] + bytes([byte]) + target[at + 1 :]
    assert (check(signed.authorization, target=other) is not None) == (other == target)


@given(target=targets, more=st.binary(min_size=1, max_size=5), at=st.integers(0, 1000))
def test_a_target_that_is_longer_or_shorter_is_refused(target: bytes, more: bytes, at: int) -> None:
    signed = request(target=target)
    at %= len(target) + 1
    assert check(signed.authorization, target=target[:at] + more + target[at:]) is None
    if at < len(target):
        assert check(signed.authorization, target=target[:at] + target[at + 1 :]) is None


@given(receiver=identities, other=identities | st.just(""))
def test_a_request_for_one_node_means_nothing_to_another(receiver: str, other: str) -> None:
    signed = request(receiver=receiver)
    assert (check(signed.authorization, receiver=other) is not None) == (receiver == other)


@pytest.mark.parametrize("method", ["POST", "PUT", "HEAD", "get", "GET ", ""])
def test_another_method_is_refused(method: str) -> None:
    assert check(request().authorization, method=method) is None


@given(at=st.integers(0, 1000), character=st.characters(codec="latin-1"))
def test_a_header_with_another_character_is_refused(at: int, character: str) -> None:
    authorization = request().authorization
    at %= len(authorization)
    other = authorization[:at] + character + authorization[at + 1 :]
    assert (check(other) is not None) == (other == authorization)


@given(st.text(st.characters(codec="latin-1"), max_size=200) | st.none())
def test_whatever_else_a_header_holds_is_refused_and_never_an_error(authorization: str | None) -> None:
    assert check(authorization) is None


def test_fields_of_one_request_cannot_be_moved_into_each_other() -> None:
    """Sender "1" to receiver "2" is not the sender "12" to whom it concerns."""
    authorization = request(sender="1", receiver="2").authorization
    moved = authorization.replace('node="1"', 'node="12"')
    assert check(moved, receiver="") is None
    assert check(authorization, receiver="2") is not None


@pytest.mark.parametrize("off_s", [-WINDOW_S - 2, WINDOW_S + 2, 3600, -3600])
def test_a_request_of_another_time_is_refused(off_s: float) -> None:
    assert check(request().authorization, now_s=NOW_S + off_s) is None


@pytest.mark.parametrize("off_s", [-WINDOW_S + 1, 0, WINDOW_S - 1])
def test_clocks_may_differ_a_little(off_s: float) -> None:
    assert check(request().authorization, now_s=NOW_S + off_s) is not None


def test_the_time_in_a_header_is_signed() -> None:
    authorization = request().authorization
    later = re.sub(r'time="\d+"', f'time="{int(NOW_S) + 3600}"', authorization)
    assert later != authorization
    assert check(later, now_s=NOW_S + 3600) is None


def test_another_secret_is_refused_and_so_is_its_proof() -> None:
    signed = request(secret=b"another secret, as long")
    assert check(signed.authorization) is None
    own = request()
    caller = check(own.authorization)
    assert caller is not None
    assert caller.proofs.answer(200, b"") != signed.proofs.answer(200, b"")


def test_a_fleet_changes_its_secret_without_a_pause() -> None:
    """Nodes are restarted one by one, at each step: two neighbouring steps understand each other, both ways."""
    old, new = b"the old secret.....", b"the new secret....."
    steps = [(old,), (old, new), (new, old), (new,)]
    for before, after in itertools.pairwise(steps):
        for asks, answers in ((before, after), (after, before)):
            signed = sign(asks, sender="0a", receiver="0b", method="GET", target=TARGET, now_s=NOW_S)
            caller = check(signed.authorization, secrets=answers)
            assert caller is not None
            assert caller.proofs == signed.proofs
    signed = sign((new,), sender="0a", receiver="0b", method="GET", target=TARGET, now_s=NOW_S)
    assert check(signed.authorization, secrets=(old,)) is None


def test_a_node_may_be_meant_by_several_names() -> None:
    signed = request(receiver="")
    for receivers, believed in ((("0b",), False), (("0b", ""), True), (("",), True)):
        found = verify([SECRET], signed.authorization, receivers=receivers, method="GET", target=TARGET, now_s=NOW_S)
        assert isinstance(found, Caller) == believed


def test_no_two_requests_are_the_same() -> None:
    assert len({request().authorization for _ in range(100)}) == 100


# Nonces.


def test_a_nonce_counts_once() -> None:
    nonces = Nonces()
    assert nonces.take("a", NOW_S)
    assert not nonces.take("a", NOW_S)
    assert nonces.take("b", NOW_S)
    assert not nonces.take("a", NOW_S + 2 * WINDOW_S)


def test_a_nonce_is_remembered_for_as_long_as_its_request_would_be_believed() -> None:
    """It may come as early as WINDOW_S before its time, and again as late as WINDOW_S after it."""
    signed, nonces = request(), Nonces()
    first = check(signed.authorization, now_s=int(NOW_S) - WINDOW_S)
    assert first is not None
    assert nonces.take(first.nonce, int(NOW_S) - WINDOW_S)
    assert check(signed.authorization, now_s=int(NOW_S) + WINDOW_S) is not None
    assert not nonces.take(first.nonce, int(NOW_S) + WINDOW_S)


def test_what_is_remembered_is_bounded_in_time_and_in_number() -> None:
    nonces = Nonces(nonces_max=100)
    for number in range(1000):
        assert nonces.take(f"{number}", NOW_S)
        assert len(nonces._seen) == len(nonces._order) <= 100
    assert nonces.take("late", NOW_S + 2 * WINDOW_S + 1)
    assert len(nonces._seen) == 1


def test_a_clock_that_is_set_back_lets_nothing_through_twice() -> None:
    nonces = Nonces()
    assert nonces.take("a", NOW_S)
    assert nonces.take("b", NOW_S - 1000)
    assert not nonces.take("a", NOW_S - 1000)
    assert not nonces.take("b", NOW_S)
