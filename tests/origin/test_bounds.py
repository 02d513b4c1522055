"""What an S3 origin remembers of buckets is bounded: the ones asked for longest ago are forgotten."""

from __future__ import annotations

from proxy.origin.s3 import lately, redirects


def test_regions_are_known_of_so_many_buckets() -> None:
    regions = redirects.Regions("us-east-1")
    for number in range(redirects.BUCKETS_MAX):
        regions.learn(f"b{number}", "eu-west-1")
    assert regions.of("b0") == "eu-west-1"
    regions.learn("one more", "eu-west-2")
    assert (regions.of("b0"), regions.of("b1"), regions.of("one more")) == ("eu-west-1", "us-east-1", "eu-west-2")
    assert not regions.knows("b1")


def test_so_many_buckets_were_noted_lately() -> None:
    noted = lately.Lately(lambda: 1000.0)
    for number in range(lately.BUCKETS_MAX + 1):
        noted.note(f"b{number}")
    assert (noted.lately("b0"), noted.lately("b1"), noted.lately(f"b{lately.BUCKETS_MAX}")) == (False, True, True)
