"""Hot reads of many objects, side by side with nginx on the plain files: 10,000 of 64 KiB, each read whole.

`uniform` draws every object as often as any other; `zipf` the n-th most popular one 1/n as often as the first. The
draws are made before the run, 40,000 of them, and are the same on both sides. nginx may keep all files open.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from urllib.parse import urlsplit

from bench import Row
from bench.hits import Hits, compare
from bench.rounds import QUICK_ROUNDS, ROUNDS
from bench.sides import BUCKET, Side, nginx_side, warmstart_side
from bench.wrk import Request

QUESTION = "How fast are hot reads of 10,000 different objects of 64 KiB, next to nginx on the plain files?"

OBJECTS = 10_000
OBJECT_BYTES = 64 << 10
DRAWS = 40_000
FOLDER_OBJECTS = 100  # in each folder, as a data set has them
SECONDS = 2.0


def measure(quick: bool) -> list[Row]:
    rounds = QUICK_ROUNDS if quick else ROUNDS
    with tempfile.TemporaryDirectory(prefix="warmstart-bench-") as name, _opened(Path(name)) as sides:
        rows: list[Row] = []
        for connections in (8,) if quick else (1, 8, 64):
            for popularity in ("uniform", "zipf"):
                label: Row = {"objects": OBJECTS, "popularity": popularity, "connections": connections}
                hits = Hits(draw(popularity), OBJECT_BYTES, connections, SECONDS)
                rows += compare(label, hits, sides, rounds, Path(name))
        return rows


def draw(popularity: str, seed: int = 1) -> list[Request]:
    """The popular objects lie anywhere among the others."""
    source, names = random.Random(seed), list(range(OBJECTS))
    source.shuffle(names)
    weights = [1.0] * OBJECTS if popularity == "uniform" else [1 / (rank + 1) for rank in range(OBJECTS)]
    drawn = source.choices(names, cum_weights=list(accumulate(weights)), k=DRAWS)
    return [(_path(number), "") for number in drawn]


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[Sequence[Side]]:
    root = folder / "root"
    digests = {_path(number): _make(root, _path(number)) for number in range(OBJECTS)}
    with warmstart_side(folder / "warmstart", root) as mine, nginx_side(folder / "nginx", root) as theirs:
        for side in (mine, theirs):
            _warm(side, digests)
        yield mine, theirs


def _path(number: int) -> str:
    return f"/{BUCKET}/{number // FOLDER_OBJECTS:03}/{number:05}"


def _make(root: Path, path: str) -> bytes:
    file = root / path[1:]
    file.parent.mkdir(parents=True, exist_ok=True)
    data = os.urandom(OBJECT_BYTES)
    file.write_bytes(data)
    return hashlib.sha256(data).digest()


def _warm(side: Side, digests: dict[str, bytes]) -> None:
    """Reads every object twice, and compares what comes the second time, from the cache."""
    place = urlsplit(side.url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
    with contextlib.closing(connection):
        for checked in (False, True):
            for path, digest in digests.items():
                connection.request("GET", path)
                answer = connection.getresponse()
                data = answer.read()
                if answer.status != http.HTTPStatus.OK:
                    raise RuntimeError(f"{side.name} answered {answer.status} for {path}: {data[:200]!r}")
                if checked and hashlib.sha256(data).digest() != digest:
                    raise RuntimeError(f"{side.name} serves other bytes than {path} has")
