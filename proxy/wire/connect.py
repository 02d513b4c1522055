"""Opening connections: resolve the name, try its addresses, negotiate TLS.

How it works (a simple form of RFC 8305, "Happy Eyeballs"). The addresses of each family are shuffled, because a big
store's name has several and load should spread over them. Then the families alternate, the resolver's preferred one
first. Attempts start one after the other: the next one when the last has failed, or `STAGGER_S` after it began. The
first that succeeds wins and the others are cancelled.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from itertools import chain, zip_longest
from typing import Any

from proxy.wire.buffers import ReceiveBuffers
from proxy.wire.connection import Connection, ExchangeLimits
from proxy.wire.endpoint import Endpoint
from proxy.wire.errors import ConnectFailed, TimedOut
from proxy.wire.tls import TlsConnection

STAGGER_S = 0.25  # RFC 8305 section 5 recommends it

Address = tuple[socket.AddressFamily, Any]  # a family and the argument of `connect` for it
Resolve = Callable[[str, int], Awaitable[list[Address]]]  # host and port; OSError if there is no such name


async def resolve_name(host: str, port: int) -> list[Address]:
    """Return what the system's resolver finds, in its order of preference."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in found]


async def open_connection(
    endpoint: Endpoint,
    buffers: ReceiveBuffers,
    limits: ExchangeLimits,
    *,
    tls_context: ssl.SSLContext | None,
    tls_name: str | None = None,
    connect_timeout_s: float,
    tls_timeout_s: float,
    resolve: Resolve = resolve_name,
) -> Connection:
    """Open a usable connection; `tls_context` is None for plain TCP. Raises ConnectFailed or TimedOut."""
    try:
        async with asyncio.timeout(connect_timeout_s):
            sock = await open_socket(endpoint, resolve)
    except TimeoutError as error:
        raise TimedOut("connect", connect_timeout_s) from error
    try:
        async with asyncio.timeout(tls_timeout_s):
            return await _start_protocol(sock, endpoint, buffers, limits, tls_context, tls_name)
    except TimeoutError as error:
        raise TimedOut("tls", tls_timeout_s) from error
    except OSError as error:  # ssl.SSLError and its certificate errors are OSErrors
        raise ConnectFailed(f"no TLS with {endpoint}: {error}") from error


async def _start_protocol(
    sock: socket.socket,
    endpoint: Endpoint,
    buffers: ReceiveBuffers,
    limits: ExchangeLimits,
    tls_context: ssl.SSLContext | None,
    tls_name: str | None,
) -> Connection:
    if tls_context is None:
        connection = Connection(endpoint, buffers, limits)
    else:
        connection = TlsConnection(endpoint, buffers, limits, tls_context, tls_name)
    started = False
    try:
        await asyncio.get_running_loop().create_connection(lambda: connection, sock=sock)
        if isinstance(connection, TlsConnection):
            await connection.shake_hands()
        started = True
        return connection
    finally:
        if not started:
            connection.close()
            sock.close()


async def open_socket(endpoint: Endpoint, resolve: Resolve = resolve_name) -> socket.socket:
    """Open a connected, non-blocking socket. Raises ConnectFailed."""
    try:
        found = await resolve(endpoint.host, endpoint.port)
    except (OSError, UnicodeError) as error:
        raise ConnectFailed(f"{endpoint.host} does not resolve: {error}") from error
    return await _race(endpoint, order_addresses(found, random.Random()))


def order_addresses(found: Iterable[Address], chance: random.Random) -> list[Address]:
    """Shuffle the addresses within each family and alternate the families, starting with the first address's."""
    families: dict[socket.AddressFamily, list[Address]] = {}
    for address in found:
        families.setdefault(address[0], []).append(address)
    for addresses in families.values():
        chance.shuffle(addresses)
    return [address for address in chain.from_iterable(zip_longest(*families.values())) if address is not None]


async def _race(endpoint: Endpoint, addresses: list[Address]) -> socket.socket:
    untried = deque(addresses)
    attempts: set[asyncio.Task[socket.socket]] = set()
    failures: list[str] = []
    winner: socket.socket | None = None
    try:
        while winner is None and (untried or attempts):
            if untried:
                attempts.add(asyncio.create_task(_connect_socket(untried.popleft())))
            pause_s = STAGGER_S if untried else None
            done, _ = await asyncio.wait(attempts, timeout=pause_s, return_when=asyncio.FIRST_COMPLETED)
            for attempt in done:
                error = attempt.exception()
                if error is None and winner is None:
                    winner = attempt.result()
                elif error is not None:
                    failures.append(str(error))
                    attempts.discard(attempt)
        if winner is None:
            raise ConnectFailed(f"{endpoint} can't be reached: {'; '.join(failures) or 'it has no address'}")
        return winner
    finally:
        for attempt in attempts:
            attempt.cancel()
            attempt.add_done_callback(lambda lost: _close_unless(winner, lost))


def _close_unless(winner: socket.socket | None, attempt: asyncio.Task[socket.socket]) -> None:
    """Close the socket of an attempt that succeeded after the winner, or at the same moment."""
    if not attempt.cancelled() and attempt.exception() is None and attempt.result() is not winner:
        attempt.result().close()


async def _connect_socket(address: Address) -> socket.socket:
    family, destination = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, destination)
    except BaseException:
        sock.close()
        raise
    return sock
