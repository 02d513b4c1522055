"""A fleet of real gateways for end-to-end tests, each on an address of 127.0.0.0/8 of its own.

    with HeldCloud(BLOCK_BYTES) as cloud, start_fleet(tmp_path, cloud, redis=redis) as fleet:
        loads = fleet.load("model")
        cloud.wait_until_held()
        fleet.kill(1)
        ...
        fleet.assert_right(loads, content)

Without a Redis the members are a static list. With `doors=True` nodes reach each other, and Redis, by doors that a
test may shut: `fleet.cut(1)`.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.fleet.doors import Door
from tests.fleet.held_origin import BUCKET, HeldOrigin
from tests.fleet.redis_servers import RedisServer, SentinelTrio
from tests.gateways import GatewayProcess, overlay, send_signal, start_gateway
from tests.waiting import wait_until

BLOCK_BYTES = 256 << 10
PORT, CONTROL_PORT = 9000, 9001
SECRET = "the secret of a fleet under test"
LOAD_TIMEOUT_S = 90.0
# A held answer is part of a test, and no stall of which the bytes are asked for again.
HELD_CLOUD = dict.fromkeys(("stall_timeout_min", "stall_timeout", "stall_timeout_max"), "15s")
_DOOR = 100  # a node's door has this much more in the last byte of its address


class Load:
    """One client's read of a whole object, in a thread, with no second try. `got` grows as it goes on."""

    def __init__(self, gateway: GatewayProcess, key: str) -> None:
        self.got = bytearray()
        self.error: Exception | None = None
        self._place = urlsplit(gateway.url)
        self._key = key
        self._grown = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        self._thread.join(LOAD_TIMEOUT_S + 10)
        assert not self._thread.is_alive(), f"a read of {self._key} does not end; it has {len(self.got)} bytes"

    def wait_for(self, count: int) -> None:
        """Until so many bytes have come, or it has failed."""
        with self._grown:
            assert self._grown.wait_for(lambda: len(self.got) >= count or self.error is not None, LOAD_TIMEOUT_S)

    def _read(self) -> None:
        connection = http.client.HTTPConnection(str(self._place.hostname), self._place.port, timeout=LOAD_TIMEOUT_S)
        try:
            connection.request("GET", f"/{BUCKET}/{self._key}")
            answer = connection.getresponse()
            if answer.status != 200:
                raise RuntimeError(f"{answer.status} {answer.read(500)!r}")
            while data := answer.read1(1 << 20):
                with self._grown:
                    self.got += data
                    self._grown.notify_all()
            if (length := int(answer.headers["content-length"])) != len(self.got):
                raise RuntimeError(f"{len(self.got)} of {length} bytes")
        except Exception as error:
            with self._grown:
                self.error = error
                self._grown.notify_all()
        finally:
            connection.close()


