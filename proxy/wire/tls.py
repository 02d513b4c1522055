"""TLS: how this client checks its servers, and connections that decrypt.

How it works. Received bytes go through a memory BIO to OpenSSL, which decrypts them into the same shared buffer that
plain connections receive into; from there on nothing differs. The TLS transports of the event loops are not used. They
cost the same, and they fail where it matters here: asyncio's can't tell a close_notify from a bare FIN, which anybody
on the path can forge; uvloop's drops bytes that it has not yet decrypted when the peer closes while reading is paused;
and both keep a buffer of 256 KiB for every connection.
"""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import cast

from proxy.wire.buffers import ReceiveBuffers
from proxy.wire.connection import Connection, ExchangeLimits
from proxy.wire.endpoint import Endpoint
from proxy.wire.errors import ConnectionBroken


def make_tls_context(*, ca_file: Path | None = None, verify: bool = True) -> ssl.SSLContext:
    """Return a context for TLS 1.2 or later that checks certificates and host names.

    It trusts the system's authorities, or only those of `ca_file`. `verify=False` checks nothing: for a test bench.
    Raises OSError or ssl.SSLError if the file can't be used.
    """
    context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class TlsConnection(Connection):
    """An encrypted connection; `shake_hands` comes before the first exchange."""

    def __init__(
        self,
        endpoint: Endpoint,
        buffers: ReceiveBuffers,
        limits: ExchangeLimits,
        context: ssl.SSLContext,
        name: str | None = None,
    ) -> None:
        """`name`: the host name that the certificate must have; None: the endpoint's host."""
        super().__init__(endpoint, buffers, limits)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name or endpoint.host)
        self._agreed: asyncio.Future[None] = self._loop.create_future()

    async def shake_hands(self) -> None:
        """Do the handshake and check the certificate. Raises OSError (such as ssl.SSLError) if that fails."""
        self._shake()
        await self._agreed

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffers.sealed

    def buffer_updated(self, nbytes: int) -> None:
        self._incoming.write(self._buffers.sealed[:nbytes])
        if self._agreed.done():
            self._take_what_is_here()
        else:
            self._shake()

    def eof_received(self) -> bool:
        self._closed = True
        if not self._peer_closed:  # what came before close_notify has been taken, or waits for the sink
            self._lost_reason = "the peer closed without TLS's close_notify"
        self._look_at_end()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._refuse(exc or ConnectionResetError("the peer closed during the handshake"))
        super().connection_lost(exc)

    def _send(self, data: bytes) -> None:
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            raise ConnectionBroken(f"TLS failed before the request ({error})") from error
        self._flush()

    def _flush(self) -> None:
        """Send what OpenSSL has produced: requests, but also its part of handshakes and alerts."""
        if self._outgoing.pending and self._transport is not None:
            self._transport.write(self._outgoing.read())

    def _shake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as error:
            self._flush()  # the alert tells the peer why
            self._refuse(error)
        else:
            self._flush()
            if not self._agreed.done():
                self._agreed.set_result(None)
            self._take_what_is_here()

    def _refuse(self, error: Exception) -> None:
        if not self._agreed.done():
            self._agreed.set_exception(error)

    def _take_what_is_here(self) -> None:
        """Decrypt and process, until the peer must send more or the sink must be awaited."""
        try:
            while (nbytes := self._decrypt()) > 0:
                if not self._take(nbytes):
                    break
        except ssl.SSLError as error:
            self._fail_below(f"TLS failed ({error})")
        self._flush()
        self._look_at_end()
        if self._peer_closed and self._reader is None:
            self.close()  # nothing else will, and a draining server may wait for it, connection by connection

    def _decrypt(self) -> int:
        """Fill the shared buffer from the received records, one per `read`; return the number of bytes."""
        buffer, read, filled = self._buffers.current, self._tls.read, 0
        try:
            while filled < len(buffer):
                count = cast(int, read(len(buffer) - filled, buffer[filled:]))  # bytes only without a buffer
                if count == 0:  # close_notify
                    self._closed = self._peer_closed = True
                    break
                filled += count
        except ssl.SSLWantReadError:
            pass
        return filled

    def _fail_below(self, reason: str) -> None:
        self._closed = True
        if self._lost_reason is None:
            self._lost_reason = reason
