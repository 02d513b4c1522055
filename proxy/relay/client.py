"""The client for other nodes: signed requests, proved answers, block bodies with a tail.

How it works. Every request is a signed GET (`proxy.fleet.signing`), sent by the range client (`proxy.wire`). An answer
counts only with the proof that a member gave exactly this answer. A block's body is its bytes and a tail
(`proxy.fleet.tail`), by which the receiver checks the block. While the other node itself is waiting, it sends interim
heads: a node that is silent for SILENCE_S is gone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from proxy.blocks import ByteSink
from proxy.fleet.messages import parse_json
from proxy.fleet.protocol import Ask, NamedSource, WantedBlock, WantedRecord
from proxy.fleet.roster import Member
from proxy.fleet.signing import PROOF_HEADER, Signed, sign
from proxy.fleet.tail import TAIL_BYTES, Tail
from proxy.metrics import PEER_FAILURES, PEER_RECEIVED_BYTES
from proxy.rate_limited_log import RateLimitedLog
from proxy.relay.errors import PeerFailed
from proxy.wire import (
    ConnectFailed,
    Endpoint,
    MalformedResponse,
    Response,
    ResponseHead,
    TimedOut,
    WireClient,
    WireError,
)

SILENCE_S = 2.0  # long enough for a peer whose processors are busy
ANSWER_BYTES_MAX = 64 << 10  # of an answer that is not a block: the wire client collects no more
_REASONS = {401: "refused", 404: "missing", 409: "busy", 503: "unavailable"}

_refused = RateLimitedLog(logging.getLogger("warmstart.fleet"))
_foreign = RateLimitedLog(logging.getLogger("warmstart.fleet"))


class PeerClient:
    """A client of one event loop; the caller closes the wire client. `clock` is Unix time."""

    def __init__(
        self, wire: WireClient, node_id: str, secrets: Sequence[bytes], clock: Callable[[], float] = time.time
    ) -> None:
        self._wire = wire
        self._node_id = node_id
        self._secrets = tuple(secrets)
        self._clock = clock

    async def ask(self, owner: Member, ask: Ask) -> NamedSource:
        """Ask the owner of a block where to read it. Raise PeerFailed."""
        values = await self._get_json(owner, owner.control_url, ask.target())
        try:
            return NamedSource.parse(values)
        except ValueError as error:
            raise self._failed(owner, "wrong", str(error)) from error

    async def read_block(self, source: Member, wanted: WantedBlock, sink: ByteSink) -> Tail:
        """Read the bytes into the sink. Return the tail, which describes the whole block.

        Raise PeerFailed, and the sink's errors.
        """
        length = wanted.end - wanted.start
        tailed = _TailedSink(sink, length)

        def accept(head: ResponseHead) -> ByteSink | None:
            return tailed if head.status == 200 and _length(head) == length + TAIL_BYTES else None

        try:
            answer, signed = await self._get(source, source.url, wanted.target(), accept)
        finally:
            PEER_RECEIVED_BYTES.inc(tailed.taken_bytes)
        if len(tailed.tail) != TAIL_BYTES:
            raise self._refusal(source, answer)
        tail = Tail.parse(bytes(tailed.tail), signed.proofs)
        if wanted.proved and tail.crc32c is not None and not tail.proved:
            raise self._failed(source, "wrong", "a checksum without a proof")
        return tail

    async def read_record(self, owner: Member, wanted: WantedRecord) -> Any:
        """Return the record of a key from its owner, as JSON. Raise PeerFailed."""
        return await self._get_json(owner, owner.url, wanted.target())

    async def _get_json(self, member: Member, url: str, target: bytes) -> Any:
        answer, _ = await self._get(member, url, target, lambda head: None)
        if answer.status != 200:
            raise self._refusal(member, answer)
        try:
            return parse_json(answer.body, bytes_max=ANSWER_BYTES_MAX)
        except ValueError as error:
            raise self._failed(member, "wrong", f"an answer that can't be read: {error}") from error

    async def _get(
        self, member: Member, url: str, target: bytes, accept: Callable[[ResponseHead], ByteSink | None]
    ) -> tuple[Response, Signed]:
        """Send a GET. The answer is proved, except a 401: its sender does not accept this node's signature."""
        signed = sign(
            self._secrets,
            sender=self._node_id,
            receiver=member.node_id,
            method="GET",
            target=target,
            now_s=self._clock(),
        )

        streamed = False

        def judge(head: ResponseHead) -> ByteSink | None:
            nonlocal streamed
            sink = accept(head)
            if sink is not None:
                streamed = True
                if not signed.proves_stream(_proof(head), head.status, _length(head) or 0):
                    raise self._foreign(member, url)
            return sink

        try:
            endpoint = Endpoint.parse(url)
            answer = await self._wire.get(endpoint, target, (("authorization", signed.authorization),), judge)
        except TimedOut as error:
            raise self._failed(member, "silent", str(error)) from error
        except MalformedResponse as error:
            raise self._failed(member, "wrong", str(error)) from error
        except (ConnectFailed, WireError, ValueError) as error:
            raise self._failed(member, "gone", str(error)) from error
        if answer.status == 401:
            said = answer.body[:100].decode("utf-8", "replace").strip()
            _refused.say(
                f"the node at {url} refuses this node's signature ({said!r}): compare cluster.secret on both, their"
                " clocks, and their versions"
            )
        elif not streamed and not signed.proves_answer(_proof(answer.head), answer.status, answer.body):
            raise self._foreign(member, url)
        return answer, signed

    def _foreign(self, member: Member, url: str) -> PeerFailed:
        _foreign.say(
            f"an answer from {url} does not prove that the node there gave it: compare cluster.secret on both; else"
            " something on the way changes what nodes say"
        )
        return self._failed(member, "foreign", "an answer without the fleet's proof")

    def _refusal(self, member: Member, answer: Response) -> PeerFailed:
        reason = _REASONS.get(answer.status, "wrong")
        said = answer.body[:200].decode("utf-8", "replace").strip()
        return self._failed(member, reason, f"answered {answer.status} {said}")

    def _failed(self, member: Member, reason: str, message: str) -> PeerFailed:
        PEER_FAILURES.labels(reason).inc()
        return PeerFailed(member.node_id, reason, message)


class _TailedSink:
    """A sink that passes the body's bytes on and keeps those of the tail."""

    def __init__(self, sink: ByteSink, length: int) -> None:
        self._sink = sink
        self._left = length
        self.taken_bytes = 0
        self.tail = bytearray()

    def write(self, data: memoryview) -> Awaitable[None] | None:
        body = data[: self._left]
        self.tail += data[len(body) :]
        self._left -= len(body)
        self.taken_bytes += len(body)
        return self._sink.write(body) if len(body) else None


def _length(head: ResponseHead) -> int | None:
    values = [value for name, value in head.headers if name == "content-length"]
    return int(values[0]) if len(values) == 1 and values[0].isascii() and values[0].isdigit() else None


def _proof(head: ResponseHead) -> str | None:
    given = [value for name, value in head.headers if name == PROOF_HEADER]
    return given[0] if len(given) == 1 else None
