"""Key records on disk: which version of a key is current, and which keys are being written.

How it works. A key's file (records.py) is on one disk, chosen by rendezvous hashing among those in service, at
`keys/ab/cd...` after the key's digest. It is published by rename, so readers take no lock. Every change holds the
lock of the key's stripe (runlocks.py) while it reads, decides and publishes. A write that passes through:

    1. fence     The file becomes a tombstone with this writer's mark, then the token changes. If it replaces a record,
                 it does so durably (fsync): after a power cut the record must not come back.
    2.           The origin gets the write. Readers find no record and ask the origin. Their `install` is refused: their
                 token is old or, if they peeked it after step 1, the mark's writer is alive.
    3. lift      The mark is removed (the last mark with the file), then the token changes again. A reader that asked
                 the origin during step 2 can't install an answer that is older than the write.

Several writers of one key have a mark each. A mark counts while its writer is alive: it names the run and the writer,
and each writer holds a lock for life. If a writer is killed at any point, its tombstone stays and means "no record",
in this run and in the next one.

Rule for caches in memory: peek the token first, and cache the record only if `install` returned True or `fenced`
returns False afterwards. Otherwise a writer killed between steps 2 and 3 leaves others with a stale record.

When the disk fails, `read` returns None and `install` returns False, so reads go on. Writes must go on as well:
- The disk is full, with no room for a tombstone: the record is removed, which needs no room, and a *blind fence* is
  counted in shared memory. While a living process has one, `install` refuses all keys. `lift` removes the key's file,
  if there is one, and the blind fence.
- The disk is broken (EIO, read-only, a record that can't be removed): it leaves service for the run, its records
  count as gone, and the fence moves to the next disk. A record that could not be removed may become visible again if
  the disk works at the next start. It was last checked before the write, so the bucket's ttl bounds its life. The log
  says what to remove.
- Records of the key on other disks (from before a disk came or went) are removed by fence, lift and remove.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from proxy.cache.accounts import PAGE_BYTES, file_charge, folder_of_key
from proxy.cache.disks import BROKEN, FULL, Disk, rank
from proxy.cache.layout import make_private
from proxy.cache.missing import Missing
from proxy.cache.records import RECORD_BYTES_MAX, FenceMark, KeyFile, parse_key_file, render_key_file
from proxy.cache.runlocks import look_up_offset, writer_offset
from proxy.cache.shared import SharedTables
from proxy.errors import StoreUnavailable
from proxy.metrics import RECORD_FAILURES
from proxy.objects import ObjectKey, ObjectRecord

TEMP_FOLDER = "temp"  # beside the folders `00`..`ff` of `keys`; the housekeeper sweeps it

log = logging.getLogger(__name__)


class Fence:
    """A write under way. Its holder must `lift` it once the outcome of the write at the origin is known."""

    def __init__(self, lift: Callable[[], None]) -> None:
        self._lift = lift
        self._lifted = False

    def lift(self) -> None:
        """End the fence. Blocking. Never raises because of a disk; a second call does nothing."""
        if not self._lifted:
            self._lifted = True
            self._lift()


class KeyStore:
    """Records of keys on the node's disks. Every call blocks on the disk, if only briefly: run it in a thread."""

    def __init__(self, disks: Sequence[Disk], *, run_id: str, writer_id: str, tables: SharedTables) -> None:
        """`writer_id` is unique to this process. Raises ValueError if a living process of the run has the same."""
        self._disks = tuple(disks)
        self._run_id = run_id
        self._writer_id = writer_id
        self._tables = tables
        self._usage = tables.usage
        if not tables.locks.try_hold(writer_offset(writer_id)):
            raise ValueError(f"the writer id {writer_id!r} is in use")

    def read(self, key: ObjectKey) -> ObjectRecord | None:
        """Return the key's record; None if there is none, it is damaged, or a tombstone stands in its place."""
        disk = self._home(key)
        content = None if disk is None else _load(disk, key)
        return None if content is None else content.record

    def install(self, key: ObjectKey, record: ObjectRecord, token: int) -> bool:
        """Publish what the origin said after `token` was peeked. Return False if it may be outdated, or has no room."""
        version = record.version
        assert (version.origin, version.bucket, version.key) == (key.origin, key.bucket, key.key)
        raw = render_key_file(key, KeyFile(record=record))
        if len(raw) > RECORD_BYTES_MAX:
            return False
        try:
            with self._tables.locks.stripe(key.digest):
                return self._install_alone(key, raw, token)
        except OSError as error:
            log.error("no lock for the record of %r: %s", key.key, error)
            return False

    def fence(self, key: ObjectKey) -> Fence:
        """Fence the key, before a write is sent to the origin. Never refuses: see the module's docstring."""
        mark = FenceMark(self._run_id, self._writer_id, secrets.token_hex(8))
        try:
            with self._tables.locks.stripe(key.digest):
                blind_on = self._put_mark(key, mark)
                self._tables.tokens.renew(key)
        except OSError as error:  # the lock itself: the kernel has no memory for one more
            log.error("no lock for a write of %r: %s", key.key, error)
            blind_on = self._go_blind(self._disks[0])
            self._tables.tokens.renew(key)
        return Fence(lambda: self._lift(key, mark, blind_on))

    def fenced(self, key: ObjectKey) -> bool:
        """Return whether a living writer has fenced the key, or a blind fence stands."""
        if any(self._usage.blind_fence_stands(disk.index) for disk in self._disks):
            return True
        return any(self._living(_load(disk, key)) for disk in self._disks if not disk.failed)

    def remove(self, key: ObjectKey) -> int | None:
        """Forget the key on every disk and in every process. Return its new token. Fences stay."""
        try:
            with self._tables.locks.stripe(key.digest):
                self._clear_disks(key, None)
                return self._tables.tokens.renew(key)
        except OSError as error:
            log.error("no lock to forget %r: %s", key.key, error)
            self._tables.tokens.renew(key)
            return None

    def note_missing(self, key: ObjectKey, token: int, missing: Missing, *, keep: bool) -> None:
        """Note that the origin, asked after `token` was peeked, does not have the key. `keep`: cache that answer.

        Does nothing if the answer may be outdated. The token is renewed only if a record was removed: keys share
        tokens, and a thousand missing keys must not invalidate each other.
        """
        try:
            with self._tables.locks.stripe(key.digest):
                if self._tables.tokens.peek(key) != token or self.fenced(key):
                    return
                if any(_path(disk, key).exists() for disk in self._disks if not disk.failed):
                    self._clear_disks(key, None)
                    token = self._tables.tokens.renew(key)
                if keep:
                    self._tables.missing.put(key.digest, token, missing)
        except OSError as error:
            log.error("no lock to forget %r: %s", key.key, error)
            self._tables.tokens.renew(key)

    def missing(self, key: ObjectKey) -> Missing | None:
        """Return the cached answer that the key does not exist, or None. Never blocks."""
        return self._tables.missing.get(key.digest, self._tables.tokens.peek(key))

    def try_look_up(self, key: ObjectKey) -> bool:
        """Claim the right to ask the origin for a key: one process has it, until `end_look_up`. Never blocks."""
        return self._tables.locks.try_hold(look_up_offset(key.digest))

    def end_look_up(self, key: ObjectKey) -> None:
        self._tables.locks.release(look_up_offset(key.digest))

    def close(self) -> None:
        """End this writer. Fences that it has not lifted count as a dead writer's from now on."""
        self._tables.locks.release(writer_offset(self._writer_id))

    def _install_alone(self, key: ObjectKey, raw: bytes, token: int) -> bool:
        disk = self._home(key)
        if disk is None or self._tables.tokens.peek(key) != token or self.fenced(key):
            return False
        self._tables.missing.drop(key.digest)
        try:
            disk.guard(PAGE_BYTES, 1)
            _publish(disk, key, raw)
        except StoreUnavailable:
            RECORD_FAILURES.labels("full").inc()
            return False
        except OSError as error:
            _note(disk, error)
            return False
        return True

    def _put_mark(self, key: ObjectKey, mark: FenceMark) -> int | None:
        """Put the mark on the key's disk or, if that breaks, on the next one. Return the disk of a blind fence."""
        while (disk := self._home(key)) is not None:
            content = _load(disk, key)
            marks = self._living(content)
            try:
                durable = content is not None and content.record is not None
                _publish(disk, key, render_key_file(key, KeyFile(fences=(*marks, mark))), durable=durable)
                self._clear_disks(key, mark, spare=disk)
                return None
            except OSError as error:
                _note(disk, error)
            if not marks:  # otherwise the existing tombstone also says "no record", and others need it
                _unlink(disk, key)
            if not disk.failed:
                self._clear_disks(key, mark, spare=disk)
                return self._go_blind(disk)
        return None

    def _go_blind(self, disk: Disk) -> int:
        self._usage.open_blind_fence(disk.index)
        return disk.index

    def _lift(self, key: ObjectKey, mark: FenceMark, blind_on: int | None) -> None:
        try:
            with self._tables.locks.stripe(key.digest):
                self._clear_disks(key, mark)
        except OSError as error:  # the mark stays: no record for this key while this process lives
            log.error("no lock to end a write of %r: %s", key.key, error)
        self._tables.tokens.renew(key)
        if blind_on is not None:
            self._usage.close_blind_fence(blind_on)

    def _clear_disks(self, key: ObjectKey, mark: FenceMark | None, spare: Disk | None = None) -> None:
        """Remove the key's file from all disks but `spare`, or only `mark` from a tombstone with other living marks."""
        for disk in self._disks:
            if disk is spare or disk.failed:
                continue
            content = _load(disk, key)
            others = tuple(other for other in self._living(content) if other != mark)
            if not others:
                _unlink(disk, key)
            elif content is not None and mark in content.fences:
                try:
                    _publish(disk, key, render_key_file(key, KeyFile(fences=others)))
                except OSError as error:  # the mark stays, as above
                    _note(disk, error)

    def _living(self, content: KeyFile | None) -> tuple[FenceMark, ...]:
        """Return the marks whose writers are alive."""
        marks = () if content is None else content.fences
        return tuple(
            mark
            for mark in marks
            if mark.run_id == self._run_id and self._tables.locks.is_held(writer_offset(mark.writer_id))
        )

    def _home(self, key: ObjectKey) -> Disk | None:
        """Return the disk where the key's file belongs; None if every disk has failed."""
        return next(iter(rank(self._disks, key.digest, 0)), None)


