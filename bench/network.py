"""A network of machines that are namespaces of this one, each behind a link of its own speed.

How it works. Every place is a network namespace with two interfaces: one to a bridge that carries the data, shaped to
the place's link in both directions (`tc tbf`: what leaves it at its own end, what comes to it at the bridge's), and one
to a second bridge, unshaped, by which this machine itself reaches it and where a Redis may listen. All addresses are of
198.18.0.0/15, which is there for measurements (RFC 2544).
Links here are some hundred times slower than those of a cluster, so what has a size or a time of its own is made to
fit: frames are jumbo ones (their heads take 0.7 % of a link), senders give the kernel FRAMES_AT_ONCE of them in one
piece, as network cards do at full speed (TCP would send single frames on so slow a link, and each would wake its
reader), a connection's window is small and the queue before a link holds all of them, so that nothing is dropped (with
short queues, a third of such pieces was), and what is lost all the same is sent again after RESEND_S, not 0.2 s.
Nothing of it outlives its block; what a killed bench has left is removed by the next one.
Needs root, and `ip` and `tc` (iproute2).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from bench.processes import Missing, program

INSTALL = "apt-get install iproute2 (and be root)"
PLACES_MAX = 250
FRAME_BYTES = 9000
FRAMES_AT_ONCE = 7
BURST_BYTES = 256 << 10
WINDOW_BYTES_MAX = 128 << 10
RESEND_S = 0.02
QUEUE_BYTES = 64 * WINDOW_BYTES_MAX  # what waits before a link: so much that nothing is dropped
_PREFIX = "ws"


@dataclass(frozen=True, slots=True)
class Namespace:
    """`address` is behind the shaped link, `side_address` for this machine alone."""

    name: str
    address: str
    side_address: str

    def command(self, command: Sequence[str]) -> list[str]:
        """The same command, in this namespace. Its process is the command's own."""
        return [*self.prefix, *command]

    @property
    def prefix(self) -> list[str]:
        return [program("ip", INSTALL), "netns", "exec", self.name]


def permitted() -> bool:
    """Whether this process may make namespaces and shape links."""
    if os.geteuid() != 0:
        return False
    try:
        with Network() as network:
            network.add(1e6)
    except (OSError, RuntimeError, Missing):
        return False
    return True


