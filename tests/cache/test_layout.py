"""The layout file: made once, kept, and refused with the fix where it does not fit."""

from __future__ import annotations

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from proxy.cache.layout import choose_segment_bytes, open_layouts
from proxy.errors import ConfigInvalid

GIB = 1 << 30
MIB = 1 << 20


def test_a_layout_is_made_once_and_read_back(tmp_path: Path) -> None:
    made = open_layouts([(tmp_path / "disk", 100 * GIB)], 8 * MIB)
    assert made == open_layouts([(tmp_path / "disk", 100 * GIB)], 8 * MIB)
    assert made[0].segment_bytes == GIB
    assert [path.name for path in (tmp_path / "disk" / "v1").iterdir()] == ["layout"]


def test_another_size_of_the_cache_keeps_its_segments(tmp_path: Path) -> None:
    small = open_layouts([(tmp_path, 100 * GIB)], 8 * MIB)
    assert open_layouts([(tmp_path, 10_000 * GIB)], 8 * MIB) == small


def test_disks_of_a_node_share_its_id_and_have_their_own(tmp_path: Path) -> None:
    first = open_layouts([(tmp_path / "a", GIB)], 8 * MIB)
    both = open_layouts([(tmp_path / "b", 500 * GIB), (tmp_path / "a", GIB)], 8 * MIB)
    assert both[1] == first[0]
    assert both[0].node_id == both[1].node_id
    assert both[0].segment_bytes == both[1].segment_bytes
    assert both[0].disk_id != both[1].disk_id


def test_another_block_size_is_refused_with_both_figures_and_the_fix(tmp_path: Path) -> None:
    open_layouts([(tmp_path, GIB)], 8 * MIB)
    with pytest.raises(
        ConfigInvalid, match=r"^cache.block_size: .*of 8192KiB.* 4096KiB.*set cache.block_size to 8192KiB.*remove .*v1"
    ):
        open_layouts([(tmp_path, GIB)], 4 * MIB)


def test_another_segment_size_is_refused_with_both_figures_and_the_fix(tmp_path: Path) -> None:
    open_layouts([(tmp_path, GIB)], 8 * MIB)
    with pytest.raises(
        ConfigInvalid, match=r"^cache.segment_size: .* of 65536KiB.* 1048576KiB.*set cache.segment_size.*remove .*v1"
    ):
        open_layouts([(tmp_path, GIB)], 8 * MIB, GIB)


@pytest.mark.parametrize(
    "raw", [b"", b"\xff", b"[1]", b'{"layout": 1}', b'{"layout": 1, "block_bytes": "x"}', b"null", b"7"]
)
def test_a_damaged_layout_is_refused_with_the_fix_and_left_as_it_is(tmp_path: Path, raw: bytes) -> None:
    place = tmp_path / "v1" / "layout"
    place.parent.mkdir()
    place.write_bytes(raw)
    with pytest.raises(ConfigInvalid, match="damaged: remove"):
        open_layouts([(tmp_path, GIB)], 8 * MIB)
    assert place.read_bytes() == raw


def test_figures_of_the_wrong_kind_are_damage(tmp_path: Path) -> None:
    open_layouts([(tmp_path, GIB)], 8 * MIB)
    place = tmp_path / "v1" / "layout"
    figures = json.loads(place.read_text())
    for name, value in (("block_bytes", "8"), ("segment_bytes", -1), ("node_id", 5), ("extra", 1)):
        place.write_text(json.dumps({**figures, name: value}))
        with pytest.raises(ConfigInvalid, match="damaged"):
            open_layouts([(tmp_path, GIB)], 8 * MIB)


def test_an_unknown_layout_is_refused_and_left_alone(tmp_path: Path) -> None:
    place = tmp_path / "v1" / "layout"
    place.parent.mkdir()
    place.write_text('{"layout": 9, "tree": "other"}')
    with pytest.raises(ConfigInvalid, match="has the layout 9, this program knows 1"):
        open_layouts([(tmp_path, GIB)], 8 * MIB)
    assert place.read_text() == '{"layout": 9, "tree": "other"}'


def test_folders_of_other_layouts_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "v2").mkdir()
    (tmp_path / "v2" / "thing").write_text("x")
    open_layouts([(tmp_path, GIB)], 8 * MIB)
    assert (tmp_path / "v2" / "thing").read_text() == "x"


def test_a_disk_that_is_a_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigInvalid, match=re.escape(str(tmp_path / "file"))):
        open_layouts([(tmp_path / "file", GIB)], 8 * MIB)


def test_one_disk_named_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="same disk"):
        open_layouts([(tmp_path, GIB), (tmp_path / "x" / "..", GIB)], 8 * MIB)


def test_a_copied_disk_beside_its_original_is_refused(tmp_path: Path) -> None:
    open_layouts([(tmp_path / "a", GIB)], 8 * MIB)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    with pytest.raises(ConfigInvalid, match="copy"):
        open_layouts([(tmp_path / "a", GIB), (tmp_path / "b", GIB)], 8 * MIB)


@pytest.mark.parametrize("block_bytes", [0, -1, (16 << 20) + 1])
def test_a_block_size_that_no_word_can_hold_is_refused(tmp_path: Path, block_bytes: int) -> None:
    with pytest.raises(ConfigInvalid, match=r"cache\.block_size"):
        open_layouts([(tmp_path, GIB)], block_bytes)


def test_many_processes_that_start_at_once_agree(tmp_path: Path) -> None:
    disks = [(tmp_path / "a", GIB), (tmp_path / "b", 2 * GIB)]
    for number in range(20):
        here = [(path / str(number), size) for path, size in disks]
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda _, here=here: open_layouts(here, 8 * MIB), range(8)))
        assert len(set(results)) == 1


def test_segments_are_a_64th_of_the_smallest_disk_as_a_power_of_two_within_bounds() -> None:
    assert choose_segment_bytes(1) == 64 * MIB
    assert choose_segment_bytes(64 * 64 * MIB) == 64 * MIB
    assert choose_segment_bytes(100 * GIB) == GIB
    assert choose_segment_bytes(128 * GIB - 1) == GIB
    assert choose_segment_bytes(128 * GIB) == 2 * GIB
    assert choose_segment_bytes(100_000 * GIB) == 8 * GIB
