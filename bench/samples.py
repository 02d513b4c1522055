"""Where a running worker is: stacks taken by py-spy, counted by layer and by function.

How it works. py-spy looks at the process some hundred times a second and writes each stack it found, from the root to
the leaf, Python's frames among the native ones. It runs on the worker's own core: the load keeps the other one, so the
worker never waits for a load that the sampler slows down. A sample belongs
1. to the kernel, where its leaf is a system call, named with the function that made it;
2. else to the frame next to the leaf that says something: a Python function, also for the interpreter's C below it, or
   uvloop, httptools and other extensions by their names. What a dataclass generates belongs to its caller.
Threads that wait for work are left out.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.processes import SERVER_CORES, join_bench, program

INSTALL = "pip install py-spy"
RATE_HZ = 250
_FRAME = re.compile(r"^(?P<name>.*) \((?P<file>[^()]*?)(?::\d+)?\)$")
_SYSTEM_CALL = re.compile(
    r"accept4?|cachestat|close|dup[23]?|epoll_\w+|f?a?dvise\w*|fallocate\w*|fcntl\w*|fdatasync|fsync|fstat\w*|ftruncate\w*"
    r"|getpid|ioctl|link|lseek\w*|madvise|mmap\w*|mremap|munmap|open\w*|posix_f\w+|p?readv?(64)?|preadv\w*|p?writev?(64)?"
    r"|recv\w*|rename|send\w*|shutdown|splice|stat\w*|sync_file_range|syscall|unlink"
)
_EXTENSIONS = (
    ("uvloop", re.compile(r"^(loop|linux|core|stream|timer|udp|tcp|poll|epoll|handle|async)\.(c|pyx)$|uvloop|libuv")),
    ("httptools", re.compile(r"^(parser|url_parser|llhttp|api|http)\.(c|pyx)$|httptools")),
    ("awscrt", re.compile(r"awscrt|crc|checksums")),
    ("OpenSSL", re.compile(r"libssl|libcrypto|_ssl")),
)


@dataclass(frozen=True, slots=True)
class CodePosition:
    """`layer`: the kernel, a package of ours, or a library."""

    layer: str
    where: str


WAITING = CodePosition("kernel", "epoll_pwait in uvloop")


@contextmanager
def sampled(pid: int, seconds: int, into: Path) -> Iterator[subprocess.Popen[str]]:
    """Samples while the block runs; it must wait for the process to end, and may then read `into`."""
    command = [program("py-spy", INSTALL), "record", "--native", "--format", "raw", "--rate", str(RATE_HZ)]
    command += ["--duration", str(seconds), "--pid", str(pid), "--output", str(into)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=partial(join_bench, SERVER_CORES),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_positions(text: str) -> Counter[CodePosition]:
    """Of `text` in py-spy's raw format: a line for each stack, `frame;frame;... count`."""
    found: Counter[CodePosition] = Counter()
    for line in text.splitlines():
        stack, _, count = line.rpartition(" ")
        position = find_position(stack.split(";"))
        if position is not None:
            found[position] += int(count)
    return found


def by_layer(positions: Counter[CodePosition]) -> Counter[str]:
    found: Counter[str] = Counter()
    for position, count in positions.items():
        found[position.layer] += count
    return found


def find_position(stack: Iterable[str]) -> CodePosition | None:
    """None: a thread that waits for work."""
    frames = [(match["name"], match["file"]) if (match := _FRAME.match(frame)) else (frame, "") for frame in stack]
    if not frames or any(name.startswith(("PyThread_acquire_lock", "lock_PyThread")) for name, _ in frames[-6:]):
        return None
    name, file = frames[-1]
    owner = next(
        (position for frame in reversed(frames) if (position := _owner(*frame)) is not None),
        CodePosition("python", name),
    )
    if file.startswith("libc") and _SYSTEM_CALL.fullmatch(name):
        return CodePosition("kernel", f"{name} in {owner.where}")
    return owner


def _owner(name: str, file: str) -> CodePosition | None:
    """None: a frame that only works for another."""
    if file.endswith(".py"):
        path = Path(file)
        parts = path.with_suffix("").parts
        if parts[0] in ("proxy", "s3api", "gcsapi"):
            return CodePosition("/".join(parts[: 2 if len(parts) > 2 else 1]), f"{name} ({'/'.join(parts)})")
        return CodePosition(parts[0], f"{name} ({file})")
    for library, pattern in _EXTENSIONS:
        if pattern.search(file):
            return CodePosition(library, library)
    return None
