"""Hot reads over TLS, side by side with nginx: the same certificate, TLS 1.3, the same cipher.

As `hot`, but wrk speaks https. Neither side can hand encryption to the kernel here: both encrypt in the process.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import Row
from bench.hits import Hits, compare
from bench.hot import OBJECT_BYTES, PATH, ranges_of, render_size
from bench.rounds import QUICK_ROUNDS, ROUNDS
from bench.sides import BUCKET, Side, make_object, nginx_side, read_cipher, warm, warmstart_side
from tests.fakes.certificates import make_certificates

QUESTION = "How fast are hot reads over TLS, next to nginx with TLS?"

QUICK_SIZES = (4 << 10, 64 << 10, 1 << 20, 8 << 20)
SIZES = (4 << 10, 64 << 10, 256 << 10, 1 << 20, 8 << 20)
SPREAD_SIZES = (64 << 10, 1 << 20)  # with one and with 64 connections as well
SECONDS = 1.0


def measure(quick: bool) -> list[Row]:
    rounds = QUICK_ROUNDS if quick else ROUNDS
    with tempfile.TemporaryDirectory(prefix="warmstart-bench-") as name, _opened(Path(name)) as sides:
        rows: list[Row] = []
        for size_bytes, connections in cases(quick):
            label: Row = {"size": f"{render_size(size_bytes)}, TLS", "connections": connections}
            hits = Hits(ranges_of(size_bytes), size_bytes, connections, SECONDS)
            rows += compare(label, hits, sides, rounds, Path(name))
        return rows


def cases(quick: bool) -> list[tuple[int, int]]:
    """Pairs of range size and connections."""
    if quick:
        return [(size, 8) for size in QUICK_SIZES]
    return [(size, 8) for size in SIZES] + [(size, count) for size in SPREAD_SIZES for count in (1, 64)]


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[Sequence[Side]]:
    root, certificates = folder / "root", make_certificates(folder)
    files = (certificates.server_file, certificates.key_file)
    digest = make_object(root / BUCKET / "object", OBJECT_BYTES)
    with (
        warmstart_side(folder / "warmstart", root, certificate=files) as mine,
        nginx_side(folder / "nginx", root, certificate=files) as theirs,
    ):
        ciphers = {side.name: read_cipher(side.url) for side in (mine, theirs)}
        if len(set(ciphers.values())) > 1:
            raise RuntimeError(f"the sides would not be compared with the same cipher: {ciphers}")
        for side in (mine, theirs):
            warm(side, PATH, digest)
        yield mine, theirs
