"""Key records on disks that are full or broken: nobody's read fails, no write is lost or leaves a stale key."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

from proxy.cache import keys as keys_module
from proxy.cache.keys import KeyStore
from tests.cache.key_nodes import KEY, KeyNode, install


def failing(number: int) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES])
def test_a_record_that_finds_no_room_is_refused_and_nothing_else(
    keys: KeyStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(keys_module, "_write_new", failing(number))
    assert not install(keys)
    assert keys.read(KEY) is None
    assert not keys._usage.disk_failed(0)
    monkeypatch.undo()
    assert install(keys)


def test_a_write_on_a_full_disk_still_fences(
    key_node: KeyNode, keys: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(keys)
    monkeypatch.setattr(keys_module, "_write_new", failing(errno.ENOSPC))
    fence = key_node.store().fence(KEY)
    monkeypatch.undo()
    assert keys.read(KEY) is None
    assert keys.fenced(KEY)
    assert not install(keys), "blind, yet it keeps others out"
    fence.lift()
    assert not keys.fenced(KEY)
    assert keys.read(KEY) is None
    assert install(keys)


def test_a_full_disk_under_a_second_writer_leaves_the_first_ones_fence(
    key_node: KeyNode, keys: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = key_node.store().fence(KEY)
    monkeypatch.setattr(keys_module, "_write_new", failing(errno.ENOSPC))
    second = key_node.store().fence(KEY)
    second.lift()
    assert keys.fenced(KEY)
    monkeypatch.undo()
    assert not install(keys)
    first.lift()
    assert install(keys)


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS])
def test_a_broken_disk_leaves_service_and_the_write_goes_on(
    key_node: KeyNode, keys: KeyStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    install(keys)
    monkeypatch.setattr(keys_module, "_write_new", failing(number))
    monkeypatch.setattr(os, "unlink", failing(number))
    before = key_node.tables.tokens.peek(KEY)
    fence = keys.fence(KEY)
    assert key_node.tables.usage.disk_failed(0)
    assert key_node.tables.tokens.peek(KEY) != before
    assert key_node.store().read(KEY) is None, "for every process"
    fence.lift()
    monkeypatch.undo()
    assert keys.read(KEY) is None
    assert not install(keys)


def test_a_record_that_can_not_be_removed_takes_its_disk_out_of_service(
    key_node: KeyNode, keys: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(keys)
    monkeypatch.setattr(os, "unlink", failing(errno.EPERM))
    keys.remove(KEY)
    assert key_node.tables.usage.disk_failed(0)
    assert keys.read(KEY) is None


def test_a_read_error_is_no_record(key_node: KeyNode, keys: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    install(keys)
    monkeypatch.setattr(keys_module, "read_key_file", failing(errno.EIO))
    assert keys.read(KEY) is None
    assert key_node.tables.usage.disk_failed(0)
