"""The listening sockets: made once by the supervisor, inherited by every worker, which accept from the same queue."""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from proxy.errors import ConfigInvalid
from proxy.rate_limited_log import RateLimitedLog

if TYPE_CHECKING:
    from proxy.config.cluster import ClusterSettings
    from proxy.config.quantities import Address

LOOPBACK_CONGESTION = b"reno"  # no system forbids it, tcp(7); one that paces, as BBR, costs a timer every few packets
PORT_MAX = 65535
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
BACKLOG = 2048  # a gang of clients connects in the same moment; the kernel caps it at net.core.somaxconn

_exhausted = RateLimitedLog(logging.getLogger("warmstart.listeners"), logging.ERROR)


class Listener(socket.socket):
    """An inherited listening socket. Out of descriptors, it says so once, and lets asyncio try once a second.

    asyncio would try again as often as its backlog is long, and log each failure with its traceback.
    """

    _exhausted = False

    def accept(self) -> tuple[socket.socket, Any]:
        if self._exhausted:
            self._exhausted = False
            raise BlockingIOError
        try:
            return super().accept()
        except OSError as error:
            if error.errno in EXHAUSTED:
                self._exhausted = True
                _exhausted.say(f"no connection can be accepted: {error.strerror}; each takes two descriptors of nofile")
            raise


def open_listeners(addresses: Sequence[Address]) -> list[socket.socket]:
    """Bind and listen everywhere, or nowhere. Raises ConfigInvalid naming the address."""
    sockets: list[socket.socket] = []
    try:
        for address in addresses:
            sockets.append(open_listener("listen", address))
    except ConfigInvalid:
        for listener in sockets:
            listener.close()
        raise
    return sockets


def open_control(cluster: ClusterSettings, first: Address) -> socket.socket:
    """Where other nodes' questions are answered: by default one port above the first of the gateway's own addresses.

    Raises ConfigInvalid.
    """
    address = cluster.control or replace(first, port=first.port + 1 if first.port else 0, dialect=None)
    return open_listener("cluster.control", address)


def listener_url(listener: socket.socket, *, tls: bool) -> str:
    """Where it can be reached: the port that was taken for port 0, and loopback for "every address"."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http{'s' if tls else ''}://{f'[{host}]' if ':' in host else host}:{port}"


def open_listener(key: str, address: Address) -> socket.socket:
    """Bind and listen. Raises ConfigInvalid naming the setting and the address."""
    if address.port > PORT_MAX:
        raise ConfigInvalid(f"{key}: '{address}' has a port above {PORT_MAX}; write {key}: host:port")
    try:
        infos = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        raise ConfigInvalid(f"{key}: '{address}' names no address of this machine; write host:port") from None
    family, _, _, _, place = min(infos, key=lambda info: info[0] != socket.AF_INET)  # localhost: 127.0.0.1 first
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # 0.0.0.0 may be listened on beside [::]
        listener.bind(place)
        if ipaddress.ip_address(place[0]).is_loopback:  # no path to share: what it accepts inherits this
            with suppress(OSError):
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, LOOPBACK_CONGESTION)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        fix = "stop what listens there, or choose another port (0 takes a free one)"
        raise ConfigInvalid(f"{key}: '{address}' can't be listened on ({error.strerror}); {fix}") from None
    return listener
