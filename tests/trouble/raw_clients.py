"""Clients by hand, in numbers: sockets that ask and take what they like, before a real gateway."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fakes.scripted import Handler, ScriptedServer
from tests.gateways import GatewayProcess, start_gateway
from tests.waiting import wait_until

DEADLINE_S = 60.0


@asynccontextmanager
async def gateway_before(
    handler: Handler, tmp_path: Path, config: Mapping[str, Any] | None = None, **limits: Any
) -> AsyncIterator[GatewayProcess]:
    """A gateway of one worker with these limits; what the block leaves open is closed with it."""
    async with ScriptedServer(handler) as server:
        settings = {**(config or {}), "limits": limits}
        gateway = await asyncio.to_thread(start_gateway, tmp_path, origin=server.url, config=settings)
        try:
            yield gateway
        finally:
            await asyncio.to_thread(gateway.stop)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class RawClients(ExitStack):
    """Connections to one gateway, closed at the end of the block. `address`: whence they come."""

    def __init__(self, gateway: GatewayProcess, address: str = "127.0.0.1") -> None:
        super().__init__()
        host, port = gateway.url.removeprefix("http://").split(":")
        self._place = (host, int(port))
        self._address = address

    def connect(self, *, takes_little: bool = False) -> socket.socket:
        client = self.enter_context(socket.socket())
        client.settimeout(DEADLINE_S)
        if takes_little:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 10)
        client.bind((self._address, 0))
        client.connect(self._place)
        return client

    def ask(self, target: str, *headers: str, method: str = "GET", takes_little: bool = False) -> socket.socket:
        """A client that has sent this head, and nothing else yet."""
        client = self.connect(takes_little=takes_little)
        client.sendall("\r\n".join([f"{method} {target} HTTP/1.1", "Host: here", *headers, "", ""]).encode())
        return client

    def stalled(self, target: str, count: int) -> list[socket.socket]:
        """So many clients that have asked, and take no more than their sockets hold."""
        return [self.ask(target, "Connection: close", takes_little=True) for _ in range(count)]

    def get(self, target: str, *headers: str) -> Answer:
        return read_answer(self.ask(target, "Connection: close", *headers))


def read_answer(client: socket.socket) -> Answer:
    """One whole answer, as long as it says, or until the gateway closes."""
    got = b""
    while b"\r\n\r\n" not in got:
        piece = client.recv(1 << 16)
        assert piece, f"closed after {got!r}"
        got += piece
    head, _, body = got.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    whole = bytearray(body)
    length = int(headers.get("content-length", "-1"))
    while length < 0 or len(whole) < length:
        piece = client.recv(1 << 18)
        if not piece:
            break
        whole += piece
    return Answer(int(first.split()[1]), headers, bytes(whole))


def used(gateway: GatewayProcess, reason: str) -> float:
    return gateway.metric("warmstart_limit_used", reason=reason)


def wait_until_used(gateway: GatewayProcess, reason: str, amount: int) -> None:
    wait_until(lambda: used(gateway, reason) == amount, f"{reason}: not {amount}", DEADLINE_S)


def refused(gateway: GatewayProcess, reason: str) -> float:
    return gateway.metric("warmstart_shed_requests_total", reason=reason)
