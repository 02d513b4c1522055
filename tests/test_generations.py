"""Every version of every origin has one generation: positive, below 2^63, the same wherever it is asked for."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from proxy.generations import derive_generation, generation_of, render_etag
from proxy.objects import ObjectRecord, ObjectVersion

VERSION = ObjectVersion("s3://h:1", "models", "weights", 'etag "v1"', 10)
RECORD = ObjectRecord(VERSION, '"v1"', 1_700_000_000.0, (), 1_700_000_100.0)


def version(validator: str, size_bytes: int = 10) -> ObjectVersion:
    return ObjectVersion("s3://h:1", "models", "weights", validator, size_bytes)


def test_the_origins_own_generation_counts() -> None:
    assert generation_of(replace(RECORD, generation=17)) == 17


def test_a_derived_generation_is_the_same_everywhere_and_for_ever() -> None:
    assert generation_of(RECORD) == 1_825_361_101_805_645_120
    assert derive_generation(VERSION, 1_700_000_000.9) == generation_of(RECORD)
    elsewhere = replace(VERSION, origin="s3://other:1", bucket="b")
    assert derive_generation(elsewhere, 1_700_000_000) == generation_of(RECORD)


def test_a_newer_version_has_the_larger_generation() -> None:
    assert derive_generation(version('etag "a"'), 1_700_000_001) > derive_generation(version('etag "z"'), 1_700_000_000)


def test_versions_of_the_same_second_differ() -> None:
    made = {derive_generation(version(f'etag "{number}"'), 1_700_000_000) for number in range(1000)}
    made |= {derive_generation(version('etag "0"', size), 1_700_000_000) for size in range(1, 10)}
    assert len(made) == 1009


@given(st.text(min_size=1), st.none() | st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 1 << 50))
def test_every_generation_is_positive_and_fits_in_63_bits(
    validator: str, last_modified_s: float | None, size_bytes: int
) -> None:
    assert 0 < derive_generation(version(validator, size_bytes), last_modified_s) < 1 << 63


def test_an_etag_is_made_as_gcs_makes_it() -> None:
    assert render_etag(1_641_528_999_530_024) == "CKicn4fknvUCEAE="
    assert render_etag(1_641_528_999_530_024, 300) == "CKicn4fknvUCEKwC"
