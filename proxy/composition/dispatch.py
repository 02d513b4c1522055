"""Which application a request is for: the gateway's own pages, the S3 surface or the GCS surface. For both lanes.

How it works. `/-/` on a path-style host is the gateway's own: no bucket can be called `-`, so nothing is taken from
anybody (where the host names the bucket, `/-/x` is a key). Such a request is answered whatever is full. All else is a
client's; which dialect it speaks is decided as `proxy.http.dialects` says. Only where neither listener, host, signature
nor path tells (an anonymous GET of `/bucket/key`) is the bucket looked up, for its origin's dialect. What there is no
room for goes to the surface, too, which refuses it in its own words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gcsapi.targets import json_endpoint
from proxy.admission import Admission, Room
from proxy.errors import InvalidRequest, WarmstartError
from proxy.gateway.routes import Routes
from proxy.http.dialects import Dialect, sniff
from proxy.http.headers import HOPS
from proxy.http.targets import bucket_of_host, decode_name, host_name, split_target
from proxy.http.trail import LOOP_STATUS, Trail
from proxy.lanes.hot import AnswerHot, Fields, HotAnswer, LocalAddress
from proxy.lanes.incoming import FULL, REFUSED, raw_target
from proxy.process.logs import App, Message, Receive, Send

GUESSES_MAX = 4096
NAMED_BYTES_MAX = 2048  # of a target and a host that are remembered: 9 MiB in all; a key has 1024, a query some more
ListenerAddress = tuple[str, int]  # a local address and port


@dataclass(frozen=True, slots=True)
class DialectRules:
    """What of the configuration tells dialects apart: listeners and host suffixes, by the one dialect they speak.

    `listeners` are addresses as the kernel tells them for a connection, "" for every address. A suffix of both dialects
    has None.
    """

    listeners: Mapping[ListenerAddress, Dialect] = field(default_factory=dict)
    suffixes: Mapping[str, Dialect | None] = field(default_factory=dict)

    def of_listener(self, server: Sequence[object] | None) -> Dialect | None:
        if not self.listeners or server is None or len(server) < 2:
            return None
        address, port = str(server[0]), int(str(server[1]))
        return self.listeners.get((address, port)) or self.listeners.get(("", port))

    def of_host(self, host: str | None) -> Dialect | None:
        """By the longest suffix that the host has, or is."""
        name = host_name(host)
        fitting = [suffix for suffix in self.suffixes if name == suffix or name.endswith("." + suffix)]
        return self.suffixes[max(fitting, key=len)] if fitting else None


class AnswersHot(Protocol):
    """What `lanes.hot` asks of a surface; `bare`: nothing in the request says which dialect's client asks."""

    def __call__(self, method: bytes, target: bytes, fields: Fields, *, bare: bool) -> HotAnswer | None: ...


@dataclass(frozen=True, slots=True)
class Surface:
    """A dialect's application, and what it answers at once."""

    app: App
    answer_hot: AnswersHot


class LateSurface:
    """One whose code is loaded when somebody first asks for it: a start should not wait for a dialect nobody speaks."""

    def __init__(self, build: Callable[[], Surface]) -> None:
        self._build = build
        self._surface: Surface | None = None

    @property
    def surface(self) -> Surface:
        if self._surface is None:
            self._surface = self._build()
        return self._surface

    async def app(self, scope: Message, receive: Receive, send: Send) -> None:
        await self.surface.app(scope, receive, send)

    def answer_hot(self, method: bytes, target: bytes, fields: Fields, *, bare: bool) -> HotAnswer | None:
        return self.surface.answer_hot(method, target, fields, bare=bare)


_HOPS = HOPS.encode()


