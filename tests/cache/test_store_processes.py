"""Several real processes on one disk: races, kill -9, take-over."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from proxy.cache import mapfile
from proxy.cache.block import Block
from proxy.cache.blockmap import BlockKind
from proxy.cache.store import Store
from proxy.objects import ObjectVersion
from tests.cache.nodes import BLOCK_BYTES, KIB, Node, block_content, content, files, make_version, read_block

TIMEOUT_S = 60.0

FILL_AND_STOP = """
version = make_version({name!r}, {size})
block = store.open_block(version, {index}, create=True)
writer = block.reserve({start})
data = block_content(version, {index})
data = memoryview(data[{start}:] + data[:{start}])
say("reserved")
while writer.progress < {progress}:
    writer.write(data[writer.progress : min(writer.progress + {step}, {progress})])
    {each}
say("written")
sys.stdin.readline()
if writer.progress == writer.length:
    writer.commit()
    say("committed")
sys.stdin.readline()
"""


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str], text: str = "") -> None:
    assert process.stdin is not None
    process.stdin.write(text + "\n")
    process.stdin.flush()


@contextmanager
def running(node: Node, script: str) -> Iterator[subprocess.Popen[str]]:
    process = node.spawn(script)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def filling(
    name: str, index: int, progress: int, *, start: int = 0, step: int = 10_000, size: int = 0, each: str = ""
) -> str:
    size = size or make_version().size_bytes
    return FILL_AND_STOP.format(
        name=name, index=index, progress=progress, start=start, step=step, size=size, each=each or "pass"
    )


def opened(store: Store, version: ObjectVersion, index: int) -> Block:
    block = store.open_block(version, index, create=True)
    assert block is not None
    return block


def finish(block: Block, version: ObjectVersion) -> tuple[int, int]:
    """Take the block's fill over and bring it to its end; where it went on."""
    writer = block.reserve()
    assert writer is not None
    found = (writer.start, writer.progress)
    if writer.needs_read_back:
        writer.read_back()
    data = block_content(version, block.index)
    data = data[writer.start :] + data[: writer.start]
    writer.write(memoryview(data)[writer.progress :])
    writer.commit()
    return found


