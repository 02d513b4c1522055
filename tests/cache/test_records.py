"""The file of one key: what is written is read, and whatever else lies there is nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.blocks import update_sum
from proxy.cache.records import FenceMark, KeyFile, parse_key_file, parse_version, render_key_file
from proxy.objects import ObjectKey, ObjectRecord, ObjectVersion, SumKind

KEY = ObjectKey("s3://origin:9000", "bucket", "models/a b/\udcff/ü.safetensors", "v1")
RECORD = ObjectRecord(
    version=ObjectVersion(KEY.origin, KEY.bucket, KEY.key, 'etag "abc-3"', 1 << 40),
    etag='"abc-3"',
    last_modified_s=1700000000.0,
    headers=(("content-type", "text/plain"), ("x-amz-meta-name", "f\xfcr")),
    checked_at_s=1700000100.25,
    sums=((SumKind.CRC32C, 0xFFFFFFFF), (SumKind.CRC64NVME, (1 << 64) - 1)),
    md5="0cc175b9c0f1b6a831c399e269772661",
    generation=1 << 60,
    user_metadata=(("name", "für"),),
    cacheable=False,
)
MARKS = (FenceMark("run", "worker 1", "a1"), FenceMark("run", "worker 2", "b2"))


def sealed(fields: Any) -> bytes:
    line = json.dumps(fields).encode()
    return b"%s\n%08x\n" % (line, update_sum(SumKind.CRC32C, memoryview(line)))


@pytest.mark.parametrize("content", [KeyFile(record=RECORD), KeyFile(fences=MARKS)])
def test_what_is_rendered_is_parsed_again(content: KeyFile) -> None:
    assert parse_key_file(render_key_file(KEY, content), KEY) == content


texts = st.text(max_size=20)
pairs = st.lists(st.tuples(texts, texts), max_size=5).map(tuple)


@given(
    st.builds(ObjectKey, texts, texts, texts, st.none() | texts),
    st.integers(0, 1 << 63),
    texts,
    pairs,
    st.floats(allow_nan=False),
    st.none() | st.floats(allow_nan=False) | st.integers(),
)
def test_any_record_survives(
    key: ObjectKey, size: int, etag: str, headers: tuple[tuple[str, str], ...], checked: float, modified: float | None
) -> None:
    version = ObjectVersion(key.origin, key.bucket, key.key, f"etag {etag}", size)
    record = ObjectRecord(version, etag, modified, headers, checked, user_metadata=headers)
    raw = render_key_file(key, KeyFile(record=record))
    assert raw.isascii()
    assert parse_key_file(raw, key) == KeyFile(record=record)
    assert parse_version(raw) == version


@given(st.data())
def test_a_changed_byte_is_never_read_as_something_else(data: st.DataObject) -> None:
    content = data.draw(st.sampled_from([KeyFile(record=RECORD), KeyFile(fences=MARKS)]))
    raw = bytearray(render_key_file(KEY, content))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    assert parse_key_file(bytes(raw), KEY) in (None, content)


def test_a_torn_file_is_no_file() -> None:
    raw = render_key_file(KEY, KeyFile(record=RECORD))
    for length in range(len(raw)):
        assert parse_key_file(raw[:length], KEY) is None
    assert parse_key_file(raw + b"x", KEY) is None


@given(st.binary(max_size=200))
def test_garbage_is_no_file(raw: bytes) -> None:
    assert parse_key_file(raw, KEY) is None
    assert parse_version(raw) is None


@pytest.mark.parametrize(
    "other",
    [
        ObjectKey(KEY.origin, KEY.bucket, KEY.key, "v2"),
        ObjectKey(KEY.origin, KEY.bucket, KEY.key),
        ObjectKey(KEY.origin, KEY.bucket, KEY.key + "x", "v1"),
        ObjectKey("s3://other", KEY.bucket, KEY.key, "v1"),
    ],
)
def test_the_file_of_another_key_is_refused(other: ObjectKey) -> None:
    assert parse_key_file(render_key_file(KEY, KeyFile(record=RECORD)), other) is None


@pytest.mark.parametrize(
    "change",
    [
        {"size_bytes": -1},
        {"size_bytes": "5"},
        {"size_bytes": True},
        {"validator": ""},
        {"etag": None},
        {"headers": [["a"]]},
        {"headers": [["a", 5]]},
        {"headers": 5},
        {"checked_at_s": None},
        {"sums": [["md4", 1]]},
        {"sums": [["crc32c", "1"]]},
        {"cacheable": 1},
        {"generation": "7"},
    ],
)
def test_a_field_of_a_wrong_kind_makes_the_record_none(change: dict[str, Any]) -> None:
    raw = render_key_file(KEY, KeyFile(record=RECORD))
    fields = json.loads(raw.partition(b"\n")[0])
    assert parse_key_file(sealed(fields), KEY) == KeyFile(record=RECORD)
    fields["record"].update(change)
    assert parse_key_file(sealed(fields), KEY) is None


@pytest.mark.parametrize("name", ["size_bytes", "validator", "headers", "sums", "cacheable"])
def test_a_missing_field_makes_the_record_none(name: str) -> None:
    fields = json.loads(render_key_file(KEY, KeyFile(record=RECORD)).partition(b"\n")[0])
    del fields["record"][name]
    assert parse_key_file(sealed(fields), KEY) is None


@pytest.mark.parametrize("fields", [5, [], None, {}, {"format": 2, "key": [], "fences": []}, {"format": 1}])
def test_other_formats_are_no_file(fields: Any) -> None:
    assert parse_key_file(sealed(fields), KEY) is None
    assert parse_version(sealed(fields)) is None


def test_a_tombstone_names_no_version() -> None:
    assert parse_version(render_key_file(KEY, KeyFile(fences=MARKS))) is None
