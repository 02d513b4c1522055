"""The image's steps, run without an engine: built from the locks, then served read-only, by a user without rights."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from packaging.utils import canonicalize_name

from tests.package.image import Image, build_image, why_not
from tests.package.locks import locks, read_pins
from tests.package.recipe import Step
from tests.waiting import wait_until

REASON = why_not()
pytestmark = [pytest.mark.long, pytest.mark.skipif(REASON is not None, reason=str(REASON))]
START_TIMEOUT_S = 120.0
BODY = os.urandom(20 << 20)  # three blocks


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    """Not in pytest's own folder, which other users may not enter."""
    with tempfile.TemporaryDirectory(prefix="warmstart-image-") as name:
        Path(name).chmod(0o755)
        data = Path(name) / "data/models"
        data.mkdir(parents=True)
        (data / "weights.bin").write_bytes(BODY)
        yield build_image(Path(name))


@contextmanager
def container(image: Image, user: str) -> Iterator[tuple[str, subprocess.Popen[bytes], dict[str, str]]]:
    """The image's own command with an origin, and its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    given = {
        "WARMSTART_LISTEN": address,
        "WARMSTART_ORIGIN": f"file://{image.root}/data",
        "WARMSTART_CACHE_SIZE": "1GiB",
    }
    environment = image.environment(given)
    command = image.final.last("ENTRYPOINT").words() + image.final.last("CMD").words()
    process = subprocess.Popen(image.contain(command, user), env=environment)
    try:
        yield f"http://{address}", process, environment
    finally:
        process.kill()
        process.wait()


def is_healthy(image: Image, user: str, environment: dict[str, str]) -> bool:
    """Ask as the image's own health check does."""
    check = Step("CMD", image.final.last("HEALTHCHECK").text.partition("CMD ")[2])
    asked = subprocess.run(image.contain(check.words(), user), env=environment, capture_output=True)
    return asked.returncode == 0 and b"healthy" in asked.stdout


def test_it_holds_the_locked_packages_and_the_gateway_and_nothing_else(image: Image) -> None:
    pins = read_pins(locks()[0].path)
    here = {name: pin.version for name, pin in pins.items() if pin.applies()}
    installed = {canonicalize_name(name): version for name, version in image.installed().items()}
    ours = canonicalize_name("warmstart")
    assert installed == here | {ours: installed[ours]}


@pytest.mark.parametrize("user", ["the image's", "4123456:0"])
def test_it_serves_from_a_read_only_tree_as_a_user_without_rights(image: Image, user: str) -> None:
    """Also as any user that a platform chooses (OpenShift: a number of its own, group 0)."""
    user = image.user if user == "the image's" else user
    uid, gid = map(int, user.split(":"))
    os.chown(image.cache, uid, gid)
    before = written(image.root)
    with container(image, user) as (url, process, environment):
        deadline = time.monotonic() + START_TIMEOUT_S
        while not is_healthy(image, user, environment):
            assert process.poll() is None
            assert time.monotonic() < deadline
        answers = [httpx.get(f"{url}/models/weights.bin", trust_env=False, timeout=60) for _ in range(2)]
        assert [answer.content == BODY for answer in answers] == [True, True]
        assert [answer.headers["X-Cache"] for answer in answers] == ["MISS", "HIT"]
        first = first_process(process)
        assert os.stat(f"/proc/{first}").st_uid == uid
        os.kill(first, signal.SIGTERM)
        assert process.wait(60) == 0
        wait_until(lambda: not is_healthy(image, user, environment), "it answers after its end")
    assert written(image.root) == before
    assert (image.cache / "warmstart/v1/layout").exists()
    subprocess.run(["rm", "-rf", image.cache / "warmstart"], check=True)


def first_process(unshare: subprocess.Popen[bytes]) -> int:
    """Process 1 of the container, by its number out here."""
    return int(Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children").read_text().split()[0])


def written(root: Path) -> dict[Path, int]:
    """The files outside the cache, and when each was written."""
    cache = root / "var"
    return {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file() and cache not in path.parents}


def test_every_module_is_compiled_and_taken_without_a_look_at_its_source(image: Image) -> None:
    """Flags 1 in the header (PEP 552): by hash, unchecked. A read-only tree could keep no new ones."""
    library = next((image.root / "opt/warmstart/lib").glob("python3.*/site-packages"))
    for package in ("proxy", "s3api", "gcsapi", "uvicorn"):
        for source in (library / package).rglob("*.py"):
            compiled = list((source.parent / "__pycache__").glob(f"{source.stem}.cpython-*.pyc"))
            assert compiled, source
            assert compiled[0].read_bytes()[4:8] == b"\x01\0\0\0", source