def wait_until_free(block: Block) -> None:
    """A killed process's locks go with its descriptors, a moment after its parent has heard of its end."""
    deadline = time.monotonic() + TIMEOUT_S
    while (writer := block.reserve()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    writer.leave()


def test_a_block_that_another_process_fills_is_followed_until_it_is_present(node: Node) -> None:
    version = make_version()
    with running(node, filling("model", 0, BLOCK_BYTES)) as process:
        assert line(process) == "reserved"
        store = node.store()
        block = opened(store, version, 0)
        assert block.reserve() is None
        assert line(process) == "written"
        assert (block.state().kind, block.state().progress) == (BlockKind.FILLING, BLOCK_BYTES)
        assert block.reserve() is None
        tell(process)
        assert line(process) == "committed"
        assert block.state().verified, "one run: no second check"
        assert read_block(store, block) == content(version, 0, BLOCK_BYTES)


@pytest.mark.parametrize(("start", "progress"), [(0, 100_001), (64 * KIB, 10), (128 * KIB, 200_000), (0, 0)])
def test_a_killed_fill_is_taken_over_where_it_stood(node: Node, start: int, progress: int) -> None:
    version = make_version()
    with running(node, filling("model", 1, progress, start=start)) as process:
        assert [line(process), line(process)] == ["reserved", "written"]
        store = node.store()
        block = opened(store, version, 1)
        assert block.reserve() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert block.state().kind is BlockKind.FILLING, "the word is a hint"
        wait_until_free(block)
        assert finish(block, version) == ((start, progress) if progress else (0, 0))
        assert read_block(store, block) == block_content(version, 1)
    node.restart()
    assert opened(node.store(), version, 1).verify()


def test_fills_killed_at_random_moments_always_end_in_the_right_bytes(node: Node) -> None:
    version, source = make_version(), random.Random(3)
    for index in range(4):
        start = source.choice([0, 64 * KIB, 192 * KIB])
        script = filling("model", index, BLOCK_BYTES, start=start, step=37, each="say('moved')")
        with running(node, script) as process:
            for _ in range(source.randrange(1, 400)):
                line(process)
            process.send_signal(signal.SIGKILL)
            process.wait()
        block = opened(node.store(), version, index)
        wait_until_free(block)
        finish(block, version)
        assert block.state().verified
    node.restart()
    store = node.store()
    for index in range(4):
        block = opened(store, version, index)
        assert block.verify()
        assert read_block(store, block) == block_content(version, index)


def test_a_fill_killed_with_the_whole_run_starts_anew(node: Node) -> None:
    version = make_version()
    with running(node, filling("model", 0, 100_000)) as process:
        assert [line(process), line(process)] == ["reserved", "written"]
    node.restart()
    block = opened(node.store(), version, 0)
    assert block.state().kind is BlockKind.ABSENT
    assert finish(block, version) == (0, 0)


RACE = """
version = make_version("race", 5 * BLOCK_BYTES)
say("ready")
sys.stdin.readline()
filled = 0
for index in (0, 4, 1, 2, 3):
    block = store.open_block(version, index, create=True)
    while not block.state().verified:
        writer = block.reserve()
        if writer is not None:
            data = memoryview(block_content(version, index))
            for place in range(0, len(data), 5000):
                writer.write(data[place : place + 5000])
            writer.commit()
            filled += 1
    assert read_block(store, block) == block_content(version, index)
say(filled)
"""


def test_processes_that_race_for_one_object_make_one_segment_and_fill_each_block_once(node: Node) -> None:
    processes = [node.spawn(RACE) for _ in range(4)]
    try:
        assert [line(process) for process in processes] == ["ready"] * 4
        for process in processes:
            tell(process)
        counts = [int(line(process)) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert sum(counts) == 5
    assert len(files(node, ".map")) == len(files(node, ".data")) == 2
    assert not files(node, ".tmp")


RESERVE_UNTIL_TOLD = """
import threading
from proxy.errors import StoreUnavailable
version = make_version("contended", BLOCK_BYTES)
data = memoryview(block_content(version, 0))
told = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), told.set()), daemon=True).start()
fills = 0
say("ready")
while not told.is_set():
    try:
        block = store.open_block(version, 0, create=True)
    except StoreUnavailable:  # evicted as often as it was made
        continue
    if block.state().verified:
        assert read_block(store, block) == data, "wrong bytes"
        continue
    writer = block.reserve()
    if writer is None:
        continue
    assert not writer.needs_read_back
    for place in range(0, len(data), 100_000):
        writer.write(data[place : place + 100_000])
    writer.commit()
    assert read_block(store, block) == data
    fills += 1
say(fills)
"""


def test_eviction_that_races_with_fills_never_loses_a_fill_or_serves_a_hole(node: Node) -> None:
    processes = [node.spawn(RESERVE_UNTIL_TOLD) for _ in range(2)]
    retired, deadline = 0, time.monotonic() + TIMEOUT_S
    try:
        assert [line(process) for process in processes] == ["ready"] * 2
        while retired < 100 and time.monotonic() < deadline:
            for path in files(node, ".map"):
                facts = mapfile.read_map(path)
                if facts is not None:
                    retired += bool(mapfile.retire(path, facts.header.nonce, "space"))
        for process in processes:
            tell(process)
        fills = [int(line(process)) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert retired >= 1
    assert sum(fills) >= 1
    # What the last eviction left: nothing, or one whole segment.
    assert len(files(node, ".map")) == len(files(node, ".data")) <= 1


def test_a_segment_evicted_by_another_process_is_seen_at_once(node: Node) -> None:
    script = filling("model", 0, BLOCK_BYTES)
    with running(node, script) as process:
        assert [line(process), line(process)] == ["reserved", "written"]
        tell(process)
        assert line(process) == "committed"
        store = node.store()
        block = opened(store, make_version(), 0)
        evict = f"say(mapfile.retire(Path({str(files(node, '.map')[0])!r}), None, 'space'))"
        with running(node, "from proxy.cache import mapfile\n" + evict) as evictor:
            assert int(line(evictor)) > BLOCK_BYTES
        assert block.retired
        assert store.peek_block(make_version(), 0) is None