def keys_folder(disk: Disk) -> Path:
    return disk.objects.parent / "keys"


def _path(disk: Disk, key: ObjectKey) -> Path:
    name = key.digest.hex()
    return keys_folder(disk) / name[:2] / name[2:]


def _load(disk: Disk, key: ObjectKey) -> KeyFile | None:
    """Return the content of the key's file; None if it is missing, unreadable or damaged."""
    try:
        raw = read_key_file(_path(disk, key))
    except FileNotFoundError:
        return None
    except OSError as error:
        _note(disk, error)
        return None
    return parse_key_file(raw, key)


def read_key_file(path: Path) -> bytes:
    """Return a key file's bytes. An overlong file is cut, and so found damaged. Raises OSError."""
    # Whatever is at that path, opening it must neither wait (a pipe) nor lead elsewhere (a link).
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        return os.read(fd, RECORD_BYTES_MAX)
    finally:
        os.close(fd)


def _publish(disk: Disk, key: ObjectKey, raw: bytes, *, durable: bool = False) -> None:
    """Put the file in place atomically and charge the difference in size. Needs the key's lock. Raises OSError."""
    target = _path(disk, key)
    temp = keys_folder(disk) / TEMP_FOLDER / secrets.token_hex(8)
    try:
        charge = _write_new(temp, raw, durable=durable) - _charge(target)
        try:
            os.replace(temp, target)
        except FileNotFoundError:
            make_private(target.parent)
            os.replace(temp, target)
        disk.allocated(charge, folder_of_key(key.digest))
        if durable:
            _sync_folder(target.parent)
    except OSError:
        with suppress(OSError):
            temp.unlink()
        raise


