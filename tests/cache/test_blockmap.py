"""The map's words and header: pure packing."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.blocks import BLOCK_BYTES_MAX, START_STEP_BYTES
from proxy.cache.blockmap import (
    ABSENT_WORD,
    HEADER_BYTES_MAX,
    RUN_TAG_MAX,
    BlockKind,
    BlockState,
    MapHeader,
    is_present,
    is_verified,
    is_written,
    pack_filling,
    pack_present,
    pack_unchecked,
    pack_written,
    parse_header,
    read_state,
    render_map,
    run_tag,
    word_crc32c,
)
from proxy.objects import ObjectVersion, SumKind

tags = st.integers(1, RUN_TAG_MAX)
texts = st.text(st.characters(codec=None), max_size=60)
versions = st.builds(ObjectVersion, texts, texts, texts, texts.filter(bool), st.integers(1, 1 << 50))


@st.composite
def headers(draw: st.DrawFn) -> MapHeader:
    block_bytes = draw(st.integers(1, BLOCK_BYTES_MAX))
    segment_blocks = draw(st.integers(1, 200))
    segment = draw(st.integers(0, 1000))
    size = draw(st.integers(segment * segment_blocks * block_bytes + 1, 1 << 55))
    names = draw(versions)
    version = ObjectVersion(names.origin, names.bucket, names.key, names.validator, size)
    second = draw(st.sampled_from([None, SumKind.CRC32, SumKind.CRC64NVME]))
    return MapHeader(version, segment, block_bytes, segment_blocks, draw(st.binary(min_size=16, max_size=16)), second)


@given(tags, st.integers(0, (1 << 32) - 1), tags)
def test_a_present_word_gives_its_checksum_back_and_is_verified_for_its_own_run_only(
    tag: int, crc32c: int, other: int
) -> None:
    word = pack_present(tag, crc32c)
    assert 0 <= word < 1 << 64
    assert is_present(word)
    assert word_crc32c(word) == crc32c
    assert is_verified(word, other) == (tag == other)
    assert read_state(word, other, 100) == BlockState(BlockKind.PRESENT, verified=tag == other)


@given(tags, st.integers(0, (1 << 32) - 1), tags)
def test_a_written_word_is_present_and_trusted_by_nobody(tag: int, crc32c: int, other: int) -> None:
    word = pack_written(tag, crc32c)
    assert 0 <= word < 1 << 64
    assert is_present(word)
    assert word_crc32c(word) == crc32c
    assert not is_verified(word, other)
    assert is_written(word, other) == (tag == other)
    assert read_state(word, other, 100) == BlockState(BlockKind.PRESENT, written=tag == other)


@given(tags, st.integers(0, (1 << 32) - 1))
def test_an_unchecked_word_is_present_and_of_no_run(tag: int, crc32c: int) -> None:
    word = pack_unchecked(crc32c)
    assert is_present(word)
    assert word_crc32c(word) == crc32c
    assert read_state(word, tag, 100) == BlockState(BlockKind.PRESENT)


@given(tags, st.integers(0, 255), st.integers(0, BLOCK_BYTES_MAX - 1))
def test_a_filling_word_gives_start_and_progress_back(tag: int, step: int, progress: int) -> None:
    word = pack_filling(tag, step * START_STEP_BYTES, progress)
    assert 0 <= word < 1 << 64
    assert not is_present(word)
    state = read_state(word, tag, BLOCK_BYTES_MAX)
    assert state == BlockState(BlockKind.FILLING, step * START_STEP_BYTES, progress)


def test_progress_of_a_full_16_mib_block_stays_one_byte_short() -> None:
    state = read_state(pack_filling(1, 0, BLOCK_BYTES_MAX), 1, BLOCK_BYTES_MAX)
    assert state.progress == BLOCK_BYTES_MAX - 1


def test_a_fill_of_another_run_is_absent() -> None:
    assert read_state(pack_filling(1, 0, 10), 2, 100).kind is BlockKind.ABSENT


@pytest.mark.parametrize(("start", "progress"), [(1 << 16, 0), (0, 101), (1 << 17, 5)])
def test_a_fill_that_no_block_of_that_length_can_have_is_absent(start: int, progress: int) -> None:
    assert read_state(pack_filling(1, start, progress), 1, 100).kind is BlockKind.ABSENT


@given(st.integers(0, (1 << 64) - 1), tags, st.integers(1, BLOCK_BYTES_MAX))
def test_any_word_at_all_reads_as_some_state_within_the_block(word: int, tag: int, length: int) -> None:
    state = read_state(word, tag, length)
    assert 0 <= state.start < length
    assert 0 <= state.progress <= length
    assert (state.kind is BlockKind.PRESENT) == is_present(word)
    assert state.verified == is_verified(word, tag)


def test_a_zeroed_word_is_absent_for_every_run() -> None:
    assert read_state(ABSENT_WORD, 1, 100).kind is BlockKind.ABSENT


@given(st.text())
def test_run_tags_have_28_bits_and_are_never_zero(run_id: str) -> None:
    assert 0 < run_tag(run_id) < 1 << 28


def test_runs_have_different_tags() -> None:
    assert len({run_tag(f"run {number}") for number in range(1000)}) == 1000


@given(headers())
def test_a_header_reads_back_as_it_was_written(header: MapHeader) -> None:
    image = render_map(header, 1_700_000_000)
    assert len(image) == header.map_bytes
    assert len(image) % 8 == 0
    assert parse_header(image[:HEADER_BYTES_MAX]) == header
    assert image[header.header_bytes :] == bytes(16 * header.block_count)


@given(headers(), st.data())
def test_a_flipped_bit_in_a_header_is_found_unless_it_is_in_a_mutable_word(
    header: MapHeader, data: st.DataObject
) -> None:
    image = bytearray(render_map(header, 0)[: header.header_bytes])
    position = data.draw(st.integers(0, header.header_bytes - 1))
    image[position] ^= 1 << data.draw(st.integers(0, 7))
    parsed = parse_header(bytes(image))
    mutable = 8 <= position < 40 or 104 <= position < 108
    assert parsed == (header if mutable else None)


@given(st.binary(max_size=300), st.booleans())
def test_garbage_is_no_header(raw: bytes, magic: bool) -> None:
    assert parse_header((b"wsmap 1\xff" if magic else b"") + raw) is None


@given(headers(), st.integers(0, 200))
def test_a_truncated_header_is_no_header(header: MapHeader, kept: int) -> None:
    assert parse_header(render_map(header, 0)[: min(kept, header.header_bytes - 1)]) is None


@given(headers())
def test_blocks_of_a_segment_cover_its_data_without_gaps(header: MapHeader) -> None:
    lengths = [header.block_length(index) for index in range(header.block_count)]
    assert sum(lengths) == header.data_bytes
    assert all(length == header.block_bytes for length in lengths[:-1])
    assert header.block_end(header.block_count - 1) == header.data_bytes


def test_segments_of_an_object_add_up_to_it() -> None:
    source = random.Random(1)
    for _ in range(100):
        size, block_bytes, segment_blocks = source.randint(1, 10**6), source.randint(1, 10**4), source.randint(1, 9)
        version = ObjectVersion("o", "b", "k", "etag e", size)
        count = -(-size // (block_bytes * segment_blocks))
        parts = [MapHeader(version, number, block_bytes, segment_blocks, bytes(16)) for number in range(count)]
        assert sum(part.data_bytes for part in parts) == size
        assert sum(part.block_count for part in parts) == -(-size // block_bytes)


def test_names_too_long_for_a_header_are_refused() -> None:
    version = ObjectVersion("o", "b", "k" * HEADER_BYTES_MAX, "etag e", 1)
    with pytest.raises(ValueError, match="too long"):
        render_map(MapHeader(version, 0, 1, 1, bytes(16)), 0)
