"""Where this node is reached, as far as settings and listeners tell it; the rest is found (`address`)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from proxy.fleet.members.address import EVERY_ADDRESS, find_address, make_url
from proxy.fleet.members.registry import MemberRegistry
from proxy.fleet.redis import first_address

if TYPE_CHECKING:
    from proxy.config.cluster import ClusterSettings

FIND_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class AdvertisedAddress:
    """Where other nodes reach this one; not `sure`: as far as can be told before a way leads to any of them."""

    url: str
    control_url: str
    sure: bool = True


@dataclass(frozen=True, slots=True)
class AddressFinder:
    """`served_at` and `control_at`: host and port of the listeners. `towards`: others, to whom a way must lead."""

    served_at: tuple[str, int]
    control_at: tuple[str, int]
    towards: tuple[tuple[str, int], ...]
    tls: bool = False
    advertise: str | None = None

    async def find(self) -> AdvertisedAddress:
        """A name that can't be looked up, as DNS may not know it before somebody is ready, holds nobody up."""
        if self.advertise is not None:
            return AdvertisedAddress(self.advertise, self._control_url(str(urlsplit(self.advertise).hostname)))
        try:
            async with asyncio.timeout(FIND_TIMEOUT_S):
                found = await asyncio.to_thread(find_address, self.served_at[0], self.towards)
        except TimeoutError:
            found = replace(find_address(self.served_at[0], ()), sure=False)
        url = make_url(found.host, self.served_at[1], tls=self.tls)
        return AdvertisedAddress(url, self._control_url(found.host), found.sure)

    def _control_url(self, host: str) -> str:
        """On the host of the other one, unless the control listener has an address of its own."""
        own, port = self.control_at
        return make_url(host if own in (*EVERY_ADDRESS, self.served_at[0]) else own, port, tls=self.tls)


async def locate(registry: MemberRegistry, finder: AddressFinder) -> None:
    """Have the registry know where this node is reached, once a round: at first as well as can be known."""
    if registry.surely_located:
        return
    address = await finder.find()
    if address.sure or address.url != registry.own.url:
        registry.locate(address.url, address.control_url, sure=address.sure)


def address_finder(
    cluster: ClusterSettings, served_at: tuple[str, int], control_at: tuple[str, int], *, tls: bool
) -> AddressFinder:
    return AddressFinder(served_at, control_at, tuple(_towards(cluster)), tls, cluster.advertise)


def _towards(cluster: ClusterSettings) -> Sequence[tuple[str, int]]:
    if cluster.redis is not None:
        address = first_address(cluster.redis.get_secret_value())
        return [address] if address is not None else []
    if cluster.dns is not None:
        name, _, port = cluster.dns.rpartition(":")
        return [(name, int(port))]
    parts = [urlsplit(url) for url in cluster.peers]
    return [(part.hostname or "", part.port or (443 if part.scheme == "https" else 80)) for part in parts]
