"""What a sampler's stacks are counted as: by layer, by function, by system call."""

from __future__ import annotations

import pytest

from bench.samples import CodePosition, by_layer, find_position, read_positions

ROOT = "run_worker (proxy/process/worker.py:59);Runner.run (asyncio/runners.py:118)"
LOOP = f"{ROOT};run_until_complete (loop.c:35410);uv__io_poll (linux.c:1452)"
RECEIVED = f"{LOOP};uv__read (stream.c:1063);ExpressProtocol.data_received (proxy/lanes/express.py:104)"


@pytest.mark.parametrize(
    ("stack", "place"),
    [
        (f"{LOOP};epoll_pwait (libc.so.6)", CodePosition("kernel", "epoll_pwait in uvloop")),
        (LOOP, CodePosition("uvloop", "uvloop")),
        (RECEIVED, CodePosition("proxy/lanes", "ExpressProtocol.data_received (proxy/lanes/express)")),
        (
            f"{RECEIVED};Py_DECREF (object.h:537)",
            CodePosition("proxy/lanes", "ExpressProtocol.data_received (proxy/lanes/express)"),
        ),
        (
            f"{RECEIVED};os_writev (libpython3.11.so.1.0);writev (libc.so.6)",
            CodePosition("kernel", "writev in ExpressProtocol.data_received (proxy/lanes/express)"),
        ),
        (f"{RECEIVED};HttpParser_feed_data (parser.c:7011)", CodePosition("httptools", "httptools")),
        (f"{RECEIVED};parse_range (proxy/ranges.py:68)", CodePosition("proxy", "parse_range (proxy/ranges)")),
        (
            f"{RECEIVED};parse_range (proxy/ranges.py:68);__create_fn__.<locals>.__init__ (<string>:3)",
            CodePosition("proxy", "parse_range (proxy/ranges)"),
        ),
        (
            f"{RECEIVED};malloc (libc.so.6)",
            CodePosition("proxy/lanes", "ExpressProtocol.data_received (proxy/lanes/express)"),
        ),
        (
            f"{RECEIVED};Cache.get (cachetools/__init__.py:133)",
            CodePosition("cachetools", "Cache.get (cachetools/__init__.py)"),
        ),
        (f"{RECEIVED};HotReads.answer (s3api/hot.py:95)", CodePosition("s3api", "HotReads.answer (s3api/hot)")),
    ],
)
def test_a_sample_belongs_to_the_system_call_or_to_the_function_that_says_something(
    stack: str, place: CodePosition
) -> None:
    assert find_position(stack.split(";")) == place


def test_a_thread_that_waits_for_work_does_not_count() -> None:
    waiting = "thread_run (libpython3.11.so.1.0);_worker (concurrent/futures/thread.py:81);PyThread_acquire_lock_timed"
    assert find_position(f"{waiting} (libpython3.11.so.1.0);0x7fdf003278ec (libc.so.6)".split(";")) is None


def test_samples_are_summed_over_stacks() -> None:
    namespaces = read_positions(f"{LOOP};epoll_pwait (libc.so.6) 7\n{LOOP} 2\n{LOOP};epoll_pwait (libc.so.6) 1\n")
    assert namespaces == {CodePosition("kernel", "epoll_pwait in uvloop"): 8, CodePosition("uvloop", "uvloop"): 2}
    assert by_layer(namespaces) == {"kernel": 8, "uvloop": 2}
