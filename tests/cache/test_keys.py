"""Key records: what is installed is read, what is damaged is nothing, each key on one of the disks."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.cache.keys import KeyStore
from proxy.cache.missing import Missing
from proxy.cache.records import RECORD_BYTES_MAX
from proxy.objects import ObjectKey, ObjectRecord
from tests.cache.key_nodes import KEY, KeyNode, file_of, install, record


def test_what_one_process_installs_another_and_the_next_run_read(key_node: KeyNode, keys: KeyStore) -> None:
    assert keys.read(KEY) is None
    assert install(keys)
    assert keys.read(KEY) == record()
    assert key_node.store().read(KEY) == record()
    assert KeyNode(key_node.roots, "run 2").store().read(KEY) == record()


def test_a_version_of_a_key_has_a_record_of_its_own(keys: KeyStore) -> None:
    versioned = ObjectKey(KEY.origin, KEY.bucket, KEY.key, "v1")
    assert install(keys)
    assert keys.read(versioned) is None
    assert install(keys, versioned, '"2"')
    assert keys.read(KEY) == record()


def test_an_install_with_an_old_token_is_refused(keys: KeyStore) -> None:
    token = keys._tables.tokens.peek(KEY)
    keys._tables.tokens.renew(KEY)
    assert not keys.install(KEY, record(), token)
    assert keys.read(KEY) is None


def test_a_removed_record_is_gone_and_its_token_changed(key_node: KeyNode, keys: KeyStore) -> None:
    install(keys)
    token = key_node.tables.tokens.peek(KEY)
    key_node.store().remove(KEY)
    assert keys.read(KEY) is None
    assert key_node.tables.tokens.peek(KEY) != token
    keys.remove(KEY)


MISSING = Missing("key", 1_700_000_000.25)


def test_what_is_missing_is_forgotten_and_remembered_for_every_process(key_node: KeyNode, keys: KeyStore) -> None:
    tokens = key_node.tables.tokens
    install(keys)
    old = tokens.peek(KEY)
    keys.note_missing(KEY, old, MISSING, keep=True)
    assert keys.read(KEY) is None
    assert tokens.peek(KEY) != old, "others remember the record"
    assert key_node.store().missing(KEY) == MISSING


def test_a_word_about_a_missing_key_that_is_out_of_date_does_nothing(key_node: KeyNode, keys: KeyStore) -> None:
    tokens = key_node.tables.tokens
    install(keys)
    old = tokens.peek(KEY)
    tokens.renew(KEY)
    keys.note_missing(KEY, old, MISSING, keep=True)
    fence = keys.fence(KEY)
    keys.note_missing(KEY, tokens.peek(KEY), MISSING, keep=True)
    fence.lift()
    assert keys.missing(KEY) is None


def test_a_write_or_a_record_ends_what_was_remembered_of_a_missing_key(keys: KeyStore) -> None:
    tokens = keys._tables.tokens
    ends: list[Callable[[], object]] = [
        lambda: keys.fence(KEY).lift(),
        lambda: keys.remove(KEY),
        lambda: install(keys),
    ]
    for end in ends:
        keys.note_missing(KEY, tokens.peek(KEY), MISSING, keep=True)
        assert keys.missing(KEY) == MISSING
        end()
        assert keys.missing(KEY) is None


def test_missing_keys_that_share_a_token_leave_each_other_alone(keys: KeyStore) -> None:
    """Else each would have the others asked for again: of 10,000 keys, 1,400 share a token with another one."""
    before = keys._tables.tokens.peek(KEY)
    keys.note_missing(KEY, before, MISSING, keep=True)
    assert keys._tables.tokens.peek(KEY) == before


def test_what_need_not_be_remembered_is_not(keys: KeyStore) -> None:
    keys.note_missing(KEY, keys._tables.tokens.peek(KEY), MISSING, keep=False)
    assert keys.missing(KEY) is None


def test_a_record_that_is_too_large_is_not_kept(keys: KeyStore) -> None:
    large = ObjectRecord(record().version, '"1"', 1.0, (("x-amz-meta-a", "x" * RECORD_BYTES_MAX),), 2.0)
    assert not keys.install(KEY, large, keys._tables.tokens.peek(KEY))
    assert keys.read(KEY) is None


def test_a_writer_id_serves_one_living_process(key_node: KeyNode) -> None:
    first = key_node.store_named("w")
    with pytest.raises(ValueError, match="in use"):
        key_node.store_named("w")
    first.close()
    key_node.store_named("w")


def plant_garbage(path: Path) -> None:
    path.write_bytes(b"\x00\xff garbage" * 100)


def plant_nothing(path: Path) -> None:
    path.write_bytes(b"")


def plant_a_large_file(path: Path) -> None:
    os.truncate(path, 1 << 40)


def plant_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def plant_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def plant_a_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def plant_the_record_of_another_key(path: Path) -> None:
    other = ObjectKey("s3://origin", "bucket", "other")
    keys = KeyNode([path.parents[2]]).store()
    install(keys, other)
    file_of(path.parents[2], other).replace(path)


@pytest.mark.parametrize(
    "plant",
    [
        plant_garbage,
        plant_nothing,
        plant_a_large_file,
        plant_a_folder,
        plant_a_pipe,
        plant_a_link,
        plant_the_record_of_another_key,
    ],
)
def test_whatever_lies_in_a_records_place_is_no_record(
    key_node: KeyNode, keys: KeyStore, plant: Callable[[Path], None]
) -> None:
    install(keys)
    plant(file_of(key_node.roots[0]))
    assert keys.read(KEY) is None
    assert not keys.fenced(KEY)
    renewed = install(keys)
    assert renewed == (plant is not plant_a_folder)
    keys.fence(KEY).lift()
    assert keys.read(KEY) is None
    assert not key_node.tables.usage.disk_failed(0)


def test_a_file_in_place_of_a_folder_fails_nobody(key_node: KeyNode, keys: KeyStore) -> None:
    folder = file_of(key_node.roots[0]).parent
    folder.parent.mkdir(parents=True)
    folder.write_text("not a folder")
    assert keys.read(KEY) is None
    assert not install(keys)
    keys.fence(KEY).lift()
    keys.remove(KEY)


def test_keys_spread_over_the_disks(key_node_of_three: KeyNode) -> None:
    keys = key_node_of_three.store()
    for number in range(60):
        install(keys, ObjectKey("s3://origin", "bucket", f"key {number}"))
    counts = [sum(path.is_file() for path in (root / "keys").rglob("*")) for root in key_node_of_three.roots]
    assert sum(counts) == 60
    assert min(counts) >= 5


def test_the_keys_of_a_failed_disk_move_and_the_others_stay(key_node_of_three: KeyNode) -> None:
    keys = key_node_of_three.store()
    many = [ObjectKey("s3://origin", "bucket", f"key {number}") for number in range(60)]
    for key in many:
        install(keys, key)
    key_node_of_three.tables.usage.fail_disk(1)
    lost = [key for key in many if keys.read(key) is None]
    assert lost == [key for key in many if file_of(key_node_of_three.roots[1], key).exists()]
    assert all(install(keys, key) for key in lost)
    assert all(key_node_of_three.store().read(key) == record(key) for key in many)


def test_a_write_removes_records_that_other_disks_hold_of_the_key(key_node_of_three: KeyNode, tmp_path: Path) -> None:
    for root in key_node_of_three.roots:
        assert install(KeyNode([root]).store())
    key_node_of_three.store().fence(KEY).lift()
    assert all(KeyNode([root]).store().read(KEY) is None for root in key_node_of_three.roots)


def test_a_writer_killed_in_mid_write_leaves_no_record_on_any_disk(key_node_of_three: KeyNode) -> None:
    for root in key_node_of_three.roots:
        assert install(KeyNode([root]).store())
    key_node_of_three.store().fence(KEY)  # and never lifted
    assert all(KeyNode([root], "run 2").store().read(KEY) is None for root in key_node_of_three.roots)


def test_a_disk_that_breaks_in_mid_write_lets_nothing_old_remain(key_node_of_three: KeyNode) -> None:
    keys = key_node_of_three.store()
    install(keys)
    home = next(index for index, root in enumerate(key_node_of_three.roots) if file_of(root).exists())
    fence = key_node_of_three.store().fence(KEY)
    key_node_of_three.tables.usage.fail_disk(home)
    fence.lift()
    assert keys.read(KEY) is None
    assert install(keys, etag='"2"')
    assert keys.read(KEY) == record(etag='"2"')
