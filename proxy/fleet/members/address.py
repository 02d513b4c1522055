"""Where other nodes reach this one, found by itself: the local address of the way that leads to them.

Connecting a UDP socket sends nothing: the kernel only chooses the way, and with it the address that this machine has
on it. The way to Redis, or to another member, is the one that members have to each other.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass

EVERY_ADDRESS = ("0.0.0.0", "::")
# TEST-NET-1 (RFC 5737) and the documentation prefix (RFC 3849): nobody is there, so the default route leads to them
FAR_AWAY = (("192.0.2.1", 9), ("2001:db8::1", 9))


@dataclass(frozen=True, slots=True)
class FoundHost:
    """An address of this machine; not `sure`: no way to the others is known yet, and theirs may be another."""

    host: str
    sure: bool = True


def find_address(listening: str, towards: Sequence[tuple[str, int]]) -> FoundHost:
    """The host that others should use, for a listener on the host `listening`.

    Blocking: names are looked up. A listener of one address is reached there. `towards` are tried in turn; where all of
    them are this machine itself, or none is known yet, the default route tells the address, or loopback without one.
    """
    if listening not in EVERY_ADDRESS:
        return FoundHost(listening)
    found = [address for peer in towards for address in _local_addresses(*peer)]
    outside = [address for address in found if not ipaddress.ip_address(address).is_loopback]
    outside = outside or [address for peer in FAR_AWAY for address in _local_addresses(*peer)]
    fitting = [address for address in outside if (":" in address) == (":" in listening)]
    loopback = "::1" if ":" in listening else "127.0.0.1"
    return FoundHost(next(iter(fitting or outside or found), loopback), bool(found) or not towards)


def make_url(host: str, port: int, *, tls: bool) -> str:
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def _local_addresses(host: str, port: int) -> list[str]:
    """Of this machine, one for each address of the host that a way leads to."""
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except OSError:
        return []
    found = []
    for family, kind, protocol, _, peer in infos:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.connect(peer)
                found.append(str(probe.getsockname()[0]).partition("%")[0])
        except OSError:
            continue
    return found
