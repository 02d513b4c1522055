"""Membership without Redis: hello to every address, given in the settings or found by DNS.

How it works. Every ROUND_S each node asks each address who is there (a signed `GET /-/peer/hello` on the data port; the
answer must carry the proof that it comes from a member), and later the control port that the answer named: it goes on
answering while the node drains. Who has not answered for SILENCE_S is gone, and so is who answers at no listed address
any more. Ids come from the answers: two addresses of one node are one member.

When the name can't be looked up, the addresses of the last time stay; and each stays for LISTED_S after it was in an
answer, for a DNS server may leave some of many out of each.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from proxy.fleet.members.advertise import AddressFinder, locate
from proxy.fleet.members.registry import MemberRegistry
from proxy.fleet.members.status import NodeStatus, parse_status
from proxy.fleet.protocol import HELLO_PATH
from proxy.fleet.signing import PROOF_HEADER, sign
from proxy.rate_limited_log import RateLimitedLog
from proxy.wire import Endpoint, WireClient, WireError
from proxy.wire.tls import make_tls_context

if TYPE_CHECKING:
    from proxy.config.cluster import ClusterSettings

ROUND_S = 2.0
SILENCE_S = 5.0
HELLO_TIMEOUT_S = 1.5
LOOKUP_TIMEOUT_S = 5.0
LISTED_S = 10.0
HELLOS_MAX = 64  # under way at once

START_GRACE_S = 60.0  # a headless service has no addresses while no gateway of a new fleet is ready

Lookup = Callable[[], Sequence[Endpoint]]

log = logging.getLogger("warmstart.fleet")


class Addresses:
    """Where members may be. `lookup` blocks, and raises OSError: then the last result stays.

    `clock` counts seconds, from whenever.
    """

    def __init__(self, lookup: Lookup, clock: Callable[[], float] = time.monotonic) -> None:
        self._lookup = lookup
        self._clock = clock
        self._listed: dict[Endpoint, float] = {}  # and when it was in an answer last
        self._under_way: asyncio.Future[Sequence[Endpoint]] | None = None
        self._failed = False
        self._began_s = clock()

    @property
    def listed(self) -> Collection[Endpoint]:
        return self._listed.keys()

    async def refresh(self) -> None:
        """Look them up, in a thread. One that hangs is waited for again in the next round, not started twice."""
        if self._under_way is None:
            self._under_way = asyncio.get_running_loop().run_in_executor(None, self._lookup)
        done, _ = await asyncio.wait([self._under_way], timeout=LOOKUP_TIMEOUT_S)
        if not done:
            self._complain("no answer")
            return
        looking, self._under_way = self._under_way, None
        try:
            found = looking.result()
        except OSError as error:
            self._complain(str(error))
            return
        now_s = self._clock()
        self._listed |= dict.fromkeys(found, now_s)
        self._listed = {address: seen_s for address, seen_s in self._listed.items() if now_s - seen_s < LISTED_S}
        self._failed = False

    def _complain(self, reason: str) -> None:
        if not self._listed and self._clock() - self._began_s < START_GRACE_S:
            log.debug("no address of the fleet can be looked up yet: %s", reason)
            return
        if not self._failed:
            log.warning("the fleet's addresses can't be looked up, and the last ones stay: %s", reason)
        self._failed = True


class HelloDiscovery:
    """This node's rounds. `clock` counts seconds, from whenever; `now` is Unix time."""

    def __init__(
        self,
        registry: MemberRegistry,
        addresses: Addresses,
        secrets: Sequence[bytes],
        client: WireClient,
        finder: AddressFinder,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._registry = registry
        self._addresses = addresses
        self._secrets = secrets
        self._client = client
        self._finder = finder
        self._clock = clock
        self._now = now
        self._met: dict[Endpoint, tuple[NodeStatus, float]] = {}  # by address: who answered there last, and when
        self._turns = asyncio.Semaphore(HELLOS_MAX)
        self._limited_log = RateLimitedLog(log)

    async def run(self) -> None:
        """Say hello until cancelled."""
        try:
            while True:
                began_s = self._clock()
                await locate(self._registry, self._finder)
                await self._addresses.refresh()
                await self.greet()
                await asyncio.sleep(max(0.0, began_s + ROUND_S - self._clock()))
        finally:
            await self._client.aclose()

    def hurry(self) -> None:
        """Nothing to be done: who says hello hears it."""

    async def leave(self) -> None:
        """Nothing to be done: who does not answer is gone."""

    async def greet(self) -> None:
        """One round."""
        self._registry.note_status()
        listed = list(self._addresses.listed)
        await asyncio.gather(*(self._meet(address) for address in listed))
        now_s = self._clock()
        self._met = {
            address: (seen, heard_s)
            for address, (seen, heard_s) in self._met.items()
            if now_s - heard_s < SILENCE_S and address in listed
        }
        self._registry.see(self._sort_out())

    def _sort_out(self) -> dict[str, NodeStatus]:
        """The latest word of each other node; where this one's own id answers with another URL, that is said."""
        own, twin = self._registry.own, None
        found: dict[str, NodeStatus] = {}
        for seen, _ in sorted(self._met.values(), key=lambda met: met[1]):
            if seen.member.node_id != own.node_id:
                found[seen.member.node_id] = seen
            elif self._registry.located and seen.member.url != own.url:
                twin = seen.member.url
        self._registry.note_twin(twin)
        return found

    async def _meet(self, address: Endpoint) -> None:
        """Ask the member that was there at its control port, else whoever is at the address."""
        met = self._met.get(address)
        seen = None
        async with self._turns:
            if met is not None:
                node_id, url = met[0].member.node_id, met[0].member.control_url
                seen = await self._say_hello(_parse_endpoint(url), node_id)
                seen = seen if seen is not None and seen.member.node_id == node_id else None
            if seen is None:
                seen = await self._say_hello(address, "")
        if seen is not None:
            self._met[address] = (seen, self._clock())

    async def _say_hello(self, endpoint: Endpoint | None, receiver: str) -> NodeStatus | None:
        """Who answers there with the proof of a member; None: nobody does."""
        if endpoint is None:
            return None
        target, own = HELLO_PATH.encode(), self._registry.own.node_id
        signed = sign(self._secrets, sender=own, receiver=receiver, method="GET", target=target, now_s=self._now())
        headers = [("authorization", signed.authorization)]
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                answer = await self._client.get(endpoint, target, headers, lambda head: None)
        except (WireError, OSError, ValueError) as error:
            log.debug("no hello from %s: %s", endpoint, error or type(error).__name__)
            return None
        if answer.status == 401:
            said = answer.body[:100].decode("utf-8", "replace").strip()
            self._limited_log.say(
                f"the node at {endpoint} refuses this node's hello ({said!r}): compare cluster.secret on both, their"
                " clocks, and their versions"
            )
            return None
        if not signed.proves_answer(answer.head.get(PROOF_HEADER), answer.status, answer.body):
            self._limited_log.say(f"whoever answers at {endpoint} is no member of this fleet: compare cluster.secret")
            return None
        if answer.status != 200:
            log.debug("no member at %s: status %s", endpoint, answer.status)
            return None
        try:
            return parse_status(answer.body)
        except ValueError as error:
            self._limited_log.say(f"the node at {endpoint} is no member for this one: {error}")
            return None


def open_discovery(registry: MemberRegistry, cluster: ClusterSettings, finder: AddressFinder) -> HelloDiscovery:
    """With the addresses of `cluster.peers`, or of `cluster.dns`; those are spoken to as this node is."""
    if cluster.dns is not None:
        name, _, port = cluster.dns.rpartition(":")
        addresses = Addresses(lambda: look_up(name, int(port), tls=finder.tls))
    else:
        listed = [Endpoint.parse(url) for url in cluster.peers]
        addresses = Addresses(lambda: listed)
    client = WireClient(
        max_idle_per_endpoint=1,
        connect_timeout_s=HELLO_TIMEOUT_S,
        tls_timeout_s=HELLO_TIMEOUT_S,
        head_timeout_s=HELLO_TIMEOUT_S,
        read_timeout_s=HELLO_TIMEOUT_S,
        ssl_context=make_tls_context(ca_file=cluster.ca_file),
        tls_name=cluster.tls_name,
        buffer_bytes=64 << 10,
    )
    return HelloDiscovery(registry, addresses, cluster.secrets(), client, finder)


def look_up(name: str, port: int, *, tls: bool) -> list[Endpoint]:
    """Every address of the name. Blocking; raises OSError."""
    infos = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return [Endpoint(str(info[4][0]), port, tls) for info in infos]


def _parse_endpoint(url: str) -> Endpoint | None:
    try:
        return Endpoint.parse(url)
    except ValueError:
        return None
