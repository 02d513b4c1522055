"""The bulk range client: HTTP/1.1 over plain TCP or TLS, made for block bytes. Serves origins and peers.

Knows connections, heads and bodies; knows nothing of S3, retries or blocks.

How it works. `client` takes a kept connection from `pool`, or `connect` opens one. `connection` is the protocol: it
receives into `buffers` and hands the bytes to a `response` reader, which needs no socket. The reader finds the head
(`head`), asks the caller for the sink of the body, and passes the body's bytes, found by `framing`, to that sink as
views of the receive buffer. With a Content-Length the body is neither parsed nor copied: its bytes are only counted.
`patience` decides how long a server may be silent before its request is abandoned.
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
