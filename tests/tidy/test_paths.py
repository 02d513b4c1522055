"""How much of the product one read enters: a ratchet, for whoever follows a read through the code.

A worker of a real gateway records each function of ours that it enters between two signals. Several reads of one kind
are recorded, and what they all enter counts: what runs beside a read, now and then, is in none of these sets or in few.
"""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx

from tests.gateways import GatewayProcess, start_gateway
from tests.servers import start_rclone
from tests.waiting import wait_until

# On a busy machine something periodic may run beside every read: two files and a dozen functions are left for that.
COLD_FILES_MAX, COLD_FUNCTIONS_MAX = 106 + 2, 637 + 12
HOT_FILES_MAX, HOT_FUNCTIONS_MAX = 14 + 2, 29 + 12

COLD_ROUNDS, HOT_ROUNDS = 8, 20
SMALL = 4096
CONTENT = random.Random(8).randbytes(20_000_000)
ROOT = Path(__file__).parents[2]
PACKAGES = ("proxy/", "s3api/", "gcsapi/")

# Loaded by each process of the gateway as it starts.
RECORDER = """
import json, os, signal, sys, threading

entered, recording = set(), False

def enter(frame, event, argument):
    if recording and event == "call":
        code = frame.f_code
        entered.add((code.co_filename, code.co_firstlineno, code.co_name))

def begin(*_):
    global recording
    entered.clear()
    recording = True
    write("begun", [])
    sys.setprofile(enter)

def end(*_):
    global recording
    recording = False
    sys.setprofile(None)
    write("ended", sorted(entered))

def write(name, found):
    path = os.path.join(os.environ["RECORDED"], f"{os.getpid()}.{name}")
    with open(path + ".new", "w") as file:
        json.dump(found, file)
    os.rename(path + ".new", path)

signal.signal(signal.SIGRTMIN, begin)
signal.signal(signal.SIGRTMIN + 1, end)
threading.setprofile(enter)
"""

Function = tuple[str, int, str]


def test_a_read_enters_no_more_of_the_product_than_before(tmp_path: Path) -> None:
    bucket, hook, recorded = tmp_path / "root" / "b", tmp_path / "hook", tmp_path / "recorded"
    for folder in (bucket, hook, recorded):
        folder.mkdir(parents=True)
    (hook / "sitecustomize.py").write_text(RECORDER)
    for number in range(COLD_ROUNDS + 1):
        (bucket / f"k{number}").write_bytes(CONTENT)
    environment = {"PYTHONPATH": str(hook), "RECORDED": str(recorded)}
    with (
        start_rclone(tmp_path / "root") as server,
        start_gateway(tmp_path, origin=server, environment=environment) as gateway,
        httpx.Client(base_url=gateway.url, trust_env=False, timeout=60) as client,
    ):
        get(client, "k0")  # what is made at first use is made
        cold = entered(gateway, recorded, COLD_ROUNDS, lambda number: get(client, f"k{number + 1}"))
        get(client, "k0", SMALL)
        hot = entered(gateway, recorded, HOT_ROUNDS, lambda number: get(client, "k0", SMALL))
    told = f"cold {len(files(cold))} files, {len(cold)} functions; hot {len(files(hot))} files, {len(hot)} functions"
    print(told)
    assert len(files(cold)) <= COLD_FILES_MAX, told
    assert len(cold) <= COLD_FUNCTIONS_MAX, told
    assert len(files(hot)) <= HOT_FILES_MAX, told
    assert len(hot) <= HOT_FUNCTIONS_MAX, told
    assert "proxy/lanes/express.py" in files(hot), "the recorder sees nothing"


def get(client: httpx.Client, key: str, length: int = len(CONTENT)) -> None:
    answer = client.get(f"/b/{key}", headers={"Range": f"bytes=0-{length - 1}"})
    assert answer.content == CONTENT[:length]


def entered(gateway: GatewayProcess, recorded: Path, rounds: int, read: Callable[[int], None]) -> set[Function]:
    """The product's functions that each of so many reads enters."""
    found = [record(gateway, recorded, partial(read, number)) for number in range(rounds)]
    return set.intersection(*found)


def record(gateway: GatewayProcess, recorded: Path, read: Callable[[], None]) -> set[Function]:
    (pid,) = gateway.worker_pids()
    begun, ended = recorded / f"{pid}.begun", recorded / f"{pid}.ended"
    os.kill(pid, signal.SIGRTMIN)
    wait_until(begun.exists, "the worker does not begin to record")
    read()
    os.kill(pid, signal.SIGRTMIN + 1)
    wait_until(ended.exists, "the worker does not end its record")
    found = {
        (str(Path(file).relative_to(ROOT)), line, name) for file, line, name in ours(json.loads(ended.read_text()))
    }
    begun.unlink()
    ended.unlink()
    return found


def ours(found: list[Function]) -> list[Function]:
    return [
        (file, line, name)
        for file, line, name in found
        if file.startswith(tuple(f"{ROOT}/{package}" for package in PACKAGES)) and name != "<module>"
    ]


def files(functions: set[Function]) -> set[str]:
    return {file for file, _, _ in functions}