class Dispatcher:
    """One application of several. `admin` answers `/-/`, and `peers`, in a fleet, what other nodes ask there.

    `trail` knows requests that have been here before.
    """

    def __init__(
        self,
        admin: App,
        peers: App | None,
        surfaces: Mapping[Dialect, Surface | LateSurface],
        routes: Routes,
        rules: DialectRules,
        admission: Admission | None = None,
        trail: Trail | None = None,
    ) -> None:
        self._admission = admission or Admission()
        self._admin = admin
        self._peers = peers
        self._surfaces = surfaces
        self._routes = routes
        self._rules = rules
        self._trail = trail
        self._suffixes = tuple(rules.suffixes)
        self._guessed: dict[tuple[bytes, str | None], Dialect] = {}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        full: Room | None = (scope.get("extensions") or {}).get(FULL, {}).get("room")
        if full is not None:
            send = closing(send)
        fields = dict(scope["headers"])
        target = raw_target(scope)
        host = host_of(target, fields)
        if scope["raw_path"].startswith(b"/-/") and bucket_of_host(host, self._suffixes) is None:
            peers = self._peers if scope["raw_path"].startswith(b"/-/peer/") else None
            await (peers or self._admin)(scope, receive, send)
            return
        marks = fields.get(_HOPS)
        if marks is not None and self._trail is not None and self._trail.loops(marks.decode("latin-1")):
            await send({"type": "http.response.start", "status": LOOP_STATUS, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
            return
        asked = self._rules.of_listener(scope.get("server")) or self._rules.of_host(host)
        dialect = asked or sniff(fields, scope["query_string"]) or self.guess(target, host)
        app, requests = self._surfaces[dialect].app, self._admission.requests
        if full is None and requests.is_full:
            full = requests
        if full is not None:  # refused in the dialect's own words
            scope[REFUSED] = full.refuse()
            await app(scope, receive, send)
            return
        with requests.taken():
            await app(scope, receive, send)

    def answers_at(self, server: LocalAddress) -> AnswerHot:
        """Who answers at once on connections to a local address: the one dialect's surface, or `answer_hot`."""
        dialect = self._rules.of_listener(server)
        if dialect is None:
            return self.answer_hot
        answer = self._surfaces[dialect].answer_hot

        def answer_only(method: bytes, target: bytes, fields: Fields) -> HotAnswer | None:
            bare = sniff(fields, target.partition(b"?")[2]) is None
            return answer(method, target, fields, bare=bare)

        return answer_only

    def answer_hot(self, method: bytes, target: bytes, fields: Fields) -> HotAnswer | None:
        """What the surface answers at once that would get the request, on a listener of both dialects."""
        said = sniff(fields, target.partition(b"?")[2])
        dialect = said or self._remember(target, fields)
        if self._suffixes:
            dialect = self._rules.of_host(host_of(target, fields)) or dialect
        return self._surfaces[dialect].answer_hot(method, target, fields, bare=said is None)

    def _remember(self, target: bytes, fields: Fields) -> Dialect:
        """What `guess` says. The gateway's own pages are nobody's objects, so they need no look here."""
        host = host_of(target, fields) if self._suffixes else None
        found = self._guessed.get((target, host))
        if found is None:
            found = self.guess(target, host)
            if len(target) + len(host or "") <= NAMED_BYTES_MAX:
                if len(self._guessed) >= GUESSES_MAX:
                    self._guessed.clear()
                self._guessed[target, host] = found
        return found

    def guess(self, target: bytes, host: str | None) -> Dialect:
        """The dialect of a request that says nothing itself: its path's, or that of the bucket's origin."""
        try:
            host, path, _ = split_target(target, host)
            bucket = bucket_of_host(host, self._suffixes) if self._suffixes else None
            if bucket is None:
                if json_endpoint(path) is not None:
                    return Dialect.GCS
                bucket = decode_name(path[1:].partition(b"/")[0])
            route = self._routes.route(bucket) if bucket else self._routes.wildcard
        except WarmstartError:
            return Dialect.S3
        return Dialect.GCS if route is not None and route.origin.dialect == "gcs" else Dialect.S3


def closing(send: Send) -> Send:
    """Ends the connection with this answer."""

    async def send_and_close(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
        await send(message)

    return send_and_close


def host_of(target: bytes, fields: Mapping[bytes, bytes]) -> str | None:
    """An absolute-form target's authority outranks the Host header (RFC 9112, section 3.2.2)."""
    if not target.startswith(b"/"):
        try:
            return split_target(target, None)[0]
        except InvalidRequest:
            pass
    host = fields.get(b"host")
    return host.decode("latin-1") if host is not None else None
