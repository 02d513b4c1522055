"""What holds for every test: nothing of this machine's own configuration, credentials or proxies leaks in.

Runs at import, before any client library has read its environment, and is inherited by every process a test starts.
"""

from __future__ import annotations

import asyncio.constants
import gc
import os
import sys
from functools import lru_cache
from pathlib import Path

import pytest
from httpx._transports import default as httpx_transports
from hypothesis import HealthCheck, settings

from tests.fast import is_for_another_loop, is_left_out

_CLIENTS = ("AWS_", "GCE_", "GOOGLE_", "RCLONE_", "MC_HOST_", "S3_", "STORAGE_EMULATOR_")

for _name in list(os.environ):
    _theirs = _name.startswith(_CLIENTS) or _name.lower().endswith("_proxy")
    _ours = _name.startswith("WARMSTART_") and not _name.startswith("WARMSTART_TEST_")
    if _theirs or _ours:
        del os.environ[_name]

os.environ.update(
    AWS_ACCESS_KEY_ID="AKIATESTS",
    AWS_SECRET_ACCESS_KEY="secret-of-the-tests",
    AWS_DEFAULT_REGION="us-east-1",
    AWS_REGION="us-east-1",
    AWS_CONFIG_FILE="/dev/null",
    AWS_SHARED_CREDENTIALS_FILE="/dev/null",
    AWS_EC2_METADATA_DISABLED="true",
    CLOUDSDK_CONFIG="/dev/null",
    RCLONE_CONFIG="/dev/null",
)

# A gateway is three Python programs, and compiling its modules anew is a fifth of what they cost to start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Each `httpx.get` reads the certificates of all public authorities, 18 ms of CPU, though no test asks a public server.
httpx_transports.create_ssl_context = lru_cache(8)(httpx_transports.create_ssl_context)  # type: ignore[attr-defined]

# A loop in debug mode takes down the stack of whoever makes a task or callback, and looks at the file of each frame:
# most of its cost. Its checks need none of it, and a message names the nearest callers.
asyncio.constants.DEBUG_STACK_DEPTH = 3  # type: ignore[misc]

# A slow machine is no failing example; what is searched is the same on every run, unless a run asks otherwise.
settings.register_profile("steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("brief", settings.get_profile("steady"), max_examples=10)
settings.load_profile(os.environ.get("WARMSTART_TEST_HYPOTHESIS", "steady"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="run the fast tier only: see tests/fast.py")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """`-n auto`: half as many again as there are CPUs, for many tests wait for processes and timers."""
    return len(os.sched_getaffinity(0)) * 3 // 2


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("fast"):
        settings.load_profile("brief")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if config.getoption("fast") and is_left_out(collection_path) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("fast"):
        config.hook.pytest_deselected(items=[item for item in items if is_for_another_loop(item.nodeid)])
        items[:] = [item for item in items if not is_for_another_loop(item.nodeid)]


@pytest.fixture(autouse=True, scope="module")
def _collections_stay_short() -> None:
    """What earlier modules left, a gigabyte of clients' models among it, is not searched for garbage each time."""
    gc.collect(1)
    gc.freeze()
