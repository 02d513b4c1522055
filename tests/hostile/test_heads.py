"""What a request's head may cost: ranges, conditions, dates, targets, queries, and both dialects' reading of it all."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gcsapi.requests
import gcsapi.targets
import s3api.requests
import s3api.targets
from proxy.conditions import LIST_CHARS_MAX, Conditions, GenerationConditions, Verdict, parse_http_date
from proxy.errors import InvalidRequest
from proxy.http.dialects import sniff
from proxy.http.targets import PARAMETERS_MAX, bucket_of_host, parse_query, split_target
from proxy.lanes import heads
from proxy.ranges import parse_range, parse_span
from tests.hostile.cost import Shape, assert_linear, hostile

DATES = ["Sun, 06 Nov 1994 08:49:37 GMT", "Sun", "Nov", "1994", "08:49:37", "GMT", "+0100", "(", ")"]
TAGS = ['"abc"', "W/", '"', ",", "*", "abc"]
TARGETS = ["/", "/b/k", "?", "&", "=", "http://h", "http://", "%2F", "x-amz-", "storage/v1/b/b/o/", "#", "@"]
VALUES = [*TAGS, *DATES, "bytes=", "-", "no-cache", "gzip;q=0", "close"]
NAMES = [b"range", b"if-match", b"if-none-match", b"if-modified-since", b"if-range", b"cache-control", b"expect"]
NAMES += [b"accept-encoding", b"connection", b"content-type", b"content-length", b"x-amz-copy-source", b"authorization"]
NAMES += [b"x-goog-if-generation-match", b"x-amz-content-sha256", b"x-http-method-override", b"transfer-encoding"]
SPEAKERS = [s3api.requests.parse_request, gcsapi.requests.parse_request]

few = settings(max_examples=25)


@given(hostile(["bytes=", "-", ",", "bytes"]))
def test_a_range_costs_no_more_than_its_length(shape: Shape) -> None:
    assert_linear(parse_range, shape.text)
    assert_linear(partial(parse_span, size_bytes=1 << 40), shape.raw)


@pytest.mark.parametrize(
    "blanks", ["bytes={}x", "bytes=0-{}", "bytes=0{}-1", "{}bytes=0-1", "bytes{}=0-1", "bytes=0-1{}"]
)
def test_blanks_in_a_range_cost_no_more_than_their_number(blanks: str) -> None:
    assert_linear(lambda text: parse_range(blanks.format(text)), Shape("", " ", "").text)


@few
@given(hostile(TAGS), hostile(DATES))
def test_conditions_cost_no_more_than_their_length(tags: Shape, dates: Shape) -> None:
    def evaluate(value: str) -> object:
        return Conditions(value, value, value, value, value).evaluate('"abc-1"', 1e9)

    def evaluate_gcs(value: str) -> object:
        return GenerationConditions(etag_match=value, etag_none_match=value).evaluate(1, 2, '"a"', "b")

    def evaluate_dates(value: str) -> object:
        conditions = Conditions(if_modified_since=value, if_unmodified_since=value, if_range=value)
        return conditions.evaluate('"abc-1"', 1e9), conditions.range_applies('"abc-1"', 1e9)

    for check in (evaluate, evaluate_gcs, evaluate_dates):
        assert_linear(check, tags.text)
        assert_linear(check, dates.text)
    assert_linear(parse_http_date, dates.text)


def test_lists_of_entity_tags_have_a_limit() -> None:
    assert Conditions(if_match=",".join(['"abc"'] * 1365)).evaluate('"abc"', None) is Verdict.HOLDS
    long = "x" * (LIST_CHARS_MAX + 1)
    for make in (
        lambda: Conditions(if_match=long),
        lambda: Conditions(if_none_match=long),
        lambda: Conditions(if_range=long),
        lambda: GenerationConditions(etag_match=long),
        lambda: GenerationConditions(etag_none_match=long),
    ):
        with pytest.raises(InvalidRequest, match="entity tags"):
            make()


def test_queries_have_a_limit_of_parameters() -> None:
    assert len(parse_query(b"&".join([b"a=1"] * PARAMETERS_MAX))) == PARAMETERS_MAX
    with pytest.raises(InvalidRequest, match="parameters"):
        parse_query(b"&".join([b"a=1"] * (PARAMETERS_MAX + 1)))


@few
@given(hostile(TARGETS))
def test_a_target_costs_no_more_than_its_length(shape: Shape) -> None:
    suffixes = ("example.com", "s3.example.com")

    def hosts(text: str) -> object:
        return bucket_of_host(text, suffixes)

    assert_linear(hosts, shape.text)
    for parse in (heads.parse_target, lambda raw: split_target(raw, "h"), parse_query, lambda raw: sniff({}, raw)):
        assert_linear(parse, shape.raw)
    assert_linear(lambda raw: s3api.targets.parse_target(b"/b/k" + raw, "h", suffixes), shape.raw)
    assert_linear(lambda raw: gcsapi.targets.parse_target(b"/b/k" + raw, "h", suffixes), shape.raw)


@few
@given(hostile(VALUES), st.sampled_from(NAMES), st.sampled_from(["GET", "PUT", "POST"]))
@pytest.mark.parametrize("parse", SPEAKERS, ids=["s3", "gcs"])
def test_one_long_header_costs_no_more_than_its_length(
    parse: Callable[..., object], shape: Shape, name: bytes, method: str
) -> None:
    def read(value: bytes) -> None:
        parse(method, b"/b/k", [(b"host", b"h"), (name, value)])

    assert_linear(read, shape.raw)


@pytest.mark.parametrize("parse", SPEAKERS, ids=["s3", "gcs"])
@pytest.mark.parametrize("name", [b"x-amz-meta-%d", b"x-goog-meta-%d", b"range", b"connection"])
def test_many_header_lines_cost_no_more_than_their_number(parse: Callable[..., object], name: bytes) -> None:
    def lines(length: int) -> list[tuple[bytes, bytes]]:
        return [(name % number if b"%" in name else name, b"x") for number in range(length // 5)]

    assert_linear(lambda headers: parse("PUT", b"/b/k", headers), lines)
    assert_linear(lambda headers: heads.find_fault("1.1", headers, upgrades=False), lines)
