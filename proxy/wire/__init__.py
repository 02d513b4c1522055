"""The bulk range client: HTTP/1.1 over plain TCP or TLS, made for block bytes. Serves origins (and later peers).

Knows connections, heads and bodies; knows nothing of S3, retries or blocks.

How it works. `client` takes a kept connection from `pool`, or has `connect` make one. `connection` is the protocol:
it receives into `buffers` and hands what came to a `response` reader, which needs no socket: it finds the head
(`head`), asks its owner whom the body is for, and passes the body's bytes, found by `framing`, to that sink as views
of the receive buffer. With a Content-Length nothing parses or copies the body: bytes are counted, that is all.
`patience` says how long a server may be silent before its request is abandoned.
"""

from proxy.wire.client import WireClient
from proxy.wire.endpoint import Endpoint
from proxy.wire.errors import ConnectFailed, ConnectionBroken, MalformedResponse, TimedOut, WireError
from proxy.wire.head import ResponseHead
from proxy.wire.patience import Patience
from proxy.wire.response import Response

__all__ = [
    "ConnectFailed",
    "ConnectionBroken",
    "Endpoint",
    "MalformedResponse",
    "Patience",
    "Response",
    "ResponseHead",
    "TimedOut",
    "WireClient",
    "WireError",
]
