"""A fleet to which everything happens: each read is right or fails, each block comes once, and nothing stays behind."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from proxy.errors import WarmstartError
from proxy.objects import SumKind
from proxy.peering import blocks as blocks_module
from proxy.relay import relay as relay_module
from tests.gateway.engine import BLOCK_BYTES, body_bytes
from tests.peering.simulated_fleet import Faults, SimulatedFleet, SimulatedWorker, start_simulated_fleet

CONTENT = random.Random(7).randbytes(9 * BLOCK_BYTES + 12_345)


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks_module, "PATIENCE_S", 0.1)
    monkeypatch.setattr(relay_module, "HOLDER_PAUSE_S", 0.01)
    monkeypatch.setattr(relay_module, "HOLDER_PATIENCE_S", 0.5)


async def read(worker: SimulatedWorker, key: str, first: int = 0, last: int | None = None) -> bytes | None:
    """The bytes, or None where the read failed and said so."""
    try:
        answer = await worker.engine.read(key, first, last)
        async with asyncio.timeout(60):
            got = await body_bytes(answer)
    except WarmstartError:
        return None
    assert len(got) == answer.length
    return got


async def load(worker: SimulatedWorker, key: str) -> None:
    assert await read(worker, key) == CONTENT


@pytest.mark.parametrize("workers", [1, 2])
async def test_each_block_leaves_the_origin_once_for_all_that_load_at_once(tmp_path: Path, workers: int) -> None:
    async with start_simulated_fleet(tmp_path, 6 // workers, workers=workers) as fleet:
        fleet.origin.put("k", CONTENT)
        await asyncio.gather(*(load(worker, "k") for worker in fleet.workers for _ in range(2)))
        assert sum(span.length for span in fleet.origin.reads) == len(CONTENT)
        await fleet.quiet()
        assert all('"done":true' in text for text in fleet.redis.keys.values())


async def test_nodes_that_know_different_members_still_ask_the_origin_once(tmp_path: Path) -> None:
    async with start_simulated_fleet(tmp_path, 6) as fleet:
        fleet.origin.put("k", CONTENT)
        for number, node in enumerate(fleet.nodes.values()):
            node.know([each for each in fleet.members if hash_of(each.node_id, number) or each.node_id == node.node_id])
        await asyncio.gather(*(load(worker, "k") for worker in fleet.workers))
        assert sum(span.length for span in fleet.origin.reads) == len(CONTENT)


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_no_read_is_wrong(tmp_path: Path, seed: int) -> None:
    await live_through(tmp_path, seed, rounds=1)


@pytest.mark.long
@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("seed", range(100, 160))
async def test_whatever_happens_for_longer_no_read_is_wrong(tmp_path: Path, seed: int) -> None:
    await live_through(tmp_path, seed, rounds=3)


async def live_through(tmp_path: Path, seed: int, rounds: int) -> None:
    chance = random.Random(seed)
    faults = Faults(
        seed,
        ask_fails=chance.choice([0, 0.05, 0.3]),
        body_breaks=chance.choice([0, 0.1, 0.4]),
        body_lies=chance.choice([0.05, 0.2]),
        tail_is_lost=chance.choice([0, 0.1, 0.5]),
        origin_breaks=chance.choice([0, 0.02]),
    )
    async with start_simulated_fleet(tmp_path, chance.randint(2, 6), faults, workers=chance.choice([1, 2])) as fleet:
        for number in range(rounds):
            sums = (chance.choice([SumKind.CRC32C, SumKind.CRC64NVME]),) if chance.random() < 0.5 else ()
            fleet.origin.put(f"k{number}", CONTENT, sums=sums)
        await asyncio.gather(
            *(live(worker, f"k{number}", chance) for worker in fleet.workers for number in range(rounds)),
            upset(fleet, chance),
        )
        faults.end()
        await fleet.quiet()
        for number in range(rounds):
            for worker in fleet.workers:
                assert await read_at_last(worker, f"k{number}") == CONTENT
        await fleet.quiet()


async def read_at_last(worker: SimulatedWorker, key: str) -> bytes | None:
    """A read may still come upon wrong bytes that fills left which ended: each block of them fails it once."""
    for _ in range(-(-len(CONTENT) // BLOCK_BYTES)):
        got = await read(worker, key)
        if got is not None:
            return got
    return await read(worker, key)


async def live(worker: SimulatedWorker, key: str, chance: random.Random) -> None:
    """A worker's readers: whole objects and ranges; some go away in the middle."""
    for _ in range(6):
        first = chance.choice([0, chance.randrange(len(CONTENT))])
        last = min(len(CONTENT) - 1, first + chance.choice([7, 50_000, 300_000, len(CONTENT)]))
        reading = asyncio.ensure_future(read(worker, key, first, last))
        if chance.random() < 0.2:
            for _ in range(chance.randrange(200)):
                await asyncio.sleep(0)
            reading.cancel()
            await asyncio.wait({reading})
        else:
            got = await reading
            assert got is None or got == CONTENT[first : last + 1], f"wrong bytes in [{first}, {last}]"


async def upset(fleet: SimulatedFleet, chance: random.Random) -> None:
    """What happens to nodes meanwhile: caches are emptied, fills end, members come and go, Redis forgets or is away."""
    for _ in range(8):
        await asyncio.sleep(0.02)
        node = chance.choice(list(fleet.nodes.values()))
        match chance.randrange(5):
            case 0:
                record, _ = chance.choice(list(fleet.origin.objects.values()))
                await asyncio.to_thread(chance.choice(node.workers).engine.store.discard, record.version)
            case 1:
                node.know([each for each in fleet.members if chance.random() < 0.7 or each.node_id == node.node_id])
            case 2:
                fleet.redis.keys.clear()
            case 3:  # as when a worker dies: what its fills have written is left to others
                chance.choice(node.workers).break_off()
            case 4:
                fleet.redis.error = None if fleet.redis.error else OSError("no route")
    fleet.redis.error = None
    for node in fleet.nodes.values():
        node.know(fleet.members)


def hash_of(node_id: str, number: int) -> bool:
    return random.Random(f"{node_id} {number}").random() < 0.6
