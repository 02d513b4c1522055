"""The disk's memory of keys: which version is current, and which keys somebody is writing just now.

How it works. A key's file (records.py) stands on one disk, named by rendezvous hashing among those in service, at
`keys/ab/cd...` after the key's digest. It is published by rename, so readers take no lock. All who change it hold the
lock of the key's stripe (runlocks.py) over reading, deciding and publishing. A write that passes through:

    1. fence     the file becomes a tombstone with this writer's mark, then the token changes. A record that it
                 replaces is replaced durably (fsync): after a power cut it must not come back.
    2.           the origin gets the write. Readers find no record, ask the origin, and `install` refuses: their
                 token is old, or, where they looked after step 1, the mark's writer lives.
    3. lift      the mark goes, with the last mark the file, then the token changes again: who asked the origin
                 during step 2 can't install an answer that the write has overtaken.

Several writers of one key have a mark each. A mark counts while its writer lives: it names the run and a writer, who
holds a lock for life. Killed at any point, the tombstone stays and means "no record", to this run and the next one.

Rule for what is remembered in memory: peek the token first, and remember only when `install` returned True or
`fenced` says False afterwards; else a writer killed between 2 and 3 leaves others a stale memory.

When the disk fails. `read` and `install` say None and False, nobody's read fails. A write must go on as well:
- Full, no room for a tombstone: the record is removed, which needs no room, and a *blind fence* is counted in shared
  memory: while a living process has one, `install` refuses all keys. `lift` removes whatever is there, and uncounts
  it.
- Broken (EIO, read-only, a record that can't be removed): the disk leaves service for the run, its records count as
  gone, the fence moves to the next disk. What could not be removed may speak again if the disk works at the next
  start; it was last checked before the write, so the bucket's ttl ends it. The log says what to remove.
- Records of the key on other disks (from before a disk came or went) are removed by fence, lift and remove.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from proxy.cache.records import RECORD_BYTES_MAX, FenceMark, KeyFile, parse_key_file, render_key_file
from proxy.cache.runlocks import writer_place
from proxy.cache.shared import SharedTables
from proxy.metrics import RECORD_FAILURES
from proxy.objects import ObjectKey, ObjectRecord

TEMP_FOLDER = "temp"  # beside the folders `00`..`ff` of `keys`; the housekeeper sweeps it

_BROKEN = (errno.EIO, errno.EROFS, errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.EUCLEAN)
_FULL = (errno.ENOSPC, errno.EDQUOT)

_log = logging.getLogger(__name__)


class Fence:
    """A write under way. Whoever holds it must `lift` it when the origin's last word on the write is known."""

    def __init__(self, lift: Callable[[], None]) -> None:
        self._lift = lift
        self._lifted = False

    def lift(self) -> None:
        """Blocking. Never raises for a disk's sake; a second call does nothing."""
        if not self._lifted:
            self._lifted = True
            self._lift()


