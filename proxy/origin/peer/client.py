"""Requests to other nodes, by the range client: signed, judged by their proof, bodies with a tail.

How it works. Every request is a signed GET (`proxy.fleet.signing`); an answer counts only with the proof that a member
gave it. A block's body is its bytes and eight more, little-endian: flags, and the crc32c of the whole block where the
flag says so. So a body has a length from the start, and leaves the other node by sendfile. While that node waits
itself, it says so by interim heads: one that says nothing for SILENCE_S is gone.
"""

from __future__ import annotations

import hmac
import json
import struct
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from proxy.blocks import ByteSink
from proxy.fleet.asks import TAIL_BYTES, TAIL_KNOWN, Ask, Named, WantedBlock, WantedRecord
from proxy.fleet.roster import Member
from proxy.fleet.signing import PROOF_HEADER, Signed, sign
from proxy.metrics import PEER_FAILURES, PEER_RECEIVED_BYTES
from proxy.origin.peer.errors import PeerFailed
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

SILENCE_S = 2.0  # a peer whose processors are busy is not gone
_TAIL = struct.Struct("<II")
assert _TAIL.size == TAIL_BYTES
_REASONS = {401: "refused", 404: "missing", 409: "busy", 503: "unavailable"}


class PeerClient:
    """Belongs to one event loop; the wire client stays the caller's. `clock` is Unix time."""

    def __init__(
        self, wire: WireClient, node_id: str, secrets: Sequence[bytes], clock: Callable[[], float] = time.time
    ) -> None:
        self._wire = wire
        self._node_id = node_id
        self._secrets = tuple(secrets)
        self._clock = clock

    async def ask(self, owner: Member, ask: Ask) -> Named:
        """Whom to read a block from. Raises PeerFailed."""
        values = await self._get_json(owner, owner.control_url, ask.target())
        try:
            return Named.parse(values)
        except ValueError as error:
            raise self._failed(owner, "wrong", str(error)) from error

    async def read_block(self, source: Member, wanted: WantedBlock, sink: ByteSink) -> int | None:
        """Brings the bytes to the sink; the whole block's crc32c where the source knows it. Raises PeerFailed, and what
        the sink does."""
        length = wanted.end - wanted.start
        tailed = _TailedSink(sink, length)

        def accept(head: ResponseHead) -> ByteSink | None:
            return tailed if head.status == 200 and _length(head) == length + TAIL_BYTES else None

        try:
            answer = await self._get(source, source.url, wanted.target(), accept)
        finally:
            PEER_RECEIVED_BYTES.inc(tailed.taken_bytes)
        if len(tailed.tail) != TAIL_BYTES:
            raise self._refusal(source, answer)
        flags, crc32c = _TAIL.unpack(tailed.tail)
        return crc32c if flags & TAIL_KNOWN else None

    async def read_record(self, owner: Member, wanted: WantedRecord) -> Any:
        """What the owner of a key says of it, as JSON. Raises PeerFailed."""
        return await self._get_json(owner, owner.url, wanted.target())

    async def _get_json(self, member: Member, url: str, target: bytes) -> Any:
        answer = await self._get(member, url, target, lambda head: None)
        if answer.status != 200:
            raise self._refusal(member, answer)
        try:
            return json.loads(answer.body)
        except ValueError as error:
            raise self._failed(member, "wrong", "an answer that is no JSON") from error

    async def _get(
        self, member: Member, url: str, target: bytes, accept: Callable[[ResponseHead], ByteSink | None]
    ) -> Response:
        """A proven answer of any status."""
        signed = sign(
            self._secrets,
            sender=self._node_id,
            receiver=member.node_id,
            method="GET",
            target=target,
            now_s=self._clock(),
        )

        def judge(head: ResponseHead) -> ByteSink | None:
            if not _proven(head, signed):
                if head.status == 401:
                    return None
                raise self._failed(member, "foreign", "an answer without the fleet's proof")
            return accept(head)

        try:
            endpoint = Endpoint.parse(url)
            return await self._wire.get(endpoint, target, (("authorization", signed.authorization),), judge)
        except TimedOut as error:
            raise self._failed(member, "silent", str(error)) from error
        except MalformedResponse as error:
            raise self._failed(member, "wrong", str(error)) from error
        except (ConnectFailed, WireError, ValueError) as error:
            raise self._failed(member, "gone", str(error)) from error

    def _refusal(self, member: Member, answer: Response) -> PeerFailed:
        reason = _REASONS.get(answer.status, "wrong")
        said = answer.body[:200].decode("utf-8", "replace").strip()
        return self._failed(member, reason, f"answered {answer.status} {said}")

    def _failed(self, member: Member, reason: str, message: str) -> PeerFailed:
        PEER_FAILURES.labels(reason).inc()
        return PeerFailed(member.node_id, reason, message)


class _TailedSink:
    """Gives the body's bytes on, and keeps those of the tail."""

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


def _proven(head: ResponseHead, signed: Signed) -> bool:
    given = [value for name, value in head.headers if name == PROOF_HEADER]
    return len(given) == 1 and any(hmac.compare_digest(given[0], proof) for proof in signed.proofs)
