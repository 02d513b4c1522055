"""A run over some disks for tests of key records: each store made here is what a process of its own would have."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from proxy.cache.disks import Disk, DiskSpec
from proxy.cache.keys import KeyStore
from proxy.cache.shared import SharedTables
from proxy.objects import ObjectKey, ObjectRecord, ObjectVersion

KEY = ObjectKey("s3://origin", "bucket", "key")

FENCE_AND_WAIT = """
import sys
from pathlib import Path
from proxy.cache.disks import Disk, DiskSpec
from proxy.cache.keys import KeyStore
from proxy.cache.shared import SharedTables
from proxy.objects import ObjectKey
tables = SharedTables.attach(int(sys.argv[1]))
root = Path(sys.argv[2])
disk = Disk(0, DiskSpec(root.parent, 1 << 30), "disk 0", root, tables.usage)
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


class KeyNode:
    """A run over some disks, whose processes are stores in this one."""

    def __init__(self, roots: list[Path], run_id: str = "run 1") -> None:
        self.roots = roots
        self.run_id = run_id
        self.tables = SharedTables.create()
        for root in roots:
            root.parent.mkdir(exist_ok=True)
        self._writers = 0

    def store(self) -> KeyStore:
        """As a process of its own would have it, with its own descriptions of everything."""
        self._writers += 1
        return self.store_named(f"{self.run_id}/{self._writers}")

    def store_named(self, writer_id: str) -> KeyStore:
        tables = SharedTables.attach(self.tables.fd)
        disks = [
            Disk(index, DiskSpec(root.parent, 1 << 30), str(root), root, tables.usage)
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


def install(store: KeyStore, key: ObjectKey = KEY, etag: str = '"1"') -> bool:
    return store.install(key, record(key, etag), store._tables.tokens.peek(key))


def file_of(root: Path, key: ObjectKey = KEY) -> Path:
    name = key.digest.hex()
    return root / "keys" / name[:2] / name[2:]
