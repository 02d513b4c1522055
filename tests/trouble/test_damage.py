"""Files of the cache that something damaged: never a wrong byte, a wrong length, zeros, or a crash."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.gateways import GatewayProcess, overlay, start_gateway
from tests.trouble.slow_origin import BUCKET, CONFIG, assert_settled, make_objects, read_prefix, read_whole
from tests.waiting import wait_until

SIZE_BYTES = (1 << 20) + 100_000


@dataclass(frozen=True, slots=True)
class Files:
    data: Path
    map: Path
    key: Path


def flip(path: Path, seed: int = 3) -> None:
    """One bit in each of twenty places."""
    chance = random.Random(seed)
    content = bytearray(path.read_bytes())
    for _ in range(20):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def flip_one(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def garbage(path: Path) -> None:
    path.write_bytes(random.Random(4).randbytes(path.stat().st_size))


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def forbidden(path: Path) -> None:
    path.chmod(0)


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nonexistent/file")


DAMAGES: list[Callable[[Path], None]] = [
    flip, flip_one, garbage, zeros, cut, empty, longer, folder, forbidden, dangling, Path.unlink,
]  # fmt: skip


def fill(gateway: GatewayProcess, objects: dict[str, bytes]) -> dict[str, Files]:
    """Reads every object to its end; which files each one came to lie in."""
    seen: set[Path] = set()
    found = {}
    for key, content in objects.items():
        assert_settled(gateway, key, content)
        files = {path for path in (gateway.cache / "v1").rglob("*") if path.is_file()}
        new = files - seen
        found[key] = Files(
            data=next(path for path in new if path.suffix == ".data"),
            map=next(path for path in new if path.suffix == ".map"),
            key=next(path for path in new if "keys" in path.parts),
        )
        seen = files
    return found


def origin_of(tmp_path: Path) -> str:
    return f"file://{tmp_path / 'root'}"


@pytest.mark.parametrize("part", ["data", "map", "key"])
def test_damage_done_while_stopped_is_found_at_first_use_and_fetched_again(tmp_path: Path, part: str) -> None:
    objects = make_objects(tmp_path / "root", len(DAMAGES), SIZE_BYTES)
    with start_gateway(tmp_path, origin=origin_of(tmp_path), workers=2, config=CONFIG) as gateway:
        files = fill(gateway, objects)
    for damage, key in zip(DAMAGES, objects, strict=True):
        damage(getattr(files[key], part))
    unscrubbed = overlay(CONFIG, {"cache": {"scrub_rate": 0}})  # else the scrub may be faster than the first use
    with start_gateway(tmp_path, origin=origin_of(tmp_path), workers=2, config=unscrubbed) as gateway:
        for key, content in objects.items():
            got, whole = read_prefix(gateway, key)
            assert got == content, key
            assert whole
        for key, content in objects.items():
            assert_settled(gateway, key, content)
        assert gateway.metric("warmstart_worker_restarts_total") == 0
        if part == "data":
            assert gateway.metric("warmstart_checksum_failures_total", where="block") >= 3


def test_a_restart_finds_everything_it_had_and_asks_the_origin_for_no_byte(tmp_path: Path) -> None:
    objects = make_objects(tmp_path / "root", 3, SIZE_BYTES)
    with start_gateway(tmp_path, origin=origin_of(tmp_path), config=CONFIG) as gateway:
        fill(gateway, objects)
    with start_gateway(tmp_path, origin=origin_of(tmp_path), config=CONFIG) as gateway:
        for key, content in objects.items():
            answer = read_whole(gateway, key)
            assert answer.content == content
            assert answer.headers["x-cache"] == "HIT"
        assert gateway.metric("warmstart_fills_total") == 0


@pytest.mark.parametrize("damage", [cut, empty, Path.unlink])
def test_a_data_file_lost_under_a_running_gateway_never_yields_zeros_or_a_wrong_length(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    objects = make_objects(tmp_path / "root", 1, SIZE_BYTES)
    with start_gateway(tmp_path, origin=origin_of(tmp_path), workers=2, config=CONFIG) as gateway:
        files = fill(gateway, objects)
        (key, content) = next(iter(objects.items()))
        damage(files[key].data)
        for _ in range(10):
            got, whole = read_prefix(gateway, key)
            assert got == content[: len(got)]
            assert not whole or len(got) == len(content)
        assert_settled(gateway, key, content)
        assert gateway.metric("warmstart_worker_restarts_total") == 0


def test_bits_that_rot_under_a_running_gateway_are_found_by_the_scrub(tmp_path: Path) -> None:
    objects = make_objects(tmp_path / "root", 1, SIZE_BYTES)
    rule = {"cache": {"block_size": "256KiB", "scrub_rate": "500MB"}}
    with start_gateway(tmp_path, origin=origin_of(tmp_path), config=rule) as gateway:
        files = fill(gateway, objects)
        (key, content) = next(iter(objects.items()))
        with files[key].data.open("r+b") as file:
            file.seek(300_000)
            file.write(bytes([content[300_000] ^ 1]))
        wait_until(
            lambda: gateway.metric("warmstart_checksum_failures_total", where="scrub") > 0,
            "the scrub does not find the damage",
            timeout_s=120,
        )

        def right() -> bool:
            return httpx.get(f"{gateway.url}/{BUCKET}/{key}", trust_env=False).content == content

        wait_until(right, "the damaged block goes on being served")
