"""The Origin contract over a directory: `head`, `read_range`, `head_part`, `list_objects`, `list_buckets`.

How it works. A file's version is its size, times and inode. A thread reads each piece of a file and then checks the
file again, before the piece is passed on. A write changes the times before it changes bytes, so a piece read under
unchanged times belongs to the version. Time stamps advance in steps of a few ms. A file that changed within the last
`SETTLING_S` is checked once more after that, so that two contents never share a time stamp.
"""

from __future__ import annotations

import asyncio
import mimetypes
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path
from typing import TypeVar

from proxy.blocks import ByteSink, DataFile
from proxy.errors import InvalidRequest, NotFound, NotSupported, VersionChanged
from proxy.metrics import ORIGIN_BYTES, ORIGIN_REQUESTS
from proxy.objects import ObjectRecord, ObjectVersion
from proxy.origin import ForwardRequest, ForwardResponse, ListPage, PartSpan
from proxy.origin.directory.tree import PART_BYTES, File, Tree, translate
from proxy.origin.directory.walk import FolderCache, list_page
from proxy.ranges import ByteRange

READ_BYTES = 1 << 20
THREADS_MAX = 8
SETTLING_S = 0.02  # the kernel's coarsest tick is 10 ms
LOOKS_MAX = 3  # a file that keeps changing has no lasting version
DEFAULT_TYPE = "binary/octet-stream"

Result = TypeVar("Result")


class DirectoryOrigin:
    """A directory origin; see `proxy.origin`. While `root` does not exist, the origin is unavailable.

    The real bucket `.` is the root itself. `clock` is Unix time in seconds.
    """

    dialect = "file"

    def __init__(self, root: Path, *, name: str | None = None, clock: Callable[[], float] = time.time) -> None:
        self.id = f"file://{os.path.abspath(root)}"
        self.name = name or self.id
        self._tree = Tree(root)
        self._folders = FolderCache(clock)
        self._clock = clock
        self._types = mimetypes.MimeTypes()  # Python's own list: the same on every machine
        self._threads = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="directory-origin")

    async def head(self, bucket: str, key: str, version_id: str | None = None) -> ObjectRecord:
        """Return a key's record. The only version id is `null`. Raises NotFound, AccessDenied, OriginUnavailable."""
        if version_id not in (None, "null"):
            raise NotFound("version", key)
        ORIGIN_REQUESTS.labels(self.name, "head").inc()
        checked_at_s = self._clock()
        for _ in range(LOOKS_MAX):
            _, file = await self._run(self._tree.open_file, bucket, key)
            if not 0 <= self._clock() - file.changed_ns / 1e9 < SETTLING_S:
                break
            await asyncio.sleep(SETTLING_S)
        return self._record(bucket, key, file, checked_at_s)

    def _record(self, bucket: str, key: str, file: File, checked_at_s: float) -> ObjectRecord:
        modified_s = file.modified_ns // 1_000_000_000
        return ObjectRecord(
            version=ObjectVersion(self.id, bucket, key, f"etag {file.etag}", file.size_bytes),
            etag=file.etag,
            last_modified_s=modified_s,
            headers=(
                ("content-type", self._types.guess_type(key)[0] or DEFAULT_TYPE),
                ("etag", file.etag),
                ("last-modified", formatdate(modified_s, usegmt=True)),
            ),
            checked_at_s=checked_at_s,
        )

    async def read_range(self, version: ObjectVersion, span: ByteRange, sink: ByteSink) -> None:
        """Raises VersionChanged, NotFound (the bucket), AccessDenied, OriginUnavailable, and the sink's errors."""
        ORIGIN_REQUESTS.labels(self.name, "read").inc()
        file = await self._run(self._open_version, version)
        buffer = memoryview(bytearray(min(READ_BYTES, span.length)))
        received = ORIGIN_BYTES.labels(self.name)
        position = span.start
        while position < span.end:
            wanted = buffer[: span.end - position]
            length = await self._run(_read_piece, file, version, wanted, position)
            received.inc(length)
            pending = sink.write(wanted[:length])
            if pending is not None:
                await pending
            position += length

    def _open_version(self, version: ObjectVersion) -> DataFile:
        try:
            file, found = self._tree.open_file(version.bucket, version.key)
        except NotFound as error:
            if error.what == "key":
                raise VersionChanged(str(error)) from error
            raise
        _check(version, found)
        return file

    async def head_part(self, record: ObjectRecord, number: int) -> PartSpan:
        """Return a part's span: parts have 8 MiB, and the ETag says how many there are."""
        count = max(1, -(-record.size_bytes // PART_BYTES))
        if not 1 <= number <= count:
            raise InvalidRequest("InvalidPartNumber", f"the object has no part {number}")
        start = (number - 1) * PART_BYTES
        return PartSpan(number, count, ByteRange(start, min(start + PART_BYTES, record.size_bytes)))

    async def forward(self, request: ForwardRequest) -> ForwardResponse:
        raise NotSupported("a directory origin takes no writes and no other operations")

    async def list_objects(self, bucket: str, *, prefix: str, delimiter: str, after: str, limit: int) -> ListPage:
        """Raises NotFound("bucket"), OriginUnavailable."""
        ORIGIN_REQUESTS.labels(self.name, "list").inc()

        def find() -> ListPage:
            return list_page(
                self._tree, self._folders, bucket, prefix=prefix, delimiter=delimiter, after=after, limit=limit
            )

        return await self._run(find)

    async def list_buckets(self) -> tuple[tuple[str, float], ...]:
        return await self._run(self._tree.buckets)

    async def aclose(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, call: Callable[..., Result], *arguments: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)


def _read_piece(file: DataFile, version: ObjectVersion, buffer: memoryview, position: int) -> int:
    """Fill the buffer by one read, and check that the bytes are the version's."""
    try:
        length = os.preadv(file.fd, [buffer], position)
        found = File.of(os.fstat(file.fd))
    except OSError as error:
        raise translate(error, "key", version.key) from error
    _check(version, found)
    if length == 0:
        raise VersionChanged(f"{version.key!r} ends at {position}, not at {version.size_bytes}")
    return length


def _check(version: ObjectVersion, found: File) -> None:
    if f"etag {found.etag}" != version.validator or found.size_bytes != version.size_bytes:
        raise VersionChanged(f"the file of {version.key!r} has changed")
