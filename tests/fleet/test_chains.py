"""Relay chains: whom the owner of a block names, and that nobody ever waits for itself."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.fleet.chains import HEAD_CHILDREN, HEAD_EVERY, OWNER_ENDS, SLOW_DEPTH, UPLOAD_WEIGHT, Chain, is_head
from proxy.fleet.owners import hash_name

OWNER = 0
NODES = range(1, 11)


def idle(_: int) -> int:
    return 0


def depths(sources: dict[int, int]) -> dict[int, int]:
    """Relays between each node and the owner; a node that waits for itself never gets there."""
    found = {}
    for node in sources:
        depth, at = 0, node
        while at != OWNER:
            depth, at = depth + 1, sources[at]
            assert depth <= len(sources), f"{node} waits for itself"
        found[node] = depth
    return found


@dataclass
class Fleet:
    """One block's readers as its owner sees them: who reads from whom, who has it all, who has died."""

    chain: Chain[int] = field(default_factory=lambda: Chain(OWNER))
    sources: dict[int, int] = field(default_factory=dict)
    asked: list[int] = field(default_factory=list)
    whole: set[int] = field(default_factory=set)
    dead: set[int] = field(default_factory=set)
    tried: dict[int, set[int]] = field(default_factory=dict)

    def ask(self, node: int, uploads: Callable[[int], int], head: bool, slow: bool) -> None:
        """For the first time or again: its process may have begun anew."""
        if node in self.dead or node in self.whole:
            return
        source = self.chain.attach(node, uploads, head=head, slow=slow)
        assert source == OWNER or source in self.asked, "a source asked earlier, or is the owner"
        assert source != node
        self.sources[node] = source
        self.asked.append(node)
        if source in self.dead:  # the owner has not heard of it
            self.fail(node, source)

    def fill(self, node: int) -> None:
        """It has the block, where its source has."""
        if node in self.sources and (self.sources[node] == OWNER or self.sources[node] in self.whole):
            self.whole.add(node)

    def die(self, node: int) -> None:
        self.dead.add(node)
        self.sources.pop(node, None)
        for reader in [reader for reader, source in self.sources.items() if source == node]:
            self.fail(reader, node)

    def fail(self, reader: int, source: int) -> None:
        """Its source is gone."""
        tried = self.tried.setdefault(reader, set())
        tried.add(source)
        found = self.chain.reattach(reader, tried, lambda each: each in self.whole and each not in self.dead)
        assert found == OWNER, "while the owner has not failed, it is named"
        self.sources[reader] = found

    def accuse(self, reader: int) -> None:
        """It gives its source up, which lives on."""
        if self.sources.get(reader, OWNER) != OWNER and reader not in self.whole:
            self.fail(reader, self.sources[reader])

    def check(self) -> None:
        depths({node: OWNER if node in self.whole else source for node, source in self.sources.items()})


ACTIONS = ("ask", "ask", "ask", "accuse", "accuse", "fill", "die")


@settings(max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.sampled_from(NODES), st.booleans(), st.booleans()), max_size=80))
def test_no_node_ever_waits_for_itself_whatever_asks_fails_and_dies(taken: list[tuple[str, int, bool, bool]]) -> None:
    live_through(taken)


def test_no_node_waits_for_itself_in_thousands_of_lives() -> None:
    chance = random.Random(1)
    for _ in range(4000):
        live_through(
            (chance.choice(ACTIONS), chance.choice(NODES), chance.random() < 0.5, chance.random() < 0.3)
            for _ in range(50)
        )


def live_through(steps: Iterable[tuple[str, int, bool, bool]]) -> None:
    """Each step: what, by whom, whether it is a head, whether it is busy; every third node is slow."""
    fleet, uploads = Fleet(), {OWNER: 20}
    for action, node, head, busy in steps:
        uploads[node] = 40 if busy else 0
        if action == "ask":
            fleet.ask(node, lambda each: uploads.get(each, 0), head, slow=node % 3 == 0)
        elif action == "accuse":
            fleet.accuse(node)
        elif action == "fill":
            fleet.fill(node)
        else:
            fleet.die(node)
        fleet.check()


@given(st.permutations(list(NODES)), st.sets(st.sampled_from(NODES)), st.sets(st.sampled_from(NODES)))
def test_slow_nodes_are_nobodys_source(order: list[int], heads: set[int], slow: set[int]) -> None:
    chain = Chain(OWNER)
    sources = {node: chain.attach(node, idle, head=node in heads, slow=node in slow) for node in order}
    assert not slow & set(sources.values())


