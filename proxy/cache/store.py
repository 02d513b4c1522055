"""The block store of this process: from an object version and a block's number to the block.

How it works. An object version is cut into segments of `segment_blocks` blocks. Each is looked up by name, on the
disks in its own order of preference (disks.rank). It stays open here until it is the least recently used; nothing is
scanned, at start or later. Calls named `peek` look at open segments only and never wait. `open_block` goes to the disk,
in a thread. Segments that some process has retired, and those on a disk that left service, are dropped by `tick` (each
second) at the latest. They are never returned in between: every look-up checks the flag.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor

from proxy.blocks import DataFile, Piece, block_count, combine_sums, update_sum
from proxy.cache import mapfile
from proxy.cache.accounts import folder_of_object, on_disk
from proxy.cache.block import Block
from proxy.cache.blockmap import NONCE_BYTES, MapHeader, run_tag
from proxy.cache.disks import UNSTORED_SEGMENTS_MAX, Disk, DiskSpec, rank
from proxy.cache.keys import KeyStore
from proxy.cache.layout import FOLDER, open_layouts
from proxy.cache.segment import Segment, open_segment
from proxy.cache.shared import SharedTables
from proxy.errors import ConfigInvalid, StoreUnavailable
from proxy.objects import ObjectVersion, SumKind
from proxy.ranges import ByteRange

__all__ = ["Block", "DiskSpec", "Store"]

DESCRIPTORS_PER_SEGMENT = 1  # the data file's; the locks' is open only while a block is filled
SUM_READ_BYTES_MAX = 1 << 30  # half a second, once per object in each process that serves its end
TICK_SEGMENTS = 2000
FILES_OF_SEGMENT = 2  # its map and its data
CREATE_ATTEMPTS = 4  # each is lost only to another process that created and retired it in between


class Store:
    """The blocks on this node's disks, as one process sees them."""

    def __init__(
        self,
        disks: Sequence[DiskSpec],
        *,
        block_bytes: int,
        run_id: str,
        writer_id: str,
        tables: SharedTables,
        max_open_segments: int,
        segment_bytes: int | None = None,
        writer_threads: Executor | None = None,
    ) -> None:
        """Open the disks' layouts, or create them. Raises ConfigInvalid if one has other sizes.

        `writer_id` is unique among the processes of the run. Each of `max_open_segments` takes DESCRIPTORS_PER_SEGMENT
        descriptors. `writer_threads` take the writes of a slow disk; the caller shuts them down.
        """
        if not disks:
            raise ConfigInvalid("cache.disks: the list is empty; name at least one folder")
        layouts = open_layouts([(disk.path, disk.size_bytes) for disk in disks], block_bytes, segment_bytes)
        roots = [disk.path / FOLDER for disk in disks]
        self.block_bytes = block_bytes
        self.segment_bytes = layouts[0].segment_bytes
        self.segment_blocks = max(1, self.segment_bytes // block_bytes)
        self.node_id = layouts[0].node_id
        self.run_tag = run_tag(run_id)
        unstored_segments_max = max(1, min(UNSTORED_SEGMENTS_MAX, max_open_segments // 4))
        self.disks = tuple(
            Disk(index, settings, layout.disk_id, root, tables.usage, writer_threads, unstored_segments_max)
            for index, (settings, layout, root) in enumerate(zip(disks, layouts, roots, strict=True))
        )
        self.keys = KeyStore(self.disks, run_id=run_id, writer_id=writer_id, tables=tables)
        self.opened: Callable[[ObjectVersion, int], None] = lambda version, created_ns: None  # called for each segment
        self._max_open_segments = max_open_segments
        self._guard = threading.Lock()  # for `_open` alone: nothing waits while holding it
        self._open: OrderedDict[tuple[bytes, int], Segment] = OrderedDict()  # least recently used first
        self._unlooked: list[tuple[bytes, int]] = []  # of those, what `tick` still has to check in this turn
        self._retired_seen = 0  # how many had been evicted when the last turn began

    def __repr__(self) -> str:
        return f"<Store on {len(self.disks)} disks, {len(self._open)} segments open>"

    # Peeking: inline, for the event loop.

    def peek(self, version: ObjectVersion, span: ByteRange) -> list[Piece] | None:
        """Return the span's pieces, one per segment, if all are present, checked in this run and open; else None.

        Costs one dict look-up and one lseek per segment, one load per block. Marks the segments as visited.
        """
        span_bytes = self.segment_blocks * self.block_bytes
        pieces = []
        position = span.start
        while position < span.end:
            number = position // span_bytes
            base = number * span_bytes
            segment = self._peek_segment(version, number)
            if segment is None:
                return None
            end = min(span.end, base + span_bytes)
            piece = segment.verified_piece(position - base, end - base)
            if piece is None:
                return None
            segment.mark_visited()
            pieces.append(piece)
            position = end
        return pieces

    def peek_segment(self, version: ObjectVersion, number: int) -> Segment | None:
        """Return an open segment, for callers on the hot path. Hold it weakly and call `peek_piece`."""
        return self._peek_segment(version, number)

    def peek_block(self, version: ObjectVersion, index: int) -> Block | None:
        """Return the block, if its segment is open in this process."""
        segment = self._peek_segment(version, index // self.segment_blocks)
        if segment is None or not segment.is_sound():
            return None
        segment.mark_visited()
        return Block(segment, index)

    def _peek_segment(self, version: ObjectVersion, number: int) -> Segment | None:
        name = (version.digest, number)
        with self._guard:
            segment = self._open.get(name)
            if segment is None:
                return None
            if segment.retired or segment.disk.failed:
                del self._open[name]  # `segment` still refers to it: nothing is closed under the guard
                return None
            self._open.move_to_end(name)
        return segment

    # Opening: blocking, for a thread.

    def open_block(
        self, version: ObjectVersion, index: int, *, create: bool, sums: Sequence[SumKind] = ()
    ) -> Block | None:
        """Open the block's segment or, with `create`, create it, and return the block; None if it is not on disk.

        `sums` are the kinds of checksum known for the whole object. For each block, a new segment keeps the first one
        that is not a crc32c, beside the crc32c. Raises StoreUnavailable when a segment can't be created: no room, or
        no working disk.
        """
        number = index // self.segment_blocks
        block = self.peek_block(version, index)
        if block is not None:
            return block
        second = next((kind for kind in sums if kind is not SumKind.CRC32C), None)
        for _ in range(CREATE_ATTEMPTS):
            segment = self._find(version, number)
            if segment is not None:
                segment.mark_visited()
                if second is not None:
                    segment.keep_second(second)
                return Block(self._keep(segment), index)
            if not create:
                return None
            self._create(version, number, second)
        raise StoreUnavailable(f"segment {number} of {version.key!r} was retired as often as it was made")

    def _find(self, version: ObjectVersion, number: int) -> Segment | None:
        """Open the segment on the first disk that has it, skipping disks that fail."""
        for disk in rank(self.disks, version.digest, number):
            try:
                segment = open_segment(disk, version, number, self.block_bytes, self.segment_blocks, self.run_tag)
            except OSError as error:
                disk.trouble(error)
                continue
            if segment is not None:
                return segment
        return None

    def _create(self, version: ObjectVersion, number: int, second: SumKind | None) -> None:
        """Create the segment's files on its first disk in service, unless another process was faster."""
        header = MapHeader(version, number, self.block_bytes, self.segment_blocks, bytes(NONCE_BYTES), second)
        for disk in rank(self.disks, version.digest, number):
            disk.guard(on_disk(header.map_bytes) + on_disk(min(self.block_bytes, header.data_bytes)), FILES_OF_SEGMENT)
            try:
                disk.allocated(mapfile.create_files(disk.objects, header), folder_of_object(version.digest))
                return
            except ValueError as error:
                raise StoreUnavailable(str(error)) from error
            except OSError as error:
                trouble = disk.trouble(error)
                if not disk.failed:
                    raise trouble from error
        raise StoreUnavailable("every disk of the cache is out of service")

    def _keep(self, segment: Segment) -> Segment:
        """Keep an opened segment, unless another thread was faster, and close the surplus."""
        name = (segment.header.version.digest, segment.header.segment)
        dropped = []  # closed on leaving, outside of the guard
        self.opened(segment.header.version, segment.header.created_ns)
        with self._guard:
            present = self._open.get(name)
            if present is not None and not present.retired:
                return present
            if present is not None:
                dropped.append(present)
            self._open[name] = segment
            self._open.move_to_end(name)
            surplus = len(self._open) - self._max_open_segments
            dropped += self._drop_idle(surplus, segment)
        return segment

    def _drop_idle(self, surplus: int, kept: Segment) -> list[Segment]:
        """Remove that many of the least recently used. Those touched outside of the store count as just used."""
        dropped: list[Segment] = []
        for _ in range(2 * len(self._open)):  # the first round may find all of them used
            if len(dropped) >= surplus:
                break
            name, segment = next(iter(self._open.items()))
            if segment.touched or segment.busy or segment is kept:  # a fill's followers here look for it by name
                segment.touched = False
                self._open.move_to_end(name)
            else:
                dropped.append(self._open.pop(name))
        return dropped

    # Whole objects.

    def combined_sum(self, version: ObjectVersion, kind: SumKind) -> int | None:
        """Return the whole object's checksum, from those of its blocks; None unless all are present.

        Blocks filled before that kind was announced are read back; None if they exceed SUM_READ_BYTES_MAX. Blocking:
        opens segments that are not open.
        """
        total, read_bytes = update_sum(kind, memoryview(b"")), 0
        for number in range(self._segment_count(version)):
            segment = self._peek_segment(version, number) or self._find(version, number)
            if segment is None or not segment.is_whole():
                return None
            for local_index in range(segment.header.block_count):
                if not segment.has_sum(local_index, kind):
                    read_bytes += segment.header.block_length(local_index)
                    if read_bytes > SUM_READ_BYTES_MAX:
                        return None
                own = segment.block_sum(local_index, kind)
                if own is None:
                    return None
                total = combine_sums(kind, total, own, segment.header.block_length(local_index))
        return total

    def keep_sums(self, version: ObjectVersion, kind: SumKind) -> None:
        """Make fills of segments that are open here keep that kind of checksum from now on. Inline."""
        if kind is not SumKind.CRC32C:
            for number in range(self._segment_count(version)):
                segment = self._peek_segment(version, number)
                if segment is not None:
                    segment.keep_second(kind)

    def discard(self, version: ObjectVersion) -> None:
        """Retire all segments of a version, in every process: its bytes are not those of the origin. Blocking."""
        for number in range(self._segment_count(version)):
            with self._guard:
                segment = self._open.pop((version.digest, number), None)
            if segment is not None:
                segment.retire("damage")
            for disk in rank(self.disks, version.digest, number):
                try:
                    path = mapfile.map_path(disk.objects, version.digest, number)
                    charge = mapfile.retire(path, None, "damage", force=True)
                    disk.retired(charge or 0, folder_of_object(version.digest))
                except OSError as error:
                    disk.trouble(error)

    def _segment_count(self, version: ObjectVersion) -> int:
        return -(-block_count(version.size_bytes, self.block_bytes) // self.segment_blocks)

    # The process around it.

    def tick_where_due(self) -> None:
        """Call `tick` if something was evicted that may be open here; to be called ten times a second.

        An evicted segment takes room on the disk while it is open. Costs one load per disk if nothing was evicted.
        """
        retired = sum(disk.retired_count for disk in self.disks)
        if self._unlooked or retired != self._retired_seen:
            if not self._unlooked:
                self._retired_seen = retired
            self.tick()

    def tick(self) -> None:
        """Drop the handles of retired segments and of failed disks, TICK_SEGMENTS at a time; to be called each second.

        Inline. Costs a cold load per segment, a fraction of a millisecond in all.
        """
        failed = [disk for disk in self.disks if disk.failed]
        dropped = []
        with self._guard:
            if not self._unlooked:
                self._unlooked = list(self._open)
            for name in self._unlooked[-TICK_SEGMENTS:]:
                segment = self._open.get(name)
                if segment is not None and (segment.retired or segment.disk in failed):
                    dropped.append(self._open.pop(name))
            del self._unlooked[-TICK_SEGMENTS:]
        del dropped  # closed here, outside of the guard

    def note_read_error(self, file: DataFile, error: OSError) -> None:
        """Report that a response could not read a piece of this file, for what it means for the disk. Inline."""
        for segment in self._opened():
            if segment.data is file:
                segment.disk.trouble(error)

    def disks_writable(self) -> bool:
        """Return whether some disk still takes blocks, whether or not it has room. Inline."""
        return any(not disk.failed and os.access(disk.objects.parent, os.W_OK) for disk in self.disks)

    def report(self) -> dict[str, object]:
        return {
            "block_bytes": self.block_bytes,
            "segment_bytes": self.segment_bytes,
            "open_segments": len(self._open),
            "max_open_segments": self._max_open_segments,
            "disks": [
                {
                    "path": str(disk.path),
                    "size_bytes": disk.size_bytes,
                    "used_bytes": disk.used_bytes,
                    "failed": disk.failed,
                }
                for disk in self.disks
            ],
        }

    def close(self) -> None:
        """Drop all handles; pieces that are still held stay readable. Fills must have ended."""
        with self._guard:
            dropped = list(self._open.values())
            self._open.clear()
        del dropped
        for disk in self.disks:
            disk.syncer.close()
        self.keys.close()

    def _opened(self) -> Iterator[Segment]:
        with self._guard:
            segments = list(self._open.values())
        return iter(segments)
