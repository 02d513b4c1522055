"""The composition root: builds every part of a worker once from the settings, and wires them into one application.

The only place, with the command line, that knows both the engine and the surfaces. `proxy.process.worker` runs what is
built here.
"""

from __future__ import annotations

import hmac
import importlib
import resource
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from proxy.admin.app import AdminApp
from proxy.admin.readiness import Readiness
from proxy.admission import Admission
from proxy.cache.shared import SharedTables
from proxy.cache.store import Store
from proxy.composition.dispatch import DialectRules, Dispatcher, LateSurface, ListenerAddress, Surface
from proxy.composition.fleet import FLEET_WINDOW_BLOCKS, FleetParts, build_fleet, room_above
from proxy.composition.store import build_store
from proxy.composition.upstream import build_throttles
from proxy.concurrency.threads import Threads
from proxy.config.handover import WILDCARD
from proxy.fill.flight import Flights
from proxy.fill.follow import Followers
from proxy.fill.limiter import FillLimiter
from proxy.fill.supply import Supply
from proxy.fleet.state import FleetState
from proxy.gateway.body import BodyParts
from proxy.gateway.forward import Forwarder
from proxy.gateway.read import Gateway
from proxy.gateway.routes import BucketRoute, Consistency, FreshnessWindow, Routes
from proxy.gateway.verify import ObjectVerifier
from proxy.gateway.versions import Versions
from proxy.http.dialects import Dialect
from proxy.http.headers import Headers
from proxy.http.trail import Trail, no_marks
from proxy.lanes.hot import AnswerHot, AnswersAt
from proxy.metrics import show_zeros
from proxy.origin import Builder, Origin
from proxy.origin.incidents import Incidents
from proxy.origin.watched import WatchedOrigin, watched
from proxy.process.logs import AccessLog, App
from proxy.upstream.retry import RetryPolicy
from proxy.upstream.throttle import OriginThrottles
from s3api.app import S3App

if TYPE_CHECKING:
    from proxy.config.buckets import BucketSettings
    from proxy.config.limits import LimitSettings
    from proxy.config.origins import AnyOriginSettings
    from proxy.config.settings import Settings


DESCRIPTORS_PER_CONNECTION = 2  # its socket, and the copy that sendfile uses
OWN_DESCRIPTORS = 384  # a worker's own, its connections to origins, and those in reserve
CONNECTIONS_MIN, CONNECTIONS_MAX = 64, 16_384
ADDRESS_SHARE = 0.75  # of the connections, for one address
_SESSIONS = b"warmstart upload sessions"  # what the fleet's secret is used for here
STOPPED_S = 5.0  # a worker ticks each second


@dataclass(slots=True)
class Parts:
    """What one worker consists of. `app` answers every request, `answer_hot` at once those that it can;
    `answers_at` tells who does that on connections to a local address."""

    app: App
    answer_hot: AnswerHot
    answers_at: AnswersAt
    readiness: Readiness
    store: Store
    gateway: Gateway
    followers: Followers
    forwarder: Forwarder
    origins: Mapping[str, WatchedOrigin]
    throttles: OriginThrottles
    writer_threads: ThreadPoolExecutor
    flights: Flights
    admission: Admission
    fleet: FleetParts | None = None

    async def aclose(self) -> None:
        """Ends fills and fences in order, so that nothing is written to a disk that is being left."""
        await self.forwarder.aclose()
        await self.followers.aclose()
        await self.gateway.aclose()
        if self.fleet is not None:
            await self.fleet.aclose()
        for origin in self.origins.values():
            await origin.aclose()
        self.writer_threads.shutdown()
        self.store.close()


