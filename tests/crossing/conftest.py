"""One gateway before all three kinds of origin, for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.crossing.three_origins import Crossing
from tests.gateways import start_gateway
from tests.servers import start_fake_gcs, start_moto


@pytest.fixture(scope="session")
def crossing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crossing]:
    folder = tmp_path_factory.mktemp("crossing")
    shelf = folder / "shelf" / "real-shelf"
    shelf.mkdir(parents=True)
    with start_moto() as moto, start_fake_gcs() as goog:
        moto.client().create_bucket(Bucket="real-moto")
        goog.create_bucket("real-goog")
        config = {
            "origins": {
                "goog": {"type": "gcs", "endpoint": goog.url, "anonymous": True},
                "shelf": {"type": "file", "root": str(shelf.parent)},
            },
            "buckets": {
                "moto": {"origin": "origin", "bucket": "real-moto"},
                "goog": {"origin": "goog", "bucket": "real-goog"},
                "shelf": {"origin": "shelf", "bucket": "real-shelf"},
                "locked": {"origin": "goog", "bucket": "real-goog", "writes": "deny"},
                **{name: {"origin": "origin"} for name in ("storage", "upload", "download", "batch")},
            },
            "cache": {"block_size": "64KiB"},
        }
        with start_gateway(folder, origin=moto, config=config) as gateway:
            yield Crossing(gateway, moto, goog, shelf)
