"""Following the fills of other workers of this node.

How it works. One poll for the whole worker (every 2 ms while anything is followed) reads the followed blocks' words in
the block map and updates their progress. Every 50 ms it also tries the lock. Getting it means that the filler died or
gave up; then a flight of this worker continues from there, with the same progress. If a lock is held for `stuck_s`
without progress and some worker has stopped, the progress fails and its readers continue uncached. While all workers
run, the filler is waiting for its origin, and the followers wait too.

If bytes are from other nodes of the fleet (`unverified`), a filler that starts over has found them wrong. That also
fails the progress, because what readers have already sent can't be taken back. A new fill may get further than the old
one between two looks, so the filler first records it in the fleet's shared state (`discarded`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from proxy.blocks import BlockWriter
from proxy.cache.blockmap import BlockKind
from proxy.cache.store import Block
from proxy.errors import BytesWrong, StoreUnavailable
from proxy.fill.flight import Flights
from proxy.fill.progress import FillProgress
from proxy.objects import ObjectVersion

log = logging.getLogger(__name__)

POLL_S = 0.002
TRY_LOCK_S = 0.05


class FollowedProgress(FillProgress):
    """Fill progress that knows where its bytes are: its segment may be retired, and replaced, before the fill ends.

    `read_unverified` returns whether the block contains bytes of other nodes, which count only once it is published
    (None: not known now). `level` returns how far from the origin the fill is (`proxy.fleet.fill_ids`), and `fill_id`
    which one it is, if it is this process's. `below`: the level of the tree in which other nodes wait for it.
    `discarded`: whether bytes of other nodes have been thrown away.
    """

    __slots__ = (
        "_discarded",
        "_discarded_at_first",
        "_was_guarded",
        "below",
        "block",
        "fill_id",
        "level",
        "read_unverified",
    )

    def __init__(self, block: Block) -> None:
        super().__init__(block.length)
        self.block = block
        self.read_unverified: Callable[[], bool | None] | None = None
        self.level: Callable[[], int] | None = None
        self.fill_id: Callable[[], int] | None = None
        self.below: int | None = None
        self._was_guarded = False
        self._discarded: Callable[[], int] | None = None
        self._discarded_at_first = 0

    @property
    def unverified(self) -> bool:
        if self.read_unverified is None or self._was_guarded:
            return self._was_guarded
        found = self.read_unverified()
        self._was_guarded = found is True
        return found is not False

    def serve(self, level: int) -> None:
        """Note that another node waits for it, in a tree of that level: a fill that takes over must not wait there."""
        self.below = level if self.below is None else min(level, self.below)

    def watch(self, discarded: Callable[[], int]) -> None:
        """Remember the counter of discarded bytes, before anybody has bytes of this fill."""
        self._discarded, self._discarded_at_first = discarded, discarded()

    @property
    def discarded(self) -> bool:
        return self._discarded is not None and self._discarded() != self._discarded_at_first


TakeOver = Callable[[BlockWriter], None]


@dataclass(slots=True)
class _Followed:
    version: ObjectVersion
    block: Block
    arrival: FollowedProgress
    take_over: TakeOver
    moved_at: float
    try_at: float


class Followers:
    """The poll of all fills that are followed. `stopped` returns whether some worker of this node has stopped."""

    def __init__(
        self,
        flights: Flights,
        *,
        stuck_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        stopped: Callable[[], bool] = lambda: True,
    ) -> None:
        self._stopped = stopped
        self._flights = flights
        self._stuck_s = stuck_s
        self._clock = clock
        self._followed: list[_Followed] = []
        self._poll: asyncio.Task[None] | None = None

    def follow(self, version: ObjectVersion, arrival: FollowedProgress, take_over: TakeOver) -> None:
        """Update the progress as the other worker's fill moves; `take_over` launches ours when it is gone."""
        state = arrival.block.state()
        if state.kind is BlockKind.FILLING:
            arrival.move(state.start, min(state.progress, arrival.length - 1))
        now = self._clock()
        self._flights.follow(version, arrival.block.index, arrival)
        self._followed.append(_Followed(version, arrival.block, arrival, take_over, now, now + TRY_LOCK_S))
        if self._poll is None or self._poll.done():
            self._poll = asyncio.get_running_loop().create_task(self._poll_words(), name="follow")

    async def _poll_words(self) -> None:
        while self._followed:
            await asyncio.sleep(POLL_S)
            now = self._clock()
            self._followed = [followed for followed in self._followed if not self._looked(followed, now)]
        self._poll = None

    def _looked(self, followed: _Followed, now: float) -> bool:
        try:
            return self._look(followed, now)
        except Exception as error:  # one block's trouble must not end the poll of all
            log.exception("following block %d of %s", followed.block.index, followed.version.key)
            return self._give_up(followed, str(error))

    def _look(self, followed: _Followed, now: float) -> bool:
        """Update one progress. Return True if it needs no more following."""
        block, arrival = followed.block, followed.arrival
        state = block.state()
        if arrival.discarded:  # read after the state: what is there now may be another fill's
            return self._end(followed, _started_over(block))
        if state.kind is BlockKind.PRESENT:
            self._flights.forget(followed.version, block.index)
            arrival.publish()
            return True
        if block.retired:
            return self._give_up(followed, "its segment was retired")
        if state.kind is BlockKind.FILLING and (state.start, state.progress) != (arrival.start, arrival.progress):
            if _is_behind(arrival, state.start, state.progress):
                return self._end(followed, _started_over(block))
            followed.moved_at = now
            # A filler that has written all of it has not published it yet.
            arrival.move(state.start, min(state.progress, block.length - 1))
        if now >= followed.try_at:
            followed.try_at = now + TRY_LOCK_S
            return self._try_lock(followed, now)
        return False

    def _try_lock(self, followed: _Followed, now: float) -> bool:
        if followed.arrival.interest == 0:
            self._flights.forget(followed.version, followed.block.index)
            followed.arrival.fail(StoreUnavailable("nobody waits for this block any more"))
            return True
        try:
            writer = followed.block.reserve(0)
        except StoreUnavailable as error:  # full or failed: this reader's trouble, not the poll's
            return self._give_up(followed, str(error))
        if writer is not None:
            if followed.arrival.discarded or _is_behind(followed.arrival, writer.start, writer.progress):
                writer.leave()
                return self._end(followed, _started_over(followed.block))
            self._flights.forget(followed.version, followed.block.index)
            followed.take_over(writer)
            return True
        if now - followed.moved_at > self._stuck_s and not followed.block.retired and self._stopped():
            return self._give_up(followed, "the worker that fills it does not move")
        return False

    def _give_up(self, followed: _Followed, why: str) -> bool:
        return self._end(followed, StoreUnavailable(f"block {followed.block.index}: {why}"))

    def _end(self, followed: _Followed, error: Exception) -> bool:
        self._flights.forget(followed.version, followed.block.index)
        followed.arrival.fail(error)
        return True

    async def aclose(self) -> None:
        if self._poll is not None:
            self._poll.cancel()
            await asyncio.wait({self._poll})


def _is_behind(arrival: FollowedProgress, start: int, progress: int) -> bool:
    """Return whether this is another fill than the one whose bytes, of other nodes, readers may have sent."""
    return arrival.unverified and arrival.progress > 0 and (start != arrival.start or progress < arrival.progress)


def _started_over(block: Block) -> BytesWrong:
    return BytesWrong(f"block {block.index}: its fill started over")
