"""`list_objects` and `list_buckets`, promised by every origin: the same pages wherever the objects live."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest

from proxy.errors import NotFound
from tests.contract.origin_under_test import BUCKET, OriginUnderTest

FOLDER = "listing/"
KEYS = [FOLDER + key for key in ("a", "b b", "c+d", "d/1", "d/2", "d/e/3", "d0", "z%20&<x>", "é/ü")]


def plant(under_test: OriginUnderTest) -> None:
    for key in KEYS:
        under_test.put(key, key.encode())


async def walk(under_test: OriginUnderTest, prefix: str, delimiter: str, limit: int) -> list[str]:
    """All entries of a listing, by pages of `limit`."""
    entries: list[str] = []
    after = ""
    while True:
        page = await under_test.origin.list_objects(
            BUCKET, prefix=prefix, delimiter=delimiter, after=after, limit=limit
        )
        names = [item.key for item in page.objects] + list(page.prefixes)
        assert len(names) <= limit
        entries += sorted(names, key=str.encode)
        if page.next_after is None:
            return entries
        after = page.next_after


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
async def test_pages_of_any_length_make_up_the_listing(under_test: OriginUnderTest, limit: int) -> None:
    plant(under_test)
    assert await walk(under_test, FOLDER, "", limit) == KEYS
    shallow = [FOLDER + name for name in ("a", "b b", "c+d", "d/", "d0", "z%20&<x>", "é/")]
    assert await walk(under_test, FOLDER, "/", limit) == shallow
    assert await walk(under_test, FOLDER + "d/", "/", limit) == [FOLDER + name for name in ("d/1", "d/2", "d/e/")]


async def test_a_listing_goes_on_behind_any_name(under_test: OriginUnderTest) -> None:
    plant(under_test)
    for after, expected in [
        (FOLDER + "c", KEYS[2:]),
        *((one, KEYS[i + 1 :]) for i, (one, _) in enumerate(pairwise(KEYS))),
    ]:
        page = await under_test.origin.list_objects(BUCKET, prefix=FOLDER, delimiter="", after=after, limit=1000)
        assert [item.key for item in page.objects] == expected


async def test_an_entry_says_what_a_head_says(under_test: OriginUnderTest) -> None:
    plant(under_test)
    page = await under_test.origin.list_objects(BUCKET, prefix=KEYS[3], delimiter="", after="", limit=1)
    (entry,) = page.objects
    record = await under_test.origin.head(BUCKET, KEYS[3])
    assert record.last_modified_s is not None
    modified = (int(entry.last_modified_s), int(record.last_modified_s))
    assert abs(modified[0] - modified[1]) <= (
        1 if under_test.kind == "rclone" else 0
    )  # it rounds them each its own way
    assert (entry.key, entry.size_bytes, entry.etag) == (KEYS[3], record.size_bytes, record.etag)
    if record.generation is not None:
        assert entry.generation == record.generation
    assert abs(entry.last_modified_s - time.time()) < 600


async def test_an_empty_page_and_a_bucket_that_is_not_there(under_test: OriginUnderTest) -> None:
    plant(under_test)
    page = await under_test.origin.list_objects(BUCKET, prefix="nothing/", delimiter="/", after="", limit=10)
    assert (page.objects, page.prefixes, page.next_after) == ((), (), None)
    page = await under_test.origin.list_objects(BUCKET, prefix=FOLDER, delimiter="", after="", limit=0)
    assert (page.objects, page.prefixes, page.next_after) == ((), (), None)
    if under_test.kind == "gcs_emulator":
        return  # it lists buckets that it has not
    with pytest.raises(NotFound) as caught:
        await under_test.origin.list_objects("no-such-bucket", prefix="", delimiter="", after="", limit=1)
    assert caught.value.what == "bucket"


async def test_buckets_are_listed(under_test: OriginUnderTest) -> None:
    if under_test.gcs is not None:
        pytest.skip("its buckets are listed by project, see test_gcs_listing")
    assert BUCKET in dict(await under_test.origin.list_buckets())