def _charge(path: Path) -> int:
    """Return what the file is charged with; 0 if it does not exist."""
    try:
        status = os.stat(path, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return 0
    return file_charge(status) if stat.S_ISREG(status.st_mode) else 0


def _write_new(path: Path, raw: bytes, *, durable: bool) -> int:
    """Write a new file and return its charge."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o600)
    except FileNotFoundError:
        make_private(path.parent)
        fd = os.open(path, flags, 0o600)
    try:
        if os.write(fd, raw) != len(raw):
            raise OSError(errno.ENOSPC, "the disk took a part only", str(path))
        if durable:
            os.fsync(fd)
        return file_charge(os.fstat(fd))
    finally:
        os.close(fd)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _unlink(disk: Disk, key: ObjectKey) -> None:
    """Remove the key's file or, if that fails, take the disk out of service, so that no record can be read from it."""
    path = _path(disk, key)
    try:
        charge = _charge(path)
        os.unlink(path)
        disk.freed(charge, folder_of_key(key.digest))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        pass  # there is no record, and there can't be one
    except OSError as error:
        _note(disk, error)
        disk.fail(error)
        log.error("a record of %r could not be removed: remove %s before the next start", key.key, keys_folder(disk))


def _note(disk: Disk, error: OSError) -> None:
    """Count a failure, and take the disk out of service if the disk caused it."""
    reason = "broken" if error.errno in BROKEN else "full" if error.errno in FULL else "other"
    RECORD_FAILURES.labels(reason).inc()
    disk.trouble(error)
