"""Whatever order things happen in, no read gives less than a write that had returned: the rules, against a model.

The nodes' own parts are real (`InvalidationSubscriber`, `Freshness`, the fleet state); the channel, the clock, the
origin and the nodes' memories are the model's. A writer is modelled by its rule: wait for the nodes that listen, or for
a freshness window and a margin.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, TypeVarTuple, cast

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.concurrency.threads import Threads
from proxy.fleet.channel import LISTENING_S, Beat, Invalidation, InvalidationChannel, Message, render_message
from proxy.fleet.freshness import DRIFT_S, FRESHNESS_S, Freshness
from proxy.fleet.messages import Seals
from proxy.fleet.state import FleetState
from proxy.fleet.subscriber import InvalidationSubscriber
from tests.fleet.invalidation_nodes import KEY, SEALS

Args = TypeVarTuple("Args")
Result = TypeVar("Result")
NODES = 2


class Inline(Threads):
    async def run(self, call: Callable[[*Args], Result], *args: *Args) -> Result:
        return call(*args)


def at_once(work: Coroutine[Any, Any, None]) -> None:
    """Runs what never waits."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError("it waits")


class ModelNode:
    def __init__(self, name: str, fleet: Fleet) -> None:
        self.name = name
        self.fleet = fleet
        self.fleet_state = FleetState.create()
        self.freshness = Freshness(self.fleet_state, fleet.clock)
        self.subscriber = InvalidationSubscriber(
            cast(InvalidationChannel, self),
            name,
            self.fleet_state,
            self.forget,
            threads=Inline(),
            clock=fleet.clock,
            now=fleet.clock,
        )
        self.sent: list[Beat] = []  # on their way to Redis
        self.next: int | None = None  # what the channel brings next; None: not subscribed
        self.confirmed = False
        self.record: tuple[int, float] | None = None  # version, checked at

    def forget(self, key: object) -> bool:
        self.record = None
        return True

    @property
    def seals(self) -> Seals:
        """The channel's, as is the next one."""
        return SEALS

    async def beat(self, message: Beat) -> None:
        self.sent.append(message)


class ModelWrite:
    def __init__(self, version: int, writer: str, published_s: float, waiting: set[str], unwaited: set[str]) -> None:
        self.version, self.writer, self.published_s = version, writer, published_s
        self.waiting, self.unwaited = waiting, unwaited
        self.complete = True
        self.returned_s: float | None = None


