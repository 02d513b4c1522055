"""The disk's memory of keys: installs that lose to writes, writers that die, disks that fail."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from proxy.cache import keys as keys_module
from proxy.cache.disks import Disk, DiskSettings
from proxy.cache.keys import KeyStore
from proxy.cache.records import RECORD_BYTES_MAX
from proxy.cache.shared import SharedTables
from proxy.objects import ObjectKey, ObjectRecord, ObjectVersion

KEY = ObjectKey("s3://origin", "bucket", "key")

FENCE_AND_WAIT = """
import sys
from pathlib import Path
from proxy.cache.disks import Disk, DiskSettings
from proxy.cache.keys import KeyStore
from proxy.cache.shared import SharedTables
from proxy.objects import ObjectKey
tables = SharedTables.attach(int(sys.argv[1]))
root = Path(sys.argv[2])
disk = Disk(0, DiskSettings(root.parent, 1 << 30), "disk 0", root, tables.usage)
keys = KeyStore([disk], run_id=sys.argv[3], writer_id=sys.argv[4], tables=tables)
fence = keys.fence(ObjectKey("s3://origin", "bucket", "key"))
print("fenced", flush=True)
sys.stdin.read()
fence.lift()
print("lifted", flush=True)
"""


def record(key: ObjectKey = KEY, etag: str = '"1"', size: int = 10) -> ObjectRecord:
    version = ObjectVersion(key.origin, key.bucket, key.key, f"etag {etag}", size)
    return ObjectRecord(version, etag, 1.0, (("content-type", "text/plain"),), 2.0)


class Node:
    """A run over some disks, whose processes are stores in this one."""

    def __init__(self, roots: list[Path], run_id: str = "run 1") -> None:
        self.roots = roots
        self.run_id = run_id
        self.tables = SharedTables.create()
        self._writers = 0

    def store(self) -> KeyStore:
        """As a process of its own would have it, with its own descriptions of everything."""
        self._writers += 1
        return self.store_named(f"{self.run_id}/{self._writers}")

    def store_named(self, writer_id: str) -> KeyStore:
        tables = SharedTables.attach(self.tables.fd)
        disks = [
            Disk(index, DiskSettings(root.parent, 1 << 30), str(root), root, tables.usage)
            for index, root in enumerate(self.roots)
        ]
        return KeyStore(disks, run_id=self.run_id, writer_id=writer_id, tables=tables)

    @contextmanager
    def writing_child(self, writer_id: str) -> Iterator[subprocess.Popen[bytes]]:
        """A process that has fenced KEY; it lifts the fence when its stdin closes."""
        command = [
            sys.executable,
            "-c",
            FENCE_AND_WAIT,
            str(self.tables.fd),
            str(self.roots[0]),
            self.run_id,
            writer_id,
        ]
        child = subprocess.Popen(
            command, pass_fds=(self.tables.fd,), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"fenced\n"
            yield child
        finally:
            child.kill()
            child.communicate()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node([tmp_path / "v1"])
    yield made
    made.tables.close()


@pytest.fixture
def store(node: Node) -> KeyStore:
    return node.store()


def install(store: KeyStore, key: ObjectKey = KEY, etag: str = '"1"') -> bool:
    return store.install(key, record(key, etag), store._tables.tokens.peek(key))


def file_of(root: Path, key: ObjectKey = KEY) -> Path:
    name = key.digest.hex()
    return root / "keys" / name[:2] / name[2:]


# Records


def test_what_one_process_installs_another_and_the_next_run_read(node: Node, store: KeyStore) -> None:
    assert store.read(KEY) is None
    assert install(store)
    assert store.read(KEY) == record()
    assert node.store().read(KEY) == record()
    assert Node(node.roots, "run 2").store().read(KEY) == record()


def test_a_version_of_a_key_has_a_record_of_its_own(store: KeyStore) -> None:
    versioned = ObjectKey(KEY.origin, KEY.bucket, KEY.key, "v1")
    assert install(store)
    assert store.read(versioned) is None
    assert install(store, versioned, '"2"')
    assert store.read(KEY) == record()


def test_an_install_with_an_old_token_is_refused(store: KeyStore) -> None:
    token = store._tables.tokens.peek(KEY)
    store._tables.tokens.renew(KEY)
    assert not store.install(KEY, record(), token)
    assert store.read(KEY) is None


def test_a_removed_record_is_gone_and_its_token_changed(node: Node, store: KeyStore) -> None:
    install(store)
    token = node.tables.tokens.peek(KEY)
    node.store().remove(KEY)
    assert store.read(KEY) is None
    assert node.tables.tokens.peek(KEY) != token
    store.remove(KEY)


def test_a_removal_with_an_old_token_or_during_a_write_does_nothing(node: Node, store: KeyStore) -> None:
    tokens = node.tables.tokens
    install(store)
    old = tokens.peek(KEY)
    assert store.remove(KEY, tokens.renew(KEY)) == tokens.peek(KEY)
    install(store)
    assert store.remove(KEY, old) is None
    assert store.read(KEY) == record()
    fence = store.fence(KEY)
    assert store.remove(KEY, tokens.peek(KEY)) is None
    fence.lift()
    assert store.remove(KEY, tokens.peek(KEY)) is not None


def test_a_record_that_is_too_large_is_not_kept(store: KeyStore) -> None:
    large = ObjectRecord(record().version, '"1"', 1.0, (("x-amz-meta-a", "x" * RECORD_BYTES_MAX),), 2.0)
    assert not store.install(KEY, large, store._tables.tokens.peek(KEY))
    assert store.read(KEY) is None


def test_a_writer_id_serves_one_living_process(node: Node) -> None:
    first = node.store_named("w")
    with pytest.raises(ValueError, match="in use"):
        node.store_named("w")
    first.close()
    node.store_named("w")


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
    store = Node([path.parents[2]]).store()
    install(store, other)
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
    node: Node, store: KeyStore, plant: Callable[[Path], None]
) -> None:
    install(store)
    plant(file_of(node.roots[0]))
    assert store.read(KEY) is None
    assert not store.fenced(KEY)
    renewed = install(store)
    assert renewed == (plant is not plant_a_folder)
    store.fence(KEY).lift()
    assert store.read(KEY) is None
    assert not node.tables.usage.disk_failed(0)


def test_a_file_in_place_of_a_folder_fails_nobody(node: Node, store: KeyStore) -> None:
    folder = file_of(node.roots[0]).parent
    folder.parent.mkdir(parents=True)
    folder.write_text("not a folder")
    assert store.read(KEY) is None
    assert not install(store)
    store.fence(KEY).lift()
    store.remove(KEY)


# Fences


def test_during_a_write_there_is_no_record_and_nothing_is_installed(node: Node, store: KeyStore) -> None:
    install(store)
    before = node.tables.tokens.peek(KEY)
    fence = node.store().fence(KEY)
    assert store.read(KEY) is None
    assert store.fenced(KEY)
    assert node.tables.tokens.peek(KEY) != before
    assert not install(store), "a fill that began after the fence"
    assert not store.install(KEY, record(), before), "a fill that began before it"
    during = node.tables.tokens.peek(KEY)
    fence.lift()
    assert not store.fenced(KEY)
    assert store.read(KEY) is None
    assert not store.install(KEY, record(), during), "asked the origin while it was being written"
    assert install(store, etag='"2"')
    assert store.read(KEY) == record(etag='"2"')


def test_a_fence_concerns_its_key_alone(node: Node, store: KeyStore) -> None:
    others = [ObjectKey("s3://origin", "bucket", f"key {number}") for number in range(300)]
    node.store().fence(KEY)
    assert all(install(store, other) for other in others)


def test_the_last_of_several_writers_ends_the_fence(node: Node, store: KeyStore) -> None:
    first, second = node.store(), node.store()
    fences = [first.fence(KEY), second.fence(KEY), first.fence(KEY)]
    for fence in fences:
        assert store.fenced(KEY)
        assert not install(store)
        fence.lift()
        fence.lift()  # a second time does nothing, to the others' fences either
    assert not store.fenced(KEY)
    assert install(store)


def test_a_removal_during_a_write_leaves_the_fence(node: Node, store: KeyStore) -> None:
    fence = node.store().fence(KEY)
    store.remove(KEY)
    assert store.fenced(KEY)
    assert not install(store)
    fence.lift()
    assert install(store)


def test_lifting_leaves_no_file(node: Node, store: KeyStore) -> None:
    store.fence(KEY).lift()
    assert not file_of(node.roots[0]).exists()
    assert list((node.roots[0] / "keys" / "temp").iterdir()) == []


def test_a_writer_killed_in_mid_write_leaves_no_stale_key_in_its_run(node: Node, store: KeyStore) -> None:
    install(store)
    with node.writing_child("victim") as child:
        assert store.read(KEY) is None
        assert store.fenced(KEY)
        assert not install(store)
        child.kill()
        child.wait()
        assert store.read(KEY) is None, "nobody knows what the origin holds"
        assert not store.fenced(KEY)
        assert node.store().read(KEY) is None
    assert install(store, etag='"2"'), "the key is not stuck"
    assert store.read(KEY) == record(etag='"2"')


def test_a_writer_killed_in_mid_write_leaves_no_stale_key_to_the_next_run(node: Node, store: KeyStore) -> None:
    install(store)
    with node.writing_child("victim") as child:
        child.kill()
        child.wait()
    later = Node(node.roots, "run 2").store()
    assert later.read(KEY) is None
    assert not later.fenced(KEY)
    assert install(later, etag='"2"')
    assert later.read(KEY) == record(etag='"2"')


def test_a_fence_of_another_run_counts_for_nothing_though_a_writer_has_the_same_id(node: Node) -> None:
    node.store_named("w").fence(KEY)
    store = Node(node.roots, "run 2").store_named("w")
    assert store.read(KEY) is None
    assert not store.fenced(KEY)
    assert install(store)


def test_a_dead_writers_mark_goes_with_the_next_writers_fence(node: Node, store: KeyStore) -> None:
    with node.writing_child("victim"):
        pass
    store.fence(KEY).lift()
    assert not file_of(node.roots[0]).exists()


def test_a_child_that_lives_lifts_its_fence(node: Node, store: KeyStore) -> None:
    with node.writing_child("writer") as child:
        mine = store.fence(KEY)
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.close()
        assert child.stdout.readline() == b"lifted\n"
        child.stdin = None
        assert store.fenced(KEY), "mine still stands"
        mine.lift()
    assert not store.fenced(KEY)


def test_writers_and_readers_at_once_end_with_the_last_write(node: Node) -> None:
    """The origin is a variable; each writer changes it inside its fence; readers install what they saw."""
    origin = [0]
    stop = threading.Event()
    guard = threading.Lock()

    def write(store: KeyStore) -> None:
        for _ in range(60):
            fence = store.fence(KEY)
            with guard:
                origin[0] += 1
            fence.lift()

    def read(store: KeyStore) -> None:
        while not stop.is_set():
            token = node.tables.tokens.peek(KEY)
            written = origin[0]
            known = store.read(KEY)
            assert known is None or int(known.etag) >= written, "a record outlived a write"
            store.install(KEY, record(etag=str(origin[0])), token)

    writers = [threading.Thread(target=write, args=(node.store(),)) for _ in range(3)]
    readers = [threading.Thread(target=read, args=(node.store(),)) for _ in range(3)]
    for thread in writers + readers:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in readers:
        thread.join()
    last = node.store().read(KEY)
    assert last is None or last.etag == str(origin[0])
    assert install(node.store())


# Disks that fail


def failing(number: int) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES])
def test_a_record_that_finds_no_room_is_refused_and_nothing_else(
    store: KeyStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(keys_module, "_write_new", failing(number))
    assert not install(store)
    assert store.read(KEY) is None
    assert not store._usage.disk_failed(0)
    monkeypatch.undo()
    assert install(store)


def test_a_write_on_a_full_disk_still_fences(node: Node, store: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    install(store)
    monkeypatch.setattr(keys_module, "_write_new", failing(errno.ENOSPC))
    fence = node.store().fence(KEY)
    monkeypatch.undo()
    assert store.read(KEY) is None
    assert store.fenced(KEY)
    assert not install(store), "blind, yet it keeps others out"
    fence.lift()
    assert not store.fenced(KEY)
    assert store.read(KEY) is None
    assert install(store)


def test_a_full_disk_under_a_second_writer_leaves_the_first_ones_fence(
    node: Node, store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = node.store().fence(KEY)
    monkeypatch.setattr(keys_module, "_write_new", failing(errno.ENOSPC))
    second = node.store().fence(KEY)
    second.lift()
    assert store.fenced(KEY)
    monkeypatch.undo()
    assert not install(store)
    first.lift()
    assert install(store)


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS])
def test_a_broken_disk_leaves_service_and_the_write_goes_on(
    node: Node, store: KeyStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    install(store)
    monkeypatch.setattr(keys_module, "_write_new", failing(number))
    monkeypatch.setattr(os, "unlink", failing(number))
    before = node.tables.tokens.peek(KEY)
    fence = store.fence(KEY)
    assert node.tables.usage.disk_failed(0)
    assert node.tables.tokens.peek(KEY) != before
    assert node.store().read(KEY) is None, "for every process"
    fence.lift()
    monkeypatch.undo()
    assert store.read(KEY) is None
    assert not install(store)


def test_a_record_that_can_not_be_removed_takes_its_disk_out_of_service(
    node: Node, store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(store)
    monkeypatch.setattr(os, "unlink", failing(errno.EPERM))
    store.remove(KEY)
    assert node.tables.usage.disk_failed(0)
    assert store.read(KEY) is None


def test_a_read_error_is_no_record(node: Node, store: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    install(store)
    monkeypatch.setattr(keys_module, "read_key_file", failing(errno.EIO))
    assert store.read(KEY) is None
    assert node.tables.usage.disk_failed(0)


# Several disks


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Node]:
    made = Node([tmp_path / name / "v1" for name in "abc"])
    yield made
    made.tables.close()


def test_keys_spread_over_the_disks(three: Node) -> None:
    store = three.store()
    for number in range(60):
        install(store, ObjectKey("s3://origin", "bucket", f"key {number}"))
    counts = [sum(path.is_file() for path in (root / "keys").rglob("*")) for root in three.roots]
    assert sum(counts) == 60
    assert min(counts) >= 5


def test_the_keys_of_a_failed_disk_move_and_the_others_stay(three: Node) -> None:
    store = three.store()
    many = [ObjectKey("s3://origin", "bucket", f"key {number}") for number in range(60)]
    for key in many:
        install(store, key)
    three.tables.usage.fail_disk(1)
    lost = [key for key in many if store.read(key) is None]
    assert lost == [key for key in many if file_of(three.roots[1], key).exists()]
    assert all(install(store, key) for key in lost)
    assert all(three.store().read(key) == record(key) for key in many)


def test_a_write_removes_records_that_other_disks_hold_of_the_key(three: Node, tmp_path: Path) -> None:
    for root in three.roots:
        assert install(Node([root]).store())
    three.store().fence(KEY).lift()
    assert all(Node([root]).store().read(KEY) is None for root in three.roots)


def test_a_disk_that_breaks_in_mid_write_lets_nothing_old_remain(three: Node) -> None:
    store = three.store()
    install(store)
    home = next(index for index, root in enumerate(three.roots) if file_of(root).exists())
    fence = three.store().fence(KEY)
    three.tables.usage.fail_disk(home)
    fence.lift()
    assert store.read(KEY) is None
    assert install(store, etag='"2"')
    assert store.read(KEY) == record(etag='"2"')
