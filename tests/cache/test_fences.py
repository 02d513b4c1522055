"""Writes under way: installs that lose to them, several writers at once, writers that die."""

from __future__ import annotations

import threading

from proxy.cache.keys import KeyStore
from proxy.objects import ObjectKey
from tests.cache.key_nodes import KEY, KeyNode, file_of, install, record


def test_during_a_write_there_is_no_record_and_nothing_is_installed(key_node: KeyNode, keys: KeyStore) -> None:
    install(keys)
    before = key_node.tables.tokens.peek(KEY)
    fence = key_node.store().fence(KEY)
    assert keys.read(KEY) is None
    assert keys.fenced(KEY)
    assert key_node.tables.tokens.peek(KEY) != before
    assert not install(keys), "a fill that began after the fence"
    assert not keys.install(KEY, record(), before), "a fill that began before it"
    during = key_node.tables.tokens.peek(KEY)
    fence.lift()
    assert not keys.fenced(KEY)
    assert keys.read(KEY) is None
    assert not keys.install(KEY, record(), during), "asked the origin while it was being written"
    assert install(keys, etag='"2"')
    assert keys.read(KEY) == record(etag='"2"')


def test_a_fence_concerns_its_key_alone(key_node: KeyNode, keys: KeyStore) -> None:
    others = [ObjectKey("s3://origin", "bucket", f"key {number}") for number in range(300)]
    key_node.store().fence(KEY)
    assert all(install(keys, other) for other in others)


def test_the_last_of_several_writers_ends_the_fence(key_node: KeyNode, keys: KeyStore) -> None:
    first, second = key_node.store(), key_node.store()
    fences = [first.fence(KEY), second.fence(KEY), first.fence(KEY)]
    for fence in fences:
        assert keys.fenced(KEY)
        assert not install(keys)
        fence.lift()
        fence.lift()  # a second time does nothing, to the others' fences either
    assert not keys.fenced(KEY)
    assert install(keys)


def test_a_removal_during_a_write_leaves_the_fence(key_node: KeyNode, keys: KeyStore) -> None:
    fence = key_node.store().fence(KEY)
    keys.remove(KEY)
    assert keys.fenced(KEY)
    assert not install(keys)
    fence.lift()
    assert install(keys)


def test_lifting_leaves_no_file(key_node: KeyNode, keys: KeyStore) -> None:
    keys.fence(KEY).lift()
    assert not file_of(key_node.roots[0]).exists()
    assert list((key_node.roots[0] / "keys" / "temp").iterdir()) == []


def test_a_writer_killed_in_mid_write_leaves_no_stale_key_in_its_run(key_node: KeyNode, keys: KeyStore) -> None:
    install(keys)
    with key_node.writing_child("victim") as child:
        assert keys.read(KEY) is None
        assert keys.fenced(KEY)
        assert not install(keys)
        child.kill()
        child.wait()
        assert keys.read(KEY) is None, "nobody knows what the origin holds"
        assert not keys.fenced(KEY)
        assert key_node.store().read(KEY) is None
    assert install(keys, etag='"2"'), "the key is not stuck"
    assert keys.read(KEY) == record(etag='"2"')


def test_a_writer_killed_in_mid_write_leaves_no_stale_key_to_the_next_run(key_node: KeyNode, keys: KeyStore) -> None:
    install(keys)
    with key_node.writing_child("victim") as child:
        child.kill()
        child.wait()
    later = KeyNode(key_node.roots, "run 2").store()
    assert later.read(KEY) is None
    assert not later.fenced(KEY)
    assert install(later, etag='"2"')
    assert later.read(KEY) == record(etag='"2"')


def test_a_fence_of_another_run_counts_for_nothing_though_a_writer_has_the_same_id(key_node: KeyNode) -> None:
    key_node.store_named("w").fence(KEY)
    keys = KeyNode(key_node.roots, "run 2").store_named("w")
    assert keys.read(KEY) is None
    assert not keys.fenced(KEY)
    assert install(keys)


def test_a_dead_writers_mark_goes_with_the_next_writers_fence(key_node: KeyNode, keys: KeyStore) -> None:
    with key_node.writing_child("victim"):
        pass
    keys.fence(KEY).lift()
    assert not file_of(key_node.roots[0]).exists()


def test_a_child_that_lives_lifts_its_fence(key_node: KeyNode, keys: KeyStore) -> None:
    with key_node.writing_child("writer") as child:
        mine = keys.fence(KEY)
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.close()
        assert child.stdout.readline() == b"lifted\n"
        child.stdin = None
        assert keys.fenced(KEY), "mine still stands"
        mine.lift()
    assert not keys.fenced(KEY)


def test_writers_and_readers_at_once_end_with_the_last_write(key_node: KeyNode) -> None:
    """The origin is a variable; each writer changes it inside its fence; readers install what they saw."""
    origin = [0]
    stop = threading.Event()
    guard = threading.Lock()

    def write(keys: KeyStore) -> None:
        for _ in range(60):
            fence = keys.fence(KEY)
            with guard:
                origin[0] += 1
            fence.lift()

    def read(keys: KeyStore) -> None:
        while not stop.is_set():
            token = key_node.tables.tokens.peek(KEY)
            written = origin[0]
            known = keys.read(KEY)
            assert known is None or int(known.etag) >= written, "a record outlived a write"
            keys.install(KEY, record(etag=str(origin[0])), token)

    writers = [threading.Thread(target=write, args=(key_node.store(),)) for _ in range(3)]
    readers = [threading.Thread(target=read, args=(key_node.store(),)) for _ in range(3)]
    for thread in writers + readers:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in readers:
        thread.join()
    last = key_node.store().read(KEY)
    assert last is None or last.etag == str(origin[0])
    assert install(key_node.store())
