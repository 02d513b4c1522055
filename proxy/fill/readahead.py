"""Read-ahead for loaders that read an object by consecutive ranges, each a request of its own.

How it works. A range that begins where another one ended continues a run. From a run's third request on, the blocks
after its end are requested too: as many as the run has read so far, but no more than one reader's window. So at most
twice what a reader read is fetched if it stops early, and nothing is fetched ahead of a reader that jumps about.
Nothing is fetched ahead if other fills would have to wait for it. Requests that are answered at once, from what was
fetched ahead, are not seen here. Therefore a range that begins anywhere in what was fetched ahead of a run also
continues it.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from proxy.concurrency.tasks import BackgroundTasks
from proxy.metrics import AHEAD_BLOCKS
from proxy.objects import ObjectVersion
from proxy.ranges import ByteRange

log = logging.getLogger(__name__)

VERSIONS_MAX = 256
RUNS_MAX = 8  # of one version: so many clients may read it at once
REQUESTS_MIN = 3
BLOCKS_MAX = 64  # fetched ahead at the same time, for all runs

Fetch = Callable[[int], Awaitable[None]]


@dataclass(slots=True)
class Run:
    """Consecutive ranges of one version. `end`: where it continues. Blocks before `ahead_block` have been requested."""

    start: int
    end: int
    requests: int
    ahead_block: int


class ReadAhead:
    """The runs of all versions, and what is fetched ahead of them.

    `window_blocks_max` limits one run. `has_room` returns whether a fill of so many bytes would not wait.
    """

    def __init__(self, block_bytes: int, window_blocks_max: int, has_room: Callable[[int], bool]) -> None:
        self._block_bytes = block_bytes
        self._window_blocks_max = window_blocks_max
        self._has_room = has_room
        self._runs: OrderedDict[bytes, list[Run]] = OrderedDict()
        self._fetching = BackgroundTasks(log)

    def note(self, version: ObjectVersion, span: ByteRange, fetch: Fetch) -> None:
        """Note a request for this range, and fetch ahead. `fetch` returns when its block is there. Inline."""
        run = self._continued(version.digest, span)
        last_block = (version.size_bytes - 1) // self._block_bytes
        for index in self.wanted(run, last_block):
            if len(self._fetching) >= BLOCKS_MAX or not self._has_room(self._block_bytes):
                return
            run.ahead_block = index + 1
            AHEAD_BLOCKS.inc()
            self._fetching.start(_quietly(fetch, index), name=f"ahead {index}")

    def wanted(self, run: Run, last_block: int) -> range:
        """Return the blocks to request now. Pure."""
        if run.requests < REQUESTS_MIN:
            return range(0)
        behind = -(-run.end // self._block_bytes)  # the first block that the run has not touched
        window = min((run.end - run.start) // self._block_bytes, self._window_blocks_max)
        return range(max(behind, run.ahead_block), min(behind + window, last_block + 1))

    def _continued(self, digest: bytes, span: ByteRange) -> Run:
        runs = self._runs.setdefault(digest, [])
        self._runs.move_to_end(digest)
        for run in runs:
            if run.end <= span.start <= max(run.end, run.ahead_block * self._block_bytes):
                run.end = span.end
                run.requests += 1
                break
        else:
            run = Run(span.start, span.end, 1, 0)
            runs.append(run)
            del runs[:-RUNS_MAX]
        if len(self._runs) > VERSIONS_MAX:
            self._runs.popitem(last=False)
        return run

    async def aclose(self) -> None:
        await self._fetching.aclose(cancel=True)


async def _quietly(fetch: Fetch, index: int) -> None:
    with suppress(Exception):  # nobody waits for it; a reader of the block will get the error
        await fetch(index)
