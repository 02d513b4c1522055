"""The sites that clients are pointed at, one set for each test process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest

from tests.compat.sites import DIRECT, Site, Sites, resolving

WRITABLE = ["moto", "rclone"]
READABLE = WRITABLE if DIRECT else [*WRITABLE, "gcs", "directory"]

# What does not work at an origin itself, and so is expected to fail with no gateway between.
RCLONE_QUIRKS = {
    "test_aws_cli.py::test_a_tree_is_synced_down": "sends the whole object's checksum with a range",
    "test_crt.py::test_the_connector_reads": "says too little when it refuses a range of an empty object",
    "test_minio.py": "says text/xml, which the SDK refuses",
    "test_obstore.py::test_objects_are_read": "answers a range with 200",
    "test_pyarrow.py::test_a_file_is_read": "sends the whole object's checksum with a range",
    "test_pyarrow.py::test_parquet": "sends the whole object's checksum with a range",
    "test_pyarrow.py::test_files_are_written": "wants a Content-Length on uploads",
    "test_smart_open.py::test_a_stream_is_read": "answers a range with 200",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items if DIRECT else []:
        for where, reason in RCLONE_QUIRKS.items():
            if where in item.nodeid and "rclone" in item.name:
                item.add_marker(pytest.mark.xfail(reason=f"rclone {reason}"))


@pytest.fixture(scope="session")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    with ExitStack() as stack:
        yield Sites(tmp_path_factory.mktemp("sites"), stack)


@pytest.fixture(params=READABLE)
def site(request: pytest.FixtureRequest, sites: Sites) -> Site:
    """An endpoint to read from, over each kind of origin."""
    return sites[request.param]


@pytest.fixture(params=["gcs", "gcs-emulator", "moto", "directory"])
def goog(request: pytest.FixtureRequest, sites: Sites) -> Site:
    """An endpoint for clients of GCS to read from, over each kind of origin."""
    if DIRECT:
        pytest.skip("the servers themselves have their own quirks")
    return sites[request.param]


@pytest.fixture
def goog_writable(sites: Sites) -> Site:
    """An endpoint for clients of GCS to write to whatever they write."""
    if DIRECT:
        pytest.skip("the servers themselves have their own quirks")
    return sites["gcs"]


@pytest.fixture(params=WRITABLE)
def writable(request: pytest.FixtureRequest, sites: Sites) -> Site:
    """An endpoint to read from and write to, over each kind of origin that takes writes."""
    return sites[request.param]


@pytest.fixture(params=["path"] if DIRECT else ["path", "virtual"])
def style(request: pytest.FixtureRequest) -> Iterator[str]:
    """How the client names a bucket: in the path, or in the host."""
    with resolving():
        yield request.param


@pytest.fixture(params=READABLE if DIRECT else [*READABLE, "moto-by-host"])
def outside(request: pytest.FixtureRequest, sites: Sites) -> Site:
    """`site` for clients that are programs or compiled: they choose their style by the endpoint."""
    return _outside(sites, request.param)


@pytest.fixture(params=WRITABLE if DIRECT else [*WRITABLE, "moto-by-host"])
def outside_writable(request: pytest.FixtureRequest, sites: Sites) -> Site:
    return _outside(sites, request.param)


def _outside(sites: Sites, name: str) -> Site:
    site = sites[name.removesuffix("-by-host")]
    return replace(site, by_host=True) if name.endswith("-by-host") else site
