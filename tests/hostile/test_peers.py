"""What a request to `/-/peer/` may cost before and after its signature, and what an answer of another node may."""

from __future__ import annotations

import contextlib
from functools import partial

from hypothesis import given, settings

from proxy.fleet.members.status import STATUS_BYTES_MAX, parse_status
from proxy.fleet.protocol import Ask, NamedSource, WantedBlock, WantedRecord, parse_query
from proxy.fleet.signing import sign, verify
from tests.hostile.cost import Shape, assert_linear, hostile

SECRET = b"0123456789abcdef"
SIGNED = sign([SECRET], sender="0a", receiver="0b", method="GET", target=b"/", now_s=0.0).authorization
HEADER = ["Warmstart-2 ", 'node="', 'time="', 'nonce="', 'signature="', '", ', "0a", SIGNED[:80]]
QUERY = ["digest=", "index=", "tried=", "sums=", "crc32c:", "fill=", "origin=s3&bucket=b&key=", "ttl=", "heard="]

few = settings(max_examples=25)


@given(hostile(HEADER))
def test_a_signature_costs_no_more_than_its_length(shape: Shape) -> None:
    check = partial(verify, [SECRET], receivers=("0b", ""), method="GET", target=b"/", now_s=0.0)
    assert_linear(check, shape.text)
    assert_linear(
        lambda target: verify([SECRET], SIGNED, receivers=("0b",), method="GET", target=target, now_s=0.0), shape.raw
    )


@few
@given(hostile(QUERY))
def test_a_query_costs_no_more_than_its_length(shape: Shape) -> None:
    def read(text: bytes) -> None:
        found = parse_query(text)
        for kind in (Ask, WantedBlock, WantedRecord):
            with contextlib.suppress(ValueError):
                kind.parse(found)

    assert_linear(read, shape.raw)


@few
@given(hostile(['{"self":', '{"protocol":2,"self":{"node_id":"', '"stats":{', '"a":1,', "}"]))
def test_a_sighting_costs_no_more_than_its_length(shape: Shape) -> None:
    assert_linear(parse_status, shape.raw, longest=STATUS_BYTES_MAX)


def test_an_owners_answer_has_a_fill_id_of_64_bits() -> None:
    for fill in ("f" * 17, "-1", "x", "1" * 10_000):
        with contextlib.suppress(ValueError):
            NamedSource.parse({"source": None, "fill": fill})
            raise AssertionError("it was read")