@dataclass(slots=True)
class Fleet:
    """Running gateways, by number from 0; killed ones stay in the list, and are not in `living`."""

    folder: Path
    cloud: HeldOrigin
    net: str  # the first three bytes of all addresses
    redis: RedisServer | SentinelTrio | None
    config: Mapping[str, Any]
    workers: int
    with_doors: bool
    strangers: Sequence[str] = ()  # more addresses in everybody's list
    nodes: list[GatewayProcess] = field(default_factory=list)
    living: set[int] = field(default_factory=set)
    doors: dict[int, list[Door]] = field(default_factory=dict)
    zones: Mapping[int, str] = field(default_factory=dict)
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def address(self, number: int) -> str:
        """Where a node is reached by others: its door, if it has one."""
        return f"{self.net}.{number + 1 + _DOOR * self.with_doors}"

    def url(self, number: int) -> str:
        return f"http://{self.address(number)}:{PORT}"

    def begin(
        self, numbers: Sequence[int], *, peers: Mapping[int, Sequence[int]] | None = None, secret: str = SECRET
    ) -> None:
        """Starts these nodes at once. `peers`: whom each knows of, in a fleet without Redis; else all of them."""
        for number in numbers:
            known = peers[number] if peers is not None else numbers
            home = self.folder / f"node-{number}"
            home.mkdir(exist_ok=True)
            gateway = start_gateway(
                home,
                origin=self.cloud.settings(number),
                workers=self.workers,
                config=overlay(self._config(number, known, secret), self.config),
                wait=False,
            )
            gateway.url = f"http://{self.net}.{number + 1}:{PORT}"
            self.nodes[number : number + 1] = [self._stack.enter_context(gateway)]
            self.living.add(number)
        for number in numbers:
            gateway = self.nodes[number]
            ready = self.folder / f"node-{number}" / "gateway.url"
            wait_until(lambda: ready.exists() or not gateway.running, "a gateway does not start", 120)  # noqa: B023
            assert gateway.running, f"a gateway did not start:\n{gateway.logs()}"

    def _config(self, number: int, known: Sequence[int], secret: str) -> dict[str, Any]:
        here = f"{self.net}.{number + 1}"
        cluster: dict[str, Any] = {"advertise": self.url(number), "secret": secret}
        if number in self.zones:
            cluster["zone"] = self.zones[number]
        for door in self.doors.pop(number, []):  # of its life before
            door.close()
        if self.with_doors:
            there = self.address(number)
            self.doors[number] = [Door((there, port), (here, port)) for port in (PORT, CONTROL_PORT)]
        if self.redis is None:
            cluster["peers"] = [*(self.url(each) for each in known), *self.strangers]
        elif self.with_doors:
            assert isinstance(self.redis, RedisServer)
            self.doors[number].append(door := Door((here, 0), ("127.0.0.1", self.redis.port)))
            cluster["redis"] = f"redis://{here}:{door.port}/0"
        else:
            cluster["redis"] = self.redis.url
        for door in self.doors.get(number, []):
            self._stack.callback(door.close)
        return {
            "listen": f"{here}:{PORT}",
            "cache": {"block_size": f"{BLOCK_BYTES}B"},
            "cluster": cluster,
            "limits": HELD_CLOUD,
        }

    # Reading.

    def load(self, key: str, numbers: Sequence[int] | None = None) -> dict[int, Load]:
        """A client at each of these nodes (at all that live) reads the object, all at the same moment."""
        chosen = sorted(self.living) if numbers is None else numbers
        return {number: Load(self.nodes[number], key) for number in chosen}

    def assert_right(self, loads: Mapping[int, Load], content: bytes) -> None:
        """Every client of a node that lives got all bytes, and none got a wrong one."""
        for number, load in loads.items():
            load.wait()
            assert load.got == content[: len(load.got)], f"node {number} gave wrong bytes ({load.error})"
            if number in self.living:
                assert load.error is None, f"node {number}: {load.error!r}\n{self.nodes[number].logs()[-6000:]}"
                assert len(load.got) == len(content)

    def assert_copies(self, key: str, most: float) -> None:
        """The origin has sent the object's bytes no more often than so."""
        copies = self.cloud.copies(key)
        assert copies <= most, f"{copies} copies of {key}, at most {most} are right\n{self.story(key)}"

    def story(self, key: str) -> str:
        """Who asked the origin for what, and what the nodes' metrics and logs say of it."""
        lines = [str(asked) for asked in sorted(self.cloud.gets(key), key=lambda asked: asked.start)]
        for number in sorted(self.living):
            node = self.nodes[number]
            wanted = ("peer_failures", "unleased", "relayed", "reread", "peer_uploads")
            told = {name: value for name, value in node.metrics().items() if any(word in name for word in wanted)}
            lines += [f"node {number}: " + ", ".join(f"{name[10:]} {value:g}" for name, value in told.items() if value)]
            lines += [line[:300] for line in node.logs().splitlines() if key in line or '"warning"' in line][-15:]
        return "\n".join(lines)

    def metric(self, name: str, **labels: str) -> float:
        """Over all living nodes."""
        return sum(self.nodes[number].metric(name, **labels) for number in self.living)

    # Trouble.

    def kill(self, number: int) -> None:
        """kill -9 of all processes of a node in one go."""
        self.living.discard(number)
        kill_all(self.nodes[number])

    def stop(self, number: int) -> None:
        """In good order: it says goodbye."""
        self.living.discard(number)
        self.nodes[number].stop()

    def pause(self, number: int) -> None:
        gateway = self.nodes[number]
        for pid in (gateway.pid, *gateway.children()):
            os.kill(pid, signal.SIGSTOP)

    def resume(self, number: int) -> None:
        gateway = self.nodes[number]
        for pid in (gateway.pid, *gateway.children()):
            os.kill(pid, signal.SIGCONT)

    def cut(self, number: int) -> None:
        """Nobody reaches the node any more, nor does it reach Redis, and nobody is told."""
        for door in self.doors[number]:
            door.shut()

    def restore(self) -> None:
        """What a test has killed or stopped comes back, with its disks; then the fleet loads an object as one again."""
        self.living = {number for number in self.living if self.nodes[number].running}
        gone = [number for number in range(len(self.nodes)) if number not in self.living]
        if gone:
            self.begin(gone)
        wait_for_members([self.nodes[number] for number in sorted(self.living)], len(self.living))
        wait_until(self._is_whole, "the fleet does not become one again", 60)

    def _is_whole(self) -> bool:
        key = f"probe-{secrets.token_hex(4)}"
        content = secrets.token_bytes(6 * BLOCK_BYTES)
        self.cloud.put(key, content)
        unleased = self.metric("warmstart_unleased_fills_total")
        self.assert_right(self.load(key), content)
        if self.redis is not None and not all(
            self.nodes[number].metric("warmstart_fleet_coordinated") for number in self.living
        ):
            return False  # its next load would go without leases
        return self.cloud.copies(key) == 1 and self.metric("warmstart_unleased_fills_total") == unleased

    @contextlib.contextmanager
    def guest(self, number: int, secret: str = SECRET, known_to: Sequence[int] | None = None) -> Iterator[None]:
        """One node more, the next in number, while the block runs. `known_to`: who must know of it, by default all."""
        assert number == len(self.nodes)
        self.begin([number], secret=secret)
        try:
            wait_for_members(
                [self.nodes[each] for each in (range(number + 1) if known_to is None else known_to)], number + 1
            )
            yield
        finally:
            self.stop(number)
            self.nodes.pop()
            wait_for_members(self.nodes, number)

    def mend(self, number: int) -> None:
        for door in self.doors[number]:
            door.open()


