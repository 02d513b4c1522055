"""The access of a flight to its block's writer: implements `proxy.fill.flight.FlightClaim`."""

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
    """A flight's access to its block's writer.

    `source` is the origin, or what is asked before it: a speculative read or a relay.
    """

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
        """Follow the worker that fills the block by now, with the readers that already wait."""
        self.end()
        self._supply.unlevel(self)
        self._supply.follow(self)

    def end(self) -> None:
        """Drop an unused speculative read: the flight is over, whatever its result."""
        if isinstance(self.source, SpeculativeSource):
            self.source.drop()
            self.source = self.origin

    def follow(self) -> FollowedProgress | None:
        """Follow the block's filler and return the progress; None if the block is present or its segment retired."""
        block = self.arrival.block
        if block.retired or block.state().kind is BlockKind.PRESENT:
            return None
        self._supply.follow(self)
        return self.arrival

    def take_over(self, writer: BlockWriter) -> None:
        """Launch a flight here, on the same progress: the filler that was followed is gone."""
        self.writer = writer
        self.first_bytes = None
        self._supply.launch(self, self.arrival.below)
