"""One gateway before moto and a directory, for all tests of the running surface."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateways import start_gateway
from tests.s3api.running_gateway import SEEDS, SUFFIX, RunningGateway
from tests.servers import start_moto


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    folder = tmp_path_factory.mktemp("surface")
    shelf = folder / "shelf"
    _fill_shelf(shelf / "weights")
    with start_moto() as moto:
        origin = moto.client()
        for bucket in ("real-models", "plain", "locked"):
            origin.create_bucket(Bucket=bucket)
        for key, seed in SEEDS.items():
            origin.put_object(Bucket="real-models", Key=key, Body=seed.content, **seed.arguments)
        config = {
            "origins": {"shelf": {"type": "file", "root": str(shelf)}},
            "cache": {"block_size": "64KiB"},
            "host_suffixes": [SUFFIX],
            "buckets": {
                "models": {"origin": "origin", "bucket": "real-models"},
                "locked": {"origin": "origin", "writes": "deny"},
                "shelf": {"origin": "shelf", "bucket": "weights"},
            },
        }
        with start_gateway(folder, origin=moto, workers=2, config=config) as gateway:
            yield RunningGateway(gateway, moto, shelf / "weights")


def _fill_shelf(weights: Path) -> None:
    for key in ("config.json", "a b+c.bin", "shards/1.bin", "shards/2.bin", "shards/deep/3.bin"):
        path = weights / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(key.encode())