@contextlib.contextmanager
def start_fleet(
    tmp_path: Path,
    cloud: HeldOrigin,
    *,
    nodes: int = 3,
    redis: RedisServer | SentinelTrio | None = None,
    workers: int = 1,
    config: Mapping[str, Any] | None = None,
    doors: bool = False,
    zones: Mapping[int, str] | None = None,
    peers: Mapping[int, Sequence[int]] | None = None,
    strangers: Sequence[str] = (),
) -> Iterator[Fleet]:
    """All know each other when it is given (unless `peers` says whom each knows), and `strangers`, addresses of members
    that are none of it."""
    with contextlib.ExitStack() as stack:
        fleet = Fleet(
            tmp_path,
            cloud,
            _free_net(),
            redis,
            config or {},
            workers,
            doors,
            strangers,
            zones=zones or {},
            _stack=stack,
        )
        try:
            fleet.begin(range(nodes), peers=peers)
            for number in range(nodes):
                known = nodes if peers is None else len(peers[number])
                wait_for_members([fleet.nodes[number]], known + len(strangers))
            yield fleet
        finally:
            for number in fleet.living:  # one that a failed test has left paused would not end
                for pid in (fleet.nodes[number].pid, *fleet.nodes[number].children()):
                    send_signal(pid, signal.SIGCONT)
                send_signal(fleet.nodes[number].pid, signal.SIGTERM)  # all drain at once


def wait_for_members(gateways: Sequence[GatewayProcess], count: int, timeout_s: float = 30.0) -> None:
    """Until each of them knows so many members, itself among them."""
    for gateway in gateways:
        wait_until(
            lambda: gateway.metric("warmstart_fleet_members") == count,  # noqa: B023
            f"{gateway.url} does not see {count} members:\n{gateway.logs()[-3000:]}",
            timeout_s,
        )


def kill_all(gateway: GatewayProcess) -> None:
    """kill -9 of the supervisor and all its children, in one go."""
    pids = [gateway.pid, *gateway.children()]
    for pid in pids:
        send_signal(pid, signal.SIGSTOP)
    for pid in pids:
        send_signal(pid, signal.SIGKILL)
    gateway.kill()


def _free_net() -> str:
    """Three bytes of a net that nobody listens in: ports can be the same in every fleet."""
    while True:
        net = f"127.{1 + secrets.randbelow(254)}.{secrets.randbelow(256)}"
        with contextlib.suppress(OSError), socket.create_server((f"{net}.1", PORT)):
            return net
