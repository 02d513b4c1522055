"""Receive buffers, shared by all connections of a client.

How it works. Receiving is one synchronous step in every event loop: get the buffer, fill it, hand it to the protocol.
So all connections of a client share one buffer. It stays in the processor's cache, and memory does not grow with the
number of connections. Only a sink that is not done at once keeps its buffer: it leaves circulation, a spare takes its
place, and it comes back when the sink is done. If the wait for the sink is cancelled or fails, a writer thread may
still be reading the buffer. Then it is dropped and never comes back.

With TLS, received bytes are encrypted. They go into another shared buffer, and are decrypted from there into `current`.
"""

from __future__ import annotations

SEALED_BYTES = 256 << 10  # a receive of 16 TLS records of the largest size
MAX_SPARE_BUFFERS = 16  # kept for the next slow sinks; more are freed


class ReceiveBuffers:
    """The buffers of one thread. Its user must fill and use `current` or `sealed` before any other code runs."""

    def __init__(self, buffer_bytes: int) -> None:
        if buffer_bytes < 1:
            raise ValueError(f"a receive buffer of {buffer_bytes} bytes")
        self._buffer_bytes = buffer_bytes
        self._spare: list[memoryview] = []
        self.current = self._make()
        self.sealed = memoryview(bytearray(SEALED_BYTES))

    def lend(self) -> memoryview:
        """Take `current` out of circulation and return it."""
        lent = self.current
        self.current = self._spare.pop() if self._spare else self._make()
        return lent

    def give_back(self, lent: memoryview) -> None:
        if len(self._spare) < MAX_SPARE_BUFFERS:
            self._spare.append(lent)

    def _make(self) -> memoryview:
        return memoryview(bytearray(self._buffer_bytes))
