"""`/-/peer/…` as an ASGI application: signed GETs of other nodes. Everyone else is refused, whatever they request.

How it works. The signature is checked first (`proxy.fleet.callers`). Every answer to a member proves that this node is
a member, and that the answer is its own (`proxy.fleet.signing`). While an answer waits for a fill or for an origin,
interim heads show that this node is at work.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from proxy.errors import WarmstartError
from proxy.fleet.callers import Callers, address_of
from proxy.fleet.protocol import BLOCK_PATH, HELLO_PATH, RECORD_PATH, WantedBlock, WantedRecord, parse_query
from proxy.fleet.signing import PROOF_HEADER, Caller, Proofs, Refusal
from proxy.lanes.asgi import INTERIM, DisconnectGuard, PiecesResponse, Receive, Scope, Send
from proxy.lanes.incoming import raw_target
from proxy.metrics import PEER_UPLOADS
from proxy.peering.blocks import Blocks, NotHere
from proxy.peering.keys import Keys

SIGN_OF_LIFE_S = 0.2

log = logging.getLogger(__name__)


class DataApp:
    """The data API. `describe` returns who this node is, as JSON. `clock` is Unix time."""

    def __init__(
        self,
        node_id: str,
        secrets: Sequence[bytes],
        blocks: Blocks,
        keys: Keys,
        describe: Callable[[], Mapping[str, Any]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._node_id = node_id
        self._callers = Callers(secrets, clock)
        self._blocks = blocks
        self._keys = keys
        self._describe = describe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        guard, response = DisconnectGuard(receive), None
        try:
            with guard, guard.waiting():
                response = await self._answer(scope, send)
        finally:
            await guard.aclose()
        if response is None:  # the asking node has gone and waits for nothing here any more
            return
        try:
            await response(scope, receive, send)
        except WarmstartError as error:  # of a body under way: the connection ends short, which shows it
            log.debug("an upload broke off: %s", error)
            raise ConnectionAbortedError(str(error)) from None

    async def _answer(self, scope: Scope, send: Send) -> PiecesResponse:
        target = raw_target(scope)
        path, _, query = target.partition(b"?")
        caller = self._callers.identify(
            scope["headers"],
            receivers=(self._node_id, "") if path == HELLO_PATH.encode() else (self._node_id,),
            method=scope["method"],
            target=target,
            address=address_of(scope.get("client")),
        )
        if isinstance(caller, Refusal):
            return _refuse(caller)
        if scope["method"] != "GET":
            return _text(405, "only GET\n", caller.proofs)
        try:
            fields = parse_query(query)
            async with _lively(scope, send):
                match path.decode("latin-1"):
                    case _ if path == HELLO_PATH.encode():
                        return _json(200, self._describe(), caller.proofs)
                    case _ if path == RECORD_PATH.encode():
                        return _json(*await self._keys.answer(WantedRecord.parse(fields)), caller.proofs)
                    case _ if path == BLOCK_PATH.encode():
                        return await self._block(WantedBlock.parse(fields), caller)
        except ValueError as error:
            return _text(400, f"{error}\n", caller.proofs)
        return _text(404, "no such page\n", caller.proofs)

    async def _block(self, wanted: WantedBlock, caller: Caller) -> PiecesResponse:
        try:
            upload = await self._blocks.open(wanted, caller.proofs)
        except NotHere as error:
            PEER_UPLOADS.labels(error.outcome).inc()
            return _text(error.status, f"{error}\n", caller.proofs)
        except WarmstartError as error:
            PEER_UPLOADS.labels("unavailable").inc()
            return _text(503, f"{error}\n", caller.proofs)
        proof = (PROOF_HEADER, caller.proofs.stream(200, upload.length))
        return PiecesResponse(200, (proof,), upload, upload.length, memory_source="peer", file_source="peer")


@contextlib.asynccontextmanager
async def _lively(scope: Scope, send: Send) -> AsyncIterator[None]:
    """Send interim heads while the block runs: this node is at work."""

    async def say() -> None:
        while True:
            await asyncio.sleep(SIGN_OF_LIFE_S)
            await send({"type": INTERIM})

    task = asyncio.get_running_loop().create_task(say()) if INTERIM in (scope.get("extensions") or {}) else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()


def _refuse(why: Refusal) -> PiecesResponse:
    """Return the refusal, without a proof: for this node, the caller is not a member."""
    body = f"this is for members of the fleet: {why}\n".encode()
    return _reply(401, body, (("content-type", "text/plain; charset=utf-8"),))


def _text(status: int, text: str, proofs: Proofs) -> PiecesResponse:
    return _prove(status, text.encode("utf-8", "replace"), "text/plain; charset=utf-8", proofs)


def _json(status: int, values: object, proofs: Proofs) -> PiecesResponse:
    return _prove(status, json.dumps(values, separators=(",", ":")).encode(), "application/json", proofs)


def _prove(status: int, body: bytes, kind: str, proofs: Proofs) -> PiecesResponse:
    return _reply(status, body, (("content-type", kind), (PROOF_HEADER, proofs.answer(status, body))))


def _reply(status: int, body: bytes, headers: Sequence[tuple[str, str]]) -> PiecesResponse:
    async def once() -> AsyncIterator[bytes]:
        yield body

    return PiecesResponse(status, headers, once(), len(body), memory_source="peer")
