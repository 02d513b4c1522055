"""The same facts in the words of either dialect's headers; conditions on GCS's numbers."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.conditions import Conditions, GenerationConditions, Verdict
from proxy.errors import OtherGeneration, PreconditionFailed
from proxy.gateway.decide import judge
from proxy.generations import generation_of, render_etag
from proxy.http.dialect_headers import RESOURCE, amz_headers, goog_headers, storage_class
from proxy.objects import ObjectRecord, ObjectVersion, SumKind


def record_of(**fields: Any) -> ObjectRecord:
    values: dict[str, Any] = {
        "version": ObjectVersion("s3://h", "b", "k", 'etag "e"', 9),
        "etag": '"e"',
        "last_modified_s": 1_700_000_000.0,
        "headers": (("content-type", "x/y"), ("content-encoding", "gzip"), ("x-amz-version-id", "V")),
        "checked_at_s": 1.0,
        "sums": ((SumKind.CRC32C, 0xC99465AA),),
        "md5": "5eb63bbbe01eeed093cb22bb8f5acdc3",
        "user_metadata": (("colour", "blue"),),
    }
    return ObjectRecord(**values | fields)


def test_an_s3_objects_headers_in_gcss_words() -> None:
    record = record_of()
    assert goog_headers(record) == (
        ("x-goog-generation", str(generation_of(record))),
        ("x-goog-metageneration", "1"),
        ("x-goog-stored-content-encoding", "gzip"),
        ("x-goog-stored-content-length", "9"),
        ("x-goog-hash", "crc32c=yZRlqg=="),
        ("x-goog-hash", "md5=XrY7u+Ae7tCTyyK7j1rNww=="),
        ("x-goog-storage-class", "STANDARD"),
        ("x-goog-meta-colour", "blue"),
    )
    assert amz_headers(record) == record.headers


def test_what_an_origin_does_not_tell_is_left_out() -> None:
    names = [name for name, _ in goog_headers(record_of(headers=(), sums=(), md5=None, user_metadata=()))]
    assert names == [
        "x-goog-generation",
        "x-goog-metageneration",
        "x-goog-stored-content-encoding",
        "x-goog-stored-content-length",
        "x-goog-storage-class",
    ]


def test_a_gcs_objects_headers_are_its_own_and_the_gateways_stay_here() -> None:
    headers = (
        ("etag", '"e"'),
        ("x-goog-generation", "7"),
        ("x-goog-meta-a", "b"),
        ("x-goog-storage-class", "NEARLINE"),
        (RESOURCE, "{}"),
    )
    record = record_of(headers=headers, generation=7)
    assert goog_headers(record) == headers[1:4]
    renamed = dict(amz_headers(record))
    assert renamed["x-amz-version-id"] == "7"
    assert renamed["x-amz-meta-a"] == "b"
    assert renamed["x-amz-storage-class"] == "NEARLINE"
    assert renamed["x-amz-checksum-crc32c"] == "yZRlqg=="
    assert RESOURCE not in renamed


@pytest.mark.parametrize(
    ("told", "found"), [("STANDARD_IA", "NEARLINE"), ("GLACIER", "ARCHIVE"), ("EXPRESS_ONEZONE", "EXPRESS_ONEZONE")]
)
def test_storage_classes_have_gcss_names_where_there_are_such(told: str, found: str) -> None:
    assert storage_class(record_of(headers=(("x-amz-storage-class", told),))) == found


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({}, Verdict.HOLDS),
        ({"match": 7}, Verdict.HOLDS),
        ({"match": 8}, Verdict.FAILED),
        ({"match": 0}, Verdict.FAILED),
        ({"not_match": 7}, Verdict.NOT_MODIFIED),
        ({"not_match": 0}, Verdict.HOLDS),
        ({"meta_match": 2}, Verdict.HOLDS),
        ({"meta_match": 1}, Verdict.FAILED),
        ({"meta_not_match": 2}, Verdict.NOT_MODIFIED),
        ({"etag_match": "CAE="}, Verdict.HOLDS),
        ({"etag_match": '"CAE="'}, Verdict.HOLDS),
        ({"etag_match": '"e"'}, Verdict.HOLDS),
        ({"etag_match": "other, CAE="}, Verdict.HOLDS),
        ({"etag_match": "*"}, Verdict.HOLDS),
        ({"etag_match": "other"}, Verdict.FAILED),
        ({"etag_none_match": "CAE="}, Verdict.NOT_MODIFIED),
        ({"etag_none_match": "other"}, Verdict.HOLDS),
        ({"match": 8, "not_match": 7}, Verdict.FAILED),
    ],
)
def test_conditions_on_generations(fields: dict[str, Any], verdict: Verdict) -> None:
    assert GenerationConditions(**fields).evaluate(7, 2, '"e"', "CAE=") is verdict


def test_conditions_of_both_kinds_count_together() -> None:
    record = record_of()
    generation = generation_of(record)

    def judged(if_match: str | None = None, if_none_match: str | None = None, **fields: Any) -> bool:
        return judge(Conditions(if_match, if_none_match, generations=GenerationConditions(**fields)), record)

    assert judged(if_match='"e"', match=generation)
    assert judged(etag_match=render_etag(generation), pin=generation)
    assert not judged(if_none_match='"e"', match=generation)
    assert not judged(if_match='"e"', not_match=generation)
    failures: list[dict[str, Any]] = [
        {"if_match": '"x"', "not_match": generation},
        {"if_none_match": '"e"', "match": 5},
    ]
    for failing in failures:
        with pytest.raises(PreconditionFailed):
            judged(**failing)
    with pytest.raises(OtherGeneration):
        judged(pin=5)