def build_parts(
    settings: Settings,
    tables: SharedTables,
    run_id: str,
    writer_id: str,
    listeners: Sequence[socket.socket] = (),
    fleet_state: FleetState | None = None,
    row: int = 0,
) -> Parts:
    """Call it with the event loop running. `listeners` are those of `settings.listen`; `fleet_state` is the fleet's
    memory, None for a node alone, and `row` this worker's on it. Raises ConfigInvalid."""
    limits = settings.limits
    admission = build_admission(settings)
    writer_threads = ThreadPoolExecutor(limits.writer_threads, "writer")
    store = build_store(settings, tables, run_id, writer_id, writer_threads)
    trail = Trail(run_id)
    origins = _build_origins(settings, trail)
    throttles = build_throttles(settings, origins, tables)
    policy = RetryPolicy(deadline_s=limits.retry_deadline, throttles=throttles, reader_pace=limits.reader_pace)
    threads = Threads()
    fleet, window_blocks = None, limits.read_ahead_blocks
    above: Mapping[int, FillLimiter] = {}
    if fleet_state is not None:
        fleet = build_fleet(settings, tables, fleet_state, row, store.node_id, origins)
        above = room_above(limits.fills, limits.fill_bytes)
        window_blocks = max(window_blocks, FLEET_WINDOW_BLOCKS)
    publisher = fleet.publisher if fleet is not None else None
    flights = _build_flights(limits, policy, above)
    followers = Followers(flights, stopped=lambda: tables.stopped(time.monotonic(), STOPPED_S))
    verifier = ObjectVerifier(store, threads, versions_max=limits.metadata_entries)
    supply = Supply(store, flights, followers, threads, fleet.relays if fleet is not None else None)
    room = admission.uncached_reads
    body_parts = BodyParts(supply, verifier, policy, store.block_bytes, window_blocks, limits.stall_timeout, room)
    versions = build_versions(store, tables, policy, threads, fleet, keys_max=limits.metadata_entries)
    routes = build_routes(settings, origins, fleet.freshness if fleet is not None else None)
    gateway = Gateway(routes, versions, store, flights, body_parts)
    tell, room = publisher.tell if publisher is not None else None, admission.pass_through
    forwarder = Forwarder(store.keys, tell=tell, room=room, reader_pace=limits.reader_pace)
    readiness = Readiness(build_checks(store, fleet))
    peers = fleet.peer_app(supply, versions, origins, store) if fleet is not None else None
    app = build_dispatcher(settings, listeners, AdminApp(readiness), peers, gateway, forwarder, store, admission, trail)
    return Parts(
        app=AccessLog(app, probes=settings.log.probes) if settings.log.access else app,
        answer_hot=app.answer_hot,
        answers_at=app.answers_at,
        readiness=readiness,
        store=store,
        gateway=gateway,
        followers=followers,
        forwarder=forwarder,
        origins=origins,
        throttles=throttles,
        writer_threads=writer_threads,
        flights=flights,
        admission=admission,
        fleet=fleet,
    )


def _build_flights(limits: LimitSettings, policy: RetryPolicy, above: Mapping[int, FillLimiter]) -> Flights:
    """`above` has the room of fills that wait for other nodes."""
    limiter = FillLimiter(bytes_in_flight_max=limits.fill_bytes, fills_max=limits.fills)
    return Flights(limiter, policy, above, limits.room_wait)


def build_versions(
    store: Store,
    tables: SharedTables,
    policy: RetryPolicy,
    threads: Threads,
    fleet: FleetParts | None,
    *,
    keys_max: int,
) -> Versions:
    return Versions(
        store.keys,
        tables.tokens,
        policy,
        threads=threads,
        keys_max=keys_max,
        owner=fleet.key_owners if fleet is not None else None,
        announce=fleet.publisher.announce if fleet is not None and fleet.publisher is not None else None,
    )


