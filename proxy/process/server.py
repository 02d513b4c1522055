"""uvicorn's server, with our signals and what all of this program's servers have in common."""

from __future__ import annotations

import contextlib
import math
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import uvicorn

from proxy.lanes.connection import Limits
from proxy.process.listeners import BACKLOG

if TYPE_CHECKING:
    from proxy.config.limits import LimitSettings
    from proxy.config.settings import TlsSettings


def server_config(
    app: Any, http: Any, tls: TlsSettings | None, *, keep_alive_s: float, end_timeout_s: float
) -> uvicorn.Config:
    """`http` is uvicorn's protocol, or its name; `end_timeout_s`: how long answers under way may go on at the end."""
    return uvicorn.Config(
        app,
        http=http,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=math.ceil(keep_alive_s),
        timeout_graceful_shutdown=math.ceil(end_timeout_s),
        ssl_certfile=tls.certificate if tls is not None else None,
        ssl_keyfile=str(tls.key) if tls is not None else None,
    )


def connection_limits(limits: LimitSettings) -> Limits:
    """What one connection may ask for, on every port of this program."""
    return Limits(
        head_bytes=limits.request_head,
        head_timeout_s=limits.request_head_timeout,
        send_timeout_s=limits.send_timeout,
        read_ahead_bytes=limits.disk_read_ahead,
        pipelined_requests=limits.pipelined_requests,
    )


class Server(uvicorn.Server):
    """uvicorn's server with our signals; `on_started` runs when the listeners are served."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()
