"""The control process's answers to other nodes: sources of blocks, hellos, the list of members. Signed GETs only.

An ASGI application without a framework: there are thousands of asks per second, with small answers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, Protocol

from proxy.fleet.callers import Callers, address_of
from proxy.fleet.members.registry import MemberRegistry
from proxy.fleet.members.status import render_status
from proxy.fleet.protocol import ASK_PATH, HELLO_PATH, parse_query
from proxy.fleet.signing import PROOF_HEADER, Caller, Refusal

HEALTH_PATH = "/-/health"
MEMBERS_PATH = "/-/peer/members"

_BODY_HEADERS = (b"content-length", b"transfer-encoding")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class AnswersAsks(Protocol):
    """The block directory: `proxy.fleet.directory.BlockDirectory`."""

    def answer(self, query: Mapping[str, str], caller: str) -> dict[str, Any]: ...


class ControlApp:
    """The control API. `secrets`: the fleet's. `clock` is Unix time."""

    def __init__(
        self,
        registry: MemberRegistry,
        directory: AnswersAsks,
        secrets: Sequence[bytes],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._registry = registry
        self._desk = directory
        self._callers = Callers(secrets, clock)

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
        caller = self._identify(scope, path, target)
        if isinstance(caller, Refusal):
            return 401, [], b"" if caller is Refusal.UNSIGNED else f"{caller}\n".encode()
        status, headers, body = 200, [(b"content-type", b"application/json")], b""
        try:
            said = self._say(path, query, caller)
            status, body = (200, said) if said is not None else (404, b"")
        except ValueError as error:
            status, headers, body = 400, [], str(error).encode("utf-8", "replace")
        proof = caller.proofs.answer(status, body)
        return status, [*headers, (PROOF_HEADER.encode(), proof.encode())], body

    def _identify(self, scope: Scope, path: str, target: bytes) -> Caller | Refusal:
        """Return the caller, or why it is refused.

        An ask must name this node. A hello or a request for the members need not: its sender may not know this node
        yet.
        """
        own = self._registry.own.node_id
        return self._callers.identify(
            scope["headers"],
            receivers=(own,) if path == ASK_PATH else (own, ""),
            method="GET",
            target=target,
            address=address_of(scope.get("client")),
        )

    def _say(self, path: str, query: bytes, caller: Caller) -> bytes | None:
        """Return the answer's JSON; None: no such path. Raise ValueError for a query that can't be answered."""
        if path == ASK_PATH:
            return json.dumps(self._desk.answer(parse_query(query), caller.node_id)).encode()
        if path == HELLO_PATH:
            return render_status(self._registry.last_status())
        if path == MEMBERS_PATH:
            own = self._registry.own.node_id
            return json.dumps({"node": own, "members": self._registry.describe()}).encode()
        return None
