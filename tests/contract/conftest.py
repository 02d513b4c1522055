"""The origins: two S3 servers, two GCS servers, and a directory, each with a way to put objects there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from proxy.origin.directory import DirectoryOrigin
from tests.contract.origin_under_test import BUCKET, OriginUnderTest, gcs_under_test, s3_under_test
from tests.servers import GcsServer, S3Server, start_fake_gcs, start_gcs_emulator, start_moto, start_rclone

GCS = ("fake_gcs", "gcs_emulator")


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Server]:
    with start_moto() as server:
        server.client().create_bucket(Bucket=BUCKET)
        yield server


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    root = tmp_path_factory.mktemp("rclone")
    (root / BUCKET).mkdir()
    with start_rclone(root) as server:
        yield server


@pytest.fixture(scope="session")
def fake_gcs() -> Iterator[GcsServer]:
    with start_fake_gcs() as server:
        server.create_bucket(BUCKET)
        yield server


@pytest.fixture(scope="session")
def gcs_emulator() -> Iterator[GcsServer]:
    with start_gcs_emulator() as server:
        server.create_bucket(BUCKET)
        yield server


@pytest.fixture(params=["moto", "rclone", "fake_gcs", "gcs_emulator", "directory"])
async def under_test(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OriginUnderTest]:
    if request.param == "directory":
        (tmp_path / BUCKET).mkdir()
        made = OriginUnderTest("directory", DirectoryOrigin(tmp_path), folder=tmp_path / BUCKET)
    elif request.param in GCS:
        made = gcs_under_test(request.param, request.getfixturevalue(request.param))
    else:
        made = s3_under_test(request.param, request.getfixturevalue(request.param))
    yield made
    await made.origin.aclose()


@pytest.fixture(params=["moto", "rclone"])
async def s3_only(request: pytest.FixtureRequest) -> AsyncIterator[OriginUnderTest]:
    made = s3_under_test(request.param, request.getfixturevalue(request.param))
    yield made
    await made.origin.aclose()