class KeyStore:
    """Records of keys on the node's disks. Every call blocks on the disk, if shortly: run it in a thread."""

    def __init__(self, roots: Sequence[Path], *, run_id: str, writer_id: str, tables: SharedTables) -> None:
        """`roots` are the disks' `v1` folders, in the configuration's order. `writer_id` is new with each process.

        Raises ValueError where a living process of the run has the same `writer_id`.
        """
        self._folders = tuple(Path(root) / "keys" for root in roots)
        self._run_id = run_id
        self._writer_id = writer_id
        self._tables = tables
        self._usage = tables.usage
        if not tables.locks.try_hold(writer_place(writer_id)):
            raise ValueError(f"the writer id {writer_id!r} is in use")

    def read(self, key: ObjectKey) -> ObjectRecord | None:
        """The key's record; None where there is none, it is damaged, or the key is or was being written."""
        disk = self._home(key)
        content = None if disk is None else self._load(disk, key)
        return None if content is None else content.record

    def install(self, key: ObjectKey, record: ObjectRecord, token: int) -> bool:
        """Publish what the origin said after `token` was peeked; False where it may be outdated, or has no room."""
        version = record.version
        assert (version.origin, version.bucket, version.key) == (key.origin, key.bucket, key.key)
        raw = render_key_file(key, KeyFile(record=record))
        if len(raw) > RECORD_BYTES_MAX:
            return False
        try:
            with self._tables.locks.stripe(key.digest):
                return self._install_alone(key, raw, token)
        except OSError as error:
            _log.error("no lock for the record of %r: %s", key.key, error)
            return False

    def fence(self, key: ObjectKey) -> Fence:
        """Before a write of the key is sent to the origin. Never refuses: see the module's text."""
        mark = FenceMark(self._run_id, self._writer_id, secrets.token_hex(8))
        blind_on: int | None = None
        try:
            with self._tables.locks.stripe(key.digest):
                blind_on = self._place(key, mark)
                self._tables.tokens.renew(key)
        except OSError as error:  # the lock itself: no memory for one more
            _log.error("no lock for writing %r: %s", key.key, error)
            blind_on = self._go_blind(0)
            self._tables.tokens.renew(key)
        return Fence(lambda: self._lift(key, mark, blind_on))

    def fenced(self, key: ObjectKey) -> bool:
        """Whether a living writer's fence stands, or one that could not be written down."""
        return self._is_fenced(key)

    def remove(self, key: ObjectKey) -> None:
        """Forget the key, on every disk and in every process; fences stay."""
        self._forget(key, None)

    def close(self) -> None:
        """Fences that this writer left standing count as a dead writer's from now on."""
        self._tables.locks.release(writer_place(self._writer_id))

    def _install_alone(self, key: ObjectKey, raw: bytes, token: int) -> bool:
        disk = self._home(key)
        if disk is None or self._tables.tokens.peek(key) != token or self._is_fenced(key):
            return False
        try:
            self._publish(disk, key, raw)
        except OSError as error:
            self._note(disk, error)
            return False
        return True

    # Fences

    def _place(self, key: ObjectKey, mark: FenceMark) -> int | None:
        """Put the mark on the key's disk, or, where that breaks, the next one. Returns the disk of a blind fence."""
        while (disk := self._home(key)) is not None:
            content = self._load(disk, key)
            marks = self._living(content)
            try:
                durable = content is not None and content.record is not None
                self._publish(disk, key, render_key_file(key, KeyFile(fences=(*marks, mark))), durable=durable)
                self._clear_disks(key, mark, spare=disk)
                return None
            except OSError as error:
                self._note(disk, error)
                if not marks:  # else the tombstone that stands says "no record" as well, and others need it
                    self._unlink(disk, key)
                if not self._usage.disk_failed(disk):
                    self._clear_disks(key, mark, spare=disk)
                    return self._go_blind(disk)
        return None

    def _go_blind(self, disk: int) -> int:
        self._usage.open_blind_fence(disk)
        return disk

    def _lift(self, key: ObjectKey, mark: FenceMark, blind_on: int | None) -> None:
        self._forget(key, mark)
        if blind_on is not None:
            self._usage.close_blind_fence(blind_on)

    def _forget(self, key: ObjectKey, mark: FenceMark | None) -> None:
        try:
            with self._tables.locks.stripe(key.digest):
                self._clear_disks(key, mark)
                self._tables.tokens.renew(key)
        except OSError as error:
            _log.error("no lock for %r: %s", key.key, error)
            self._tables.tokens.renew(key)

    def _clear_disks(self, key: ObjectKey, mark: FenceMark | None, spare: int | None = None) -> None:
        """Remove the key's file from all disks but `spare`; of a tombstone with other living marks, only `mark`."""
        for disk in range(len(self._folders)):
            if disk == spare or self._usage.disk_failed(disk):
                continue
            content = self._load(disk, key)
            others = tuple(other for other in self._living(content) if other != mark)
            if not others:
                self._unlink(disk, key)
            elif content is not None and mark in content.fences:
                try:
                    self._publish(disk, key, render_key_file(key, KeyFile(fences=others)))
                except OSError as error:  # the mark stays: no record for this key while this process lives
                    self._note(disk, error)

    def _is_fenced(self, key: ObjectKey) -> bool:
        disks = range(len(self._folders))
        if any(self._usage.blind_fence_stands(disk) for disk in disks):
            return True
        return any(self._living(self._load(disk, key)) for disk in disks if not self._usage.disk_failed(disk))

    def _living(self, content: KeyFile | None) -> tuple[FenceMark, ...]:
        """The marks whose writers live."""
        marks = () if content is None else content.fences
        return tuple(
            mark
            for mark in marks
            if mark.run_id == self._run_id and self._tables.locks.is_held(writer_place(mark.writer_id))
        )

    # Files

    def _home(self, key: ObjectKey) -> int | None:
        """The disk that rendezvous hashing names among those in service."""
        disks = [disk for disk in range(len(self._folders)) if not self._usage.disk_failed(disk)]
        if len(disks) < 2:
            return disks[0] if disks else None
        return max(disks, key=lambda disk: hashlib.sha256(key.digest + os.fsencode(self._folders[disk])).digest())

    def _path(self, disk: int, key: ObjectKey) -> Path:
        name = key.digest.hex()
        return self._folders[disk] / name[:2] / name[2:]

    def _load(self, disk: int, key: ObjectKey) -> KeyFile | None:
        """The key's file; None where there is none, or none that can be read and trusted."""
        try:
            raw = _read_whole(self._path(disk, key))
        except FileNotFoundError:
            return None
        except OSError as error:
            self._note(disk, error)
            return None
        return parse_key_file(raw, key)

    def _publish(self, disk: int, key: ObjectKey, raw: bytes, *, durable: bool = False) -> None:
        """Put the whole file in place at once; raises OSError."""
        target = self._path(disk, key)
        temp = self._folders[disk] / TEMP_FOLDER / secrets.token_hex(8)
        try:
            _write_new(temp, raw, durable=durable)
            try:
                os.replace(temp, target)
            except FileNotFoundError:
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(temp, target)
            if durable:
                _sync_folder(target.parent)
        except OSError:
            with suppress(OSError):
                temp.unlink()
            raise

    def _unlink(self, disk: int, key: ObjectKey) -> None:
        """Make sure that no record of the key can be read from the disk: if not by removing it, by using it no more."""
        try:
            os.unlink(self._path(disk, key))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            pass  # no record, nor can there be one
        except OSError as error:
            self._note(disk, error)
            self._fail(disk, error)
            folder = self._folders[disk]
            _log.error("a record of %r could not be removed: remove %s before the next start", key.key, folder)

    def _note(self, disk: int, error: OSError) -> None:
        """Count a failure, and take the disk out of service where it is the disk's."""
        broken = error.errno in _BROKEN
        RECORD_FAILURES.labels(reason="broken" if broken else "full" if error.errno in _FULL else "other").inc()
        if broken:
            self._fail(disk, error)

    def _fail(self, disk: int, error: OSError) -> None:
        if not self._usage.disk_failed(disk):
            self._usage.fail_disk(disk)
            _log.error("the disk of %s is out of service: %s", self._folders[disk], error)


def _read_whole(path: Path) -> bytes:
    """A record's bytes; longer files are cut, and so found damaged. Raises OSError."""
    # Whatever may lie there, opening it must not wait (a pipe) nor lead elsewhere (a link).
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        return os.read(fd, RECORD_BYTES_MAX)
    finally:
        os.close(fd)


def _write_new(path: Path, raw: bytes, *, durable: bool) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o600)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, flags, 0o600)
    with open(fd, "wb", buffering=0) as file:
        if file.write(raw) != len(raw):
            raise OSError(errno.ENOSPC, "the disk took a part only", str(path))
        if durable:
            os.fsync(fd)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
