"""Clients of Redis, made in one place: by URL, with short time-outs, one retry, and nothing that waits for ever.

URLs: `redis://[user:password@]host:6379/0`; `rediss://…` with TLS, whose certificates are checked against the system's
authorities or `?ssl_ca_certs=FILE`; `unix:///path?db=0`; and `redis+sentinel://[user:password@]host:26379,…/master/0`
(`rediss+sentinel`: TLS to Sentinels and master alike), where the credentials are the master's, and the Sentinels' own
follow as `?sentinel_username=…&sentinel_password=…`. What else redis-py knows goes after the `?`, too.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from redis.asyncio import Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from proxy.errors import ConfigInvalid
from proxy.http.masking import mask_url

CONNECT_TIMEOUT_S = 1.0
ANSWER_TIMEOUT_S = 2.0
SENTINEL_PORT = 26379

REDIS_ERRORS = (RedisError, OSError)
"""What a call of a client raises when Redis can't be had, or refuses."""


def open_redis(url: str) -> Redis:
    """A client for one event loop, which answers in bytes; connects at its first command.

    Each command tries a second time, at once, where the connection broke, and never where the answer is late: what
    must not happen twice needs a token of its own. Raises ValueError for a URL that `proxy.config.cluster` refuses,
    and later any of REDIS_ERRORS. Close it with `aclose`.
    """
    if urlsplit(url).scheme.endswith("+sentinel"):
        client = _open_master(parse_sentinel_url(url))
    else:
        client = Redis.from_url(url, **_options())
    pool = client.connection_pool
    pool.connection_class = type("Connection", (_Dependable, pool.connection_class), {})
    return client


def open_configured(url: str) -> Redis:
    """The client of `cluster.redis`. Raises ConfigInvalid."""
    try:
        return open_redis(url)
    except (ValueError, TypeError):  # whose words quote parts of the URL, maybe of the password
        fix = "check host, port and options, and percent-encode what is neither letter nor digit in the password"
        raise ConfigInvalid(f"cluster.redis: {mask_url(url)!r} can't be used; {fix}") from None


def first_address(url: str) -> tuple[str, int] | None:
    """Host and port that lead to Redis, or to the first Sentinel; None for a unix socket."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return None
    default = SENTINEL_PORT if parts.scheme.endswith("+sentinel") else 6379
    return _parse_addresses(parts.netloc.rpartition("@")[2], default)[0]


@dataclass(frozen=True, slots=True)
class SentinelAddress:
    """Whom to ask for a master, and how. `options` and `sentinel_options` are redis-py's."""

    sentinels: tuple[tuple[str, int], ...]
    master: str
    tls: bool
    options: dict[str, Any]
    sentinel_options: dict[str, Any]


def parse_sentinel_url(url: str) -> SentinelAddress:
    """Raises ValueError."""
    parts = urlsplit(url)
    credentials, _, addresses = parts.netloc.rpartition("@")
    found = re.fullmatch(r"/([^/]+)(?:/(\d+))?", parts.path)
    if found is None:
        raise ValueError(f"{mask_url(url)} names no master")
    pairs = parse_qsl(parts.query)
    own = {name.removeprefix("sentinel_"): value for name, value in pairs if name.startswith("sentinel_")}
    rest = [(name, value) for name, value in pairs if not name.startswith("sentinel_")]
    # redis-py's own parser knows the type of each option
    options = dict(parse_url(f"redis://{credentials and credentials + '@'}host/{found[2] or 0}?{urlencode(rest)}"))
    del options["host"]
    tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
    return SentinelAddress(
        sentinels=_parse_addresses(addresses, SENTINEL_PORT),
        master=unquote(found[1]),
        tls=parts.scheme == "rediss+sentinel",
        options=options,
        sentinel_options=own | tls,
    )


class _Dependable:
    """A connection that tells the truth about its end.

    redis-py sends under `asyncio.wait_for`, which until Python 3.12 forgets a cancellation that comes in the moment in
    which it is done (python/cpython#86296); a task would go on, a time-out never come. And uvloop refuses to write to a
    connection that has just been reset with RuntimeError, which redis-py passes on.
    """

    async def send_packed_command(self, *args: Any, **options: Any) -> None:
        task = asyncio.current_task()
        before = task.cancelling() if task is not None else 0
        try:
            await super().send_packed_command(*args, **options)  # type: ignore[misc]
        except RuntimeError as error:
            raise RedisConnectionError(f"the connection is closed: {error}") from error
        if task is not None and task.cancelling() > before:
            await self.disconnect(nowait=True)  # type: ignore[attr-defined] # the answer must not be the next one's
            raise asyncio.CancelledError


class _MasterPool(SentinelConnectionPool):
    """Connections to whichever server is the master; the ones to the Sentinels end with it."""

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await super().disconnect(inuse_connections)
        await self.sentinel_manager.aclose()


def _open_master(address: SentinelAddress) -> Redis:
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        address.sentinels,
        sentinel_kwargs=address.sentinel_options | _options() | {"ssl": address.tls},
        **address.options,
        **_options(),
    )
    client: Redis = sentinel.master_for(address.master, connection_pool_class=_MasterPool, ssl=address.tls)
    return client


def _options() -> dict[str, Any]:
    return {
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_timeout": ANSWER_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 1, (RedisConnectionError,)),
        "protocol": 2,  # the third's push messages are made for more than is asked here
    }


def _parse_addresses(text: str, default_port: int) -> tuple[tuple[str, int], ...]:
    addresses = []
    for item in text.split(","):
        parts = urlsplit(f"//{item}")
        if not parts.hostname:
            raise ValueError(f"{item!r} is no host")
        addresses.append((parts.hostname, parts.port or default_port))
    return tuple(addresses)
