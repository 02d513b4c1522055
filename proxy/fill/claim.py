"""One block's way to a writer, for the flight that is to fill it: `proxy.fill.flight.FlightClaim`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.blocks import BlockWriter, RangeSource
from proxy.cache.blockmap import BlockKind
from proxy.fill.follow import FollowedProgress
from proxy.objects import ObjectRecord
from proxy.relay.relay import Relay
from proxy.upstream.speculative import SpeculativeSource

if TYPE_CHECKING:
    from proxy.fill.supply import Supply


class BlockClaim:
    """One block's way to a writer: `proxy.fill.flight.FlightClaim`. `source` is the origin, or what stands before
    it."""

    def __init__(self, supply: Supply, origin: RangeSource, record: ObjectRecord, arrival: FollowedProgress) -> None:
        self._supply = supply
        self.origin = origin
        self.source: RangeSource | SpeculativeSource | Relay = origin
        self.record = record
        self.version = record.version
        self.arrival = arrival
        self.writer: BlockWriter | None = None
        self.start = 0
        self.first_bytes: int | None = None

    @property
    def held(self) -> bool:
        return self.writer is not None

    def take(self) -> BlockWriter | None:
        return self.writer or self.arrival.block.reserve(self.start, self.first_bytes)

    async def prepare(self, writer: BlockWriter) -> None:
        await self._supply.read_back(writer)

    def put_off(self) -> None:
        self._supply.put_off(self)

    def pass_on(self) -> None:
        """The block is another worker's by now: follow that one, with the readers that wait already."""
        self.end()
        self._supply.unlevel(self)
        self._supply.follow(self)

    def end(self) -> None:
        """The flight is over, whatever became of it."""
        if isinstance(self.source, SpeculativeSource):
            self.source.drop()
            self.source = self.origin

    def follow(self) -> FollowedProgress | None:
        """The followed arrival; None where there is nothing to follow: the block is there, or its segment is not."""
        block = self.arrival.block
        if block.retired or block.state().kind is BlockKind.PRESENT:
            return None
        self._supply.follow(self)
        return self.arrival

    def take_over(self, writer: BlockWriter) -> None:
        """The filler that was followed is gone: a flight of our own goes on, on the same arrival."""
        self.writer = writer
        self.first_bytes = None
        self._supply.launch(self, self.arrival.below)