def build_admission(settings: Settings) -> Admission:
    """A worker's. Connections are as many as its open files allow, where the settings don't say."""
    limits = settings.limits
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = int(descriptors * (1 - settings.cache.open_files_share)) - OWN_DESCRIPTORS
    by_files = max(CONNECTIONS_MIN, min(free // DESCRIPTORS_PER_CONNECTION, CONNECTIONS_MAX))
    connections = limits.connections or by_files
    return Admission(
        connections=connections,
        connections_per_address=limits.connections_per_address or max(1, int(connections * ADDRESS_SHARE)),
        requests=limits.requests,
        body_bytes=limits.body_bytes,
        pass_through=limits.pass_through,
        uncached_reads=limits.uncached_reads,
    )


def build_checks(store: Store, fleet: FleetParts | None) -> dict[str, Callable[[], bool]]:
    """What must hold for this worker to be ready, by the sentence that is true where it does not."""
    checks: dict[str, Callable[[], bool]] = {"no disk of the cache can be written": store.disks_writable}
    if fleet is not None:
        checks["this node does not know its own address in the fleet yet"] = fleet.is_located
    return checks


def build_dispatcher(
    settings: Settings,
    listeners: Sequence[socket.socket],
    admin: App,
    peers: App | None,
    gateway: Gateway,
    forwarder: Forwarder,
    store: Store,
    admission: Admission,
    trail: Trail,
) -> Dispatcher:
    """The surfaces, and what tells whose a request is."""
    rules = build_dialect_rules(settings, listeners)
    common: dict[str, Any] = {
        "host_suffixes": tuple(rules.suffixes),
        "body_timeout_s": settings.limits.receive_timeout,
        "upload_pace": settings.limits.upload_pace,
        "admission": admission,
        "on_read_error": store.note_read_error,
    }
    s3 = S3App(gateway, forwarder, **common)

    def build_gcs() -> Surface:
        from gcsapi.app import GcsApp

        gcs = GcsApp(gateway, forwarder, session_keys=build_session_keys(settings), **common)
        return Surface(gcs, gcs.answer_hot)

    surfaces: dict[Dialect, Surface | LateSurface] = {
        Dialect.S3: Surface(s3, s3.answer_hot),
        Dialect.GCS: LateSurface(build_gcs),
    }
    return Dispatcher(admin, peers, surfaces, gateway.routes, rules, admission, trail)


def build_session_keys(settings: Settings) -> Sequence[bytes]:
    """What resumable uploads are signed with: keys of the fleet's secrets, or, of a node alone, its own."""
    if settings.cluster is not None:
        return [hmac.digest(secret, _SESSIONS, "sha256") for secret in settings.cluster.secrets()]
    from proxy.cache.nodekey import open_node_key

    return [open_node_key(settings.cache.disks[0].path)]


def build_dialect_rules(settings: Settings, listeners: Sequence[socket.socket]) -> DialectRules:
    """Listeners of one dialect by their real places: the port may have been chosen by the kernel."""
    dialects: dict[ListenerAddress, Dialect] = {}
    for address, listener in zip(settings.listen, listeners, strict=False):
        if address.dialect is not None:
            host, port = listener.getsockname()[:2]
            dialects["" if host in ("0.0.0.0", "::") else host, port] = Dialect(address.dialect)
    suffixes = {suffix.name: Dialect(suffix.dialect) if suffix.dialect else None for suffix in settings.host_suffixes}
    return DialectRules(dialects, suffixes)


def _build_origins(settings: Settings, trail: Trail) -> dict[str, WatchedOrigin]:
    """By the names that the settings give them; their rows of the metrics are there, too."""
    show_zeros(list(settings.origins))
    rules = settings.origins.items()
    return {name: build_origin(name, rule, settings.limits, trail.headers) for name, rule in rules}


def build_origin(
    name: str, settings: AnyOriginSettings, limits: LimitSettings, marks: Callable[[], Headers] = no_marks
) -> WatchedOrigin:
    """Contacts nobody: an origin that is down does not stop the start. Loads what that kind of origin needs alone."""
    origin = _builder(settings).build(name, settings, limits, marks)
    return watched(origin, Incidents(name, settings.secret_words))


def load_later(origins: Iterable[AnyOriginSettings]) -> None:
    """Blocking: loads what a first request in GCS's dialect needs, and one to these origins, and a start does not."""
    importlib.import_module("gcsapi.app")
    for origin in origins:
        _builder(origin).load_later(origin)


def _builder(settings: AnyOriginSettings) -> Builder:
    """The module that the settings of this kind of origin name."""
    return cast("Builder", importlib.import_module(settings.builder))


def build_routes(settings: Settings, origins: Mapping[str, Origin], freshness: FreshnessWindow | None = None) -> Routes:
    """`freshness`: how long records may be believed in a fleet whose nodes tell each other of writes."""
    rules = settings.bucket_rules()
    routes = {name: _route(settings, name, rule, origins[rule.origin], freshness) for name, rule in rules.items()}
    return Routes({name: route for name, route in routes.items() if name != WILDCARD}, routes.get(WILDCARD))


def _route(
    settings: Settings, name: str, rule: BucketSettings, origin: Origin, freshness: FreshnessWindow | None
) -> BucketRoute:
    return BucketRoute(
        name=name,
        origin=origin,
        real_bucket=rule.bucket or name,
        writes_through=settings.writes_through(rule),
        consistency=Consistency(rule.consistency.kind),
        ttl_s=rule.consistency.ttl_s,
        stale_if_error_s=rule.stale_if_error,
        negative_ttl_s=rule.negative_ttl,
        freshness=freshness,
        replicate=rule.replicate,
    )
