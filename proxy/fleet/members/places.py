"""Where this node is reached, as far as settings and listeners tell it; the rest is found (`address`)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from proxy.fleet.members.address import EVERY_ADDRESS, find_address, make_url
from proxy.fleet.members.company import Company
from proxy.fleet.redis import first_place

if TYPE_CHECKING:
    from proxy.config.cluster import ClusterSettings

FIND_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Places:
    """`served_at` and `control_at`: host and port of the listeners. `towards`: others, to whom a way must lead."""

    served_at: tuple[str, int]
    control_at: tuple[str, int]
    towards: tuple[tuple[str, int], ...]
    tls: bool = False
    advertise: str | None = None

    async def find(self) -> tuple[str, str] | None:
        """URL and control URL of this node; None: no way leads to anybody yet."""
        if self.advertise is not None:
            return self.advertise, self._control_url(str(urlsplit(self.advertise).hostname))
        try:
            async with asyncio.timeout(FIND_TIMEOUT_S):
                host = await asyncio.to_thread(find_address, self.served_at[0], self.towards)
        except TimeoutError:
            return None
        if host is None:
            return None
        return make_url(host, self.served_at[1], tls=self.tls), self._control_url(host)

    def _control_url(self, host: str) -> str:
        """On the host of the other one, unless the control listener has an address of its own."""
        own, port = self.control_at
        return make_url(host if own in (*EVERY_ADDRESS, self.served_at[0]) else own, port, tls=self.tls)


async def locate(company: Company, places: Places) -> None:
    """Have the company know where this node is reached, as soon as that can be known."""
    if not company.located and (found := await places.find()) is not None:
        company.locate(*found)


def known_places(
    cluster: ClusterSettings, served_at: tuple[str, int], control_at: tuple[str, int], *, tls: bool
) -> Places:
    return Places(served_at, control_at, tuple(_towards(cluster)), tls, cluster.advertise)


def _towards(cluster: ClusterSettings) -> Sequence[tuple[str, int]]:
    if cluster.redis is not None:
        place = first_place(cluster.redis.get_secret_value())
        return [place] if place is not None else []
    if cluster.dns is not None:
        name, _, port = cluster.dns.rpartition(":")
        return [(name, int(port))]
    parts = [urlsplit(url) for url in cluster.peers]
    return [(part.hostname or "", part.port or (443 if part.scheme == "https" else 80)) for part in parts]
