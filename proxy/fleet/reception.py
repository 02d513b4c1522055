"""What the control process answers to other nodes: asks for sources, hellos, the list of members. Signed GETs only.

An ASGI application without a framework: an ask is one of thousands a second, and its answer is small.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any, Protocol

from proxy.fleet.asks import ASK_PATH, HELLO_PATH, parse_query
from proxy.fleet.members.company import Company
from proxy.fleet.members.sighting import render_sighting
from proxy.fleet.signing import PROOF_HEADER, Caller, Nonces, verify
from proxy.metrics import PEER_REFUSED

HEALTH_PATH = "/-/health"
MEMBERS_PATH = "/-/peer/members"

_BODY_HEADERS = (b"content-length", b"transfer-encoding")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class AnswersAsks(Protocol):
    """proxy.fleet.desk.Desk."""

    def answer(self, query: Mapping[str, str], caller: str) -> dict[str, Any]: ...


class Reception:
    """`secrets`: the fleet's. `clock` is Unix time."""

    def __init__(
        self,
        company: Company,
        desk: AnswersAsks,
        secrets: Sequence[bytes],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._company = company
        self._desk = desk
        self._secrets = secrets
        self._clock = clock
        self._nonces = Nonces()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        status, headers, body = self._answer(scope)
        if any(name in _BODY_HEADERS and value != b"0" for name, value in scope["headers"]):
            headers = [*headers, (b"connection", b"close")]  # no request has a body here, so none is waited for
        headers = [(b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store"), *headers]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _answer(self, scope: Scope) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        path, query = scope["path"], scope["query_string"]
        if scope["method"] != "GET":
            return 405, [(b"allow", b"GET")], b""
        if path == HEALTH_PATH:
            return 200, [(b"content-type", b"text/plain")], b"healthy\n"
        target = scope["raw_path"] + (b"?" + query if query else b"")
        caller = self._verify(path, scope["headers"], target)
        if caller is None:
            PEER_REFUSED.inc()
            return 401, [], b""
        headers = [(PROOF_HEADER.encode(), caller.proof.encode())]
        try:
            body = self._say(path, query, caller)
        except ValueError as error:
            return 400, headers, str(error).encode("utf-8", "replace")
        if body is None:
            return 404, headers, b""
        return 200, [(b"content-type", b"application/json"), *headers], body

    def _verify(self, path: str, headers: Iterable[tuple[bytes, bytes]], target: bytes) -> Caller | None:
        """An ask is for this very node; who says hello or asks for the members does not know yet whom it meets."""
        own = self._company.own.node_id
        authorization = next((value.decode("latin-1") for name, value in headers if name == b"authorization"), None)
        receivers = (own,) if path == ASK_PATH else (own, "")
        now_s = self._clock()
        caller = verify(self._secrets, authorization, receivers=receivers, method="GET", target=target, now_s=now_s)
        if caller is None or not self._nonces.take(caller.nonce, now_s):
            return None
        return caller

    def _say(self, path: str, query: bytes, caller: Caller) -> bytes | None:
        """Raises ValueError for a query that can't be answered."""
        if path == ASK_PATH:
            return json.dumps(self._desk.answer(parse_query(query), caller.node_id)).encode()
        if path == HELLO_PATH:
            return render_sighting(self._company.last_sight())
        if path == MEMBERS_PATH:
            own = self._company.own.node_id
            return json.dumps({"node": own, "members": self._company.describe()}).encode()
        return None