@given(st.permutations(list(NODES)), st.sets(st.sampled_from(NODES)), st.sets(st.sampled_from(NODES), max_size=6))
def test_a_node_that_was_dropped_is_named_no_more(order: list[int], heads: set[int], dropped: set[int]) -> None:
    chain = Chain(OWNER)
    first, then = order[:6], order[6:]
    for node in first:
        chain.attach(node, idle, head=node in heads)
    for node in dropped:
        chain.drop(node)
    assert not (dropped - set(then)) & {
        chain.attach(node, idle, head=node in heads) for node in then if node not in dropped
    }


@given(st.permutations(list(NODES)), st.sets(st.sampled_from(NODES)))
def test_nobody_feeds_more_than_its_place_allows(order: list[int], heads: set[int]) -> None:
    chain = Chain(OWNER)
    fed = Counter(chain.attach(node, idle, head=node in heads) for node in order)
    assert fed[OWNER] <= OWNER_ENDS + HEAD_CHILDREN
    assert all(fed[node] <= (1 + HEAD_CHILDREN if node in heads else 1) for node in NODES)


def test_the_first_askers_read_from_the_owner_and_the_next_ones_from_them() -> None:
    chain = Chain(OWNER)
    assert [chain.attach(node, idle) for node in (1, 2, 3, 4)] == [OWNER, OWNER, 1, 2]


def test_an_end_that_serves_much_is_left_alone_until_the_others_are_deep() -> None:
    chain = Chain(OWNER)
    busy = {1: 3}
    for node in (1, 2):
        chain.attach(node, idle)
    sources = [chain.attach(node, lambda each: busy.get(each, 0)) for node in range(3, 30)]
    assert sources[: 3 * UPLOAD_WEIGHT] == [2, *range(3, 2 + 3 * UPLOAD_WEIGHT)]
    assert 1 in sources


def test_a_slow_asker_makes_its_sources_end_count_deeper() -> None:
    chain = Chain(OWNER)
    chain.attach(1, idle)
    chain.attach(2, idle)
    assert chain.attach(3, idle, slow=True) == 1
    sources = [chain.attach(node, idle) for node in range(4, 4 + SLOW_DEPTH)]
    assert 1 not in sources


def test_a_node_that_was_dropped_and_asks_anew_stands_behind_nobody_who_may_wait_for_it() -> None:
    chain = Chain(OWNER)
    assert [chain.attach(node, idle, head=True) for node in (1, 2, 3, 4)] == [OWNER, OWNER, 1, 1]
    assert chain.reattach(3, {1}, lambda node: False) == OWNER
    busy = {OWNER: 10, 2: 10, 3: 10}
    assert chain.attach(1, lambda node: busy.get(node, 0)) == OWNER, "4 still waits for 1"


def test_a_node_that_asks_again_is_sent_to_the_owner() -> None:
    chain = Chain(OWNER)
    for node in (1, 2, 3):
        chain.attach(node, idle)
    assert chain.attach(1, idle) == OWNER
    assert chain.attach(OWNER, idle) == OWNER


def test_whoever_lost_the_owner_too_gets_one_that_has_the_whole_block_or_nobody() -> None:
    chain = Chain(OWNER)
    for node in (1, 2, 3):
        chain.attach(node, idle)
    assert chain.reattach(3, {1, OWNER}, lambda node: node == 2) == 2
    assert chain.reattach(3, {1, OWNER}, lambda node: node == 3) is None
    assert chain.reattach(3, {1, 2, OWNER}, lambda node: True) is None
    chain.attach(4, idle, slow=True)
    assert chain.reattach(3, {1, 2, OWNER}, lambda node: True) is None, "a slow node is nobody's source"


def test_about_one_node_in_thirty_two_is_a_head_of_a_block() -> None:
    hashes = [hash_name(f"{number:032x}") for number in range(400)]
    namespaces = random.Random(1)
    heads = [sum(is_head(each, place) for each in hashes) for place in (namespaces.getrandbits(64) for _ in range(50))]
    assert 0.8 < sum(heads) / 50 / (400 / HEAD_EVERY) < 1.2
    assert max(heads) < 4 * 400 / HEAD_EVERY


def test_heads_keep_the_chains_of_many_nodes_short() -> None:
    hashes = {node: hash_name(f"{node:032x}") for node in range(1, 2001)}

    def longest(heads: bool) -> int:
        chain = Chain(OWNER)
        sources = {node: chain.attach(node, idle, head=heads and is_head(hashes[node], 7)) for node in hashes}
        return max(depths(sources).values())

    assert longest(heads=False) == 1000
    assert longest(heads=True) < 100