class Fleet:
    def __init__(self) -> None:
        self.now_s = 1000.0
        self.nodes = [ModelNode(str(number), self) for number in range(NODES)]
        self.channel: list[Message] = []
        self.listening: dict[str, float] = {}
        self.redis_since_s = 0.0
        self.version = 0
        self.writes: list[ModelWrite] = []

    def clock(self) -> float:
        return self.now_s

    def everybody_listens(self) -> None:
        for number in range(NODES):
            self.subscribe(number)
            self.deliver(number)
            self.beat(number)
            self.pass_beat(number)
            for each in range(NODES):
                self.deliver(each)

    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    def beat(self, number: int) -> None:
        node = self.nodes[number]
        if node.subscriber.ready.is_set():
            at_once(node.subscriber.beat())

    def pass_beat(self, number: int) -> None:
        """Redis gets a beat that was on its way."""
        node = self.nodes[number]
        if node.sent:
            self.listening[node.name] = self.now_s
            self.channel.append(node.sent.pop(0))

    def deliver(self, number: int, messages: int = 1) -> None:
        node = self.nodes[number]
        if node.next is not None and not node.confirmed:
            at_once(node.subscriber.take("subscribe", b""))
            node.confirmed = True
        for _ in range(messages):
            if node.next is None or node.next == len(self.channel):
                return
            message = self.channel[node.next]
            node.next += 1
            at_once(node.subscriber.take("message", b"%d " % node.next + render_message(SEALS, message)))
            if isinstance(message, Invalidation):
                self.writes[int(message.write_id)].waiting.discard(node.name)

    def connection_breaks(self, number: int) -> None:
        node = self.nodes[number]
        node.next, node.confirmed = None, False

    def subscribe(self, number: int) -> None:
        node = self.nodes[number]
        if node.next is None:
            node.next = len(self.channel)

    def redis_restarts_empty(self) -> None:
        for number in range(NODES):
            self.connection_breaks(number)
        self.listening.clear()
        self.redis_since_s = self.now_s

    def write(self, number: int) -> None:
        """The origin takes it, the fleet is told; the writer's own fence stands until it returns."""
        self.version += 1
        writer = self.nodes[number]
        alive = {name for name, at_s in self.listening.items() if self.now_s - at_s <= LISTENING_S}
        others = {node.name for node in self.nodes if node is not writer}
        write = ModelWrite(self.version, writer.name, self.now_s, alive & others, others - alive)
        write.complete = self.now_s - self.redis_since_s > FRESHNESS_S + DRIFT_S
        if not write.complete:
            write.unwaited = set()
        self.channel.append(Invalidation(str(len(self.writes)), writer.name, (KEY,), "reply"))
        self.writes.append(write)

    def read(self, number: int) -> None:
        node = self.nodes[number]
        if not self.serves(node) and not self.fenced(node):
            node.record = self.version, self.now_s

    def recover(self, number: int) -> None:
        """All that a node does to have a freshness window."""
        self.subscribe(number)
        self.deliver(number, 1000)
        self.beat(number)
        while self.nodes[number].sent:
            self.pass_beat(number)
        self.deliver(number, 1000)

    def serves(self, node: ModelNode) -> bool:
        """Whether a read now is answered by what the node remembers."""
        return node.record is not None and not self.fenced(node) and node.freshness.covers(node.record[1], self.now_s)

    def fenced(self, node: ModelNode) -> bool:
        return any(write.returned_s is None and write.writer == node.name for write in self.writes)

    def check(self) -> None:
        """Writes return as soon as they may, and no memory that a node would serve is older."""
        for write in self.writes:
            over = self.now_s >= write.published_s + FRESHNESS_S + DRIFT_S
            if write.returned_s is None and (over or (write.complete and not write.waiting)):
                write.returned_s = self.now_s
                self.nodes[int(write.writer)].record = None
        for node in self.nodes:
            if self.serves(node):
                assert node.record is not None
                assert node.record[0] >= self.least(node)

    def least(self, node: ModelNode) -> int:
        """The version of the last write that a reader of this node may count on.

        A node that had been without Redis for LISTENING_S when it was written may be late by a freshness window.
        """
        return max(
            (
                write.version
                for write in self.writes
                if write.returned_s is not None
                and write.returned_s + (FRESHNESS_S if node.name in write.unwaited else 0.0) <= self.now_s
            ),
            default=0,
        )

    def close(self) -> None:
        for node in self.nodes:
            node.fleet_state.close()


ONE_NODE = {"beat": 2, "pass_beat": 2, "deliver": 3, "connection_breaks": 2, "subscribe": 1, "recover": 2}
ONE_NODE |= {"write": 2, "read": 3}
STEPS: list[tuple[str, float | None]] = [
    (name, number) for name, weight in ONE_NODE.items() for number in range(NODES) for _ in range(weight)
]
# Exact in binary: of two times a lease apart, no rounding makes one that is not over yet.
PAUSES = (0.0625, 0.0625, 0.3125, 0.3125, 1.0, 1.0, 2.875, 3.125, 3.3125, 3.3125, 11.0)
STEPS += [("time_passes", seconds) for seconds in PAUSES]
STEPS += [("redis_restarts_empty", None)]


@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(st.sampled_from(STEPS), min_size=40, max_size=60))
def test_no_read_gives_less_than_a_write_that_has_returned(steps: list[tuple[str, float | None]]) -> None:
    fleet = Fleet()
    try:
        fleet.everybody_listens()
        for name, argument in steps:
            getattr(fleet, name)(*([] if argument is None else [argument]))
            fleet.check()
    finally:
        fleet.close()