@dataclass(slots=True)
class Network:
    """A context manager. `host_address` is this machine's own on the side bridge."""

    namespaces: list[Namespace] = field(default_factory=list)
    _id: str = field(init=False)

    def __post_init__(self) -> None:
        self._id = f"{_PREFIX}{os.getpid():x}"

    @property
    def host_address(self) -> str:
        return f"198.19.{os.getpid() % 256}.254"

    def __enter__(self) -> Self:
        remove_left()
        try:
            _ip("link", "add", f"{self._id}d", "mtu", str(FRAME_BYTES), "type", "bridge")
            _ip("link", "set", f"{self._id}d", "up")
            _ip("link", "add", f"{self._id}s", "type", "bridge")
            _ip("address", "add", f"{self.host_address}/24", "dev", f"{self._id}s")
            _ip("link", "set", f"{self._id}s", "up")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, bytes_per_s: float) -> Namespace:
        """One more place, whose link brings so much in each direction; 0: not shaped."""
        number = len(self.namespaces) + 1
        assert number <= PLACES_MAX
        third = os.getpid() % 256
        namespace = Namespace(f"{self._id}-{number}", f"198.18.{third}.{number}", f"198.19.{third}.{number}")
        self.namespaces.append(namespace)
        _ip("netns", "add", namespace.name)
        _ip("-n", namespace.name, "link", "set", "lo", "up")
        self._join(namespace, number, "d", namespace.address, FRAME_BYTES)
        self._join(namespace, number, "s", namespace.side_address, 1500)
        _set(namespace, "tcp_min_tso_segs", str(FRAMES_AT_ONCE))
        _set(namespace, "tcp_rmem", f"4096 65536 {WINDOW_BYTES_MAX}")
        route = [f"198.18.{third}.0/24", "dev", "data", "scope", "link", "src", namespace.address]
        _ip("-n", namespace.name, "route", "replace", *route, "rto_min", f"{round(RESEND_S * 1e3)}ms")
        if bytes_per_s:
            _shape(["tc"], self._end(number, "d"), bytes_per_s)
            _shape(["tc", "-n", namespace.name], "data", bytes_per_s)
        return namespace

    def cut(self, namespace: Namespace, *, side: bool = True) -> None:
        """No packet comes to the place any more, or leaves it, and nobody is told; `side`: not by the side either."""
        self._switch(namespace, side, "down")

    def mend(self, namespace: Namespace) -> None:
        self._switch(namespace, True, "up")

    def _switch(self, namespace: Namespace, side: bool, state: str) -> None:
        """By the bridge: the place's own interfaces stay up, so that its connections hang."""
        number = self.namespaces.index(namespace) + 1
        for kind in "ds" if side else "d":
            joined = ["nomaster"] if state == "down" else ["master", f"{self._id}{kind}"]
            _ip("link", "set", self._end(number, kind), *joined)

    def close(self) -> None:
        """Twice does no harm."""
        for number, namespace in enumerate(self.namespaces, 1):
            _try("netns", "delete", namespace.name)  # lives on while a process is in it: its links must not
            for kind in "ds":
                _try("link", "delete", self._end(number, kind))
        self.namespaces.clear()
        for kind in "ds":
            _try("link", "delete", f"{self._id}{kind}")

    def _end(self, number: int, kind: str) -> str:
        """The bridge's end of a place's link; 15 characters are the most."""
        return f"{self._id}{kind}{number}"

    def _join(self, namespace: Namespace, number: int, kind: str, address: str, frame_bytes: int) -> None:
        inside, end, mtu = {"d": "data", "s": "side"}[kind], self._end(number, kind), str(frame_bytes)
        peer = ["peer", "name", inside, "netns", namespace.name, "mtu", mtu]
        _ip("link", "add", end, "mtu", mtu, "type", "veth", *peer)
        _ip("link", "set", end, "master", f"{self._id}{kind}")
        _ip("link", "set", end, "up")
        _ip("-n", namespace.name, "address", "add", f"{address}/24", "dev", inside)
        _ip("-n", namespace.name, "link", "set", inside, "up")


def remove_left() -> None:
    """What processes that are gone have left: namespaces, and bridges with them."""
    names = [line.split()[0] for line in _read("netns", "list").splitlines() if line.strip()]
    links = [line.split(":")[1].strip().partition("@")[0] for line in _read("-o", "link", "show").splitlines()]
    for name in names:
        if _is_left(name.partition("-")[0]) and "-" in name:
            _try("netns", "delete", name)
    for name in links:
        if name[-1:] in ("d", "s") and _is_left(name[:-1]):
            _try("link", "delete", name)


def _is_left(tag: str) -> bool:
    """Whether a tag is of this module's kind, and its process gone."""
    try:
        pid = int(tag.removeprefix(_PREFIX), 16)
    except ValueError:
        return False
    return tag.startswith(_PREFIX) and not Path(f"/proc/{pid}").exists()


def _shape(tool: list[str], interface: str, bytes_per_s: float) -> None:
    words = ["qdisc", "add", "dev", interface, "root", "tbf", "rate", f"{int(bytes_per_s * 8)}bit"]
    words += ["burst", str(BURST_BYTES), "limit", str(QUEUE_BYTES)]
    _run([program(tool[0], INSTALL), *tool[1:], *words])


def _set(namespace: Namespace, name: str, value: str) -> None:
    """A setting of TCP's in that namespace alone."""
    _run(namespace.command(["sh", "-c", f"echo {value} > /proc/sys/net/ipv4/{name}"]))


def _ip(*words: str) -> None:
    _run([program("ip", INSTALL), *words])


def _try(*words: str) -> None:
    with contextlib.suppress(RuntimeError):
        _ip(*words)


def _read(*words: str) -> str:
    command = [program("ip", INSTALL), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
