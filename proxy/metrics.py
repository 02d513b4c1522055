"""Every counter of this gateway, each defined in a phrase. Summed over workers by prometheus-client's own files."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from prometheus_client import Counter, Gauge

REQUESTS = Counter(
    "warmstart_requests",
    "Requests answered, by surface operation, status, lane (asgi, express) and X-Cache (HIT, PARTIAL, MISS, STALE,"
    " BYPASS)",
    ["operation", "status", "lane", "cache"],
)
SENT_BYTES = Counter(
    "warmstart_sent_bytes", "Body bytes sent, by source (disk, memory, forward, peer: to other nodes)", ["source"]
)
ORIGIN_REQUESTS = Counter(
    "warmstart_origin_requests",
    "Requests made to origins, by origin and kind (head, read, list, forward)",
    ["origin", "kind"],
)
ORIGIN_BYTES = Counter("warmstart_origin_bytes", "Body bytes received from origins by reads", ["origin"])
ORIGIN_ERRORS = Counter(
    "warmstart_origin_errors",
    "Failed origin requests, by reason (connect, reset, short, throttled, server, mismatch, timeout, refused,"
    " credentials, redirect, loop, missing, disk)",
    ["origin", "reason"],
)
ORIGIN_RETRIES = Counter("warmstart_origin_retries", "Origin reads tried again", ["origin"])
ORIGIN_RATE = Gauge(
    "warmstart_origin_rate",
    "Requests per second that the origin gets at most, all workers together; infinite: no limit",
    ["origin"],
    multiprocess_mode="mostrecent",
)
ORIGIN_CONCURRENCY = Gauge(
    "warmstart_origin_concurrency",
    "Requests under way at the origin at most, all workers together",
    ["origin"],
    multiprocess_mode="mostrecent",
)
ORIGIN_UNDER_WAY = Gauge(
    "warmstart_origin_under_way",
    "Requests under way at the origin, all workers together",
    ["origin"],
    multiprocess_mode="mostrecent",
)
ORIGIN_WAITING = Gauge(
    "warmstart_origin_waiting",
    "Requests that wait for their turn at the origin",
    ["origin"],
    multiprocess_mode="livesum",
)
ORIGIN_HEDGES = Counter(
    "warmstart_origin_hedges", "Second requests for bytes that were late (`hedge` of the origin)", ["origin"]
)
FILLS = Counter(
    "warmstart_fills", "Blocks brought in, by outcome (done, taken_over, put_off, failed, cancelled)", ["outcome"]
)
UNCACHED_READS = Counter(
    "warmstart_uncached_reads",
    "Spans streamed through memory, by reason (store, sum_mismatch, uncacheable)",
    ["reason"],
)
SHED_REQUESTS = Counter(
    "warmstart_shed_requests",
    "Requests refused because there was no room, by what was full (connections, address, requests, bodies,"
    " pass_through, uncached_reads)",
    ["reason"],
)
LIMIT = Gauge(
    "warmstart_limit",
    "How much this node lets in at once, all workers together, by what (the reasons of warmstart_shed_requests)",
    ["reason"],
    multiprocess_mode="livesum",
)
LIMIT_USED = Gauge(
    "warmstart_limit_used",
    "How much of each limit is in use, all workers together (address: by the address that has most connections)",
    ["reason"],
    multiprocess_mode="livesum",
)
AHEAD_BLOCKS = Counter("warmstart_ahead_blocks", "Blocks asked for ahead of ranged requests that come in order")
ASIDE_READS = Counter(
    "warmstart_aside_reads", "Small reads far from their block's fill, fetched by requests of their own"
)
STALE_SERVED = Counter("warmstart_stale_served", "Answers given past their freshness because the origin was down")
CHECKSUM_FAILURES = Counter(
    "warmstart_checksum_failures", "Bytes found wrong, by where (block, object, scrub, peer)", ["where"]
)
EVICTED_SEGMENTS = Counter(
    "warmstart_evicted_segments", "Segments retired, by reason (space, damage, scrub, write_back)", ["reason"]
)
EVICTED_BYTES = Counter(
    "warmstart_evicted_bytes", "Allocated bytes freed, by reason (space, damage, scrub, write_back)", ["reason"]
)
DISK_USED_BYTES = Gauge(
    "warmstart_disk_used_bytes",
    "Bytes allocated under a cache disk",
    ["disk"],
    multiprocess_mode="mostrecent",
)
DISK_LEAVING_BYTES = Gauge(
    "warmstart_disk_leaving_bytes",
    "Of those, bytes of evicted files that are still open: somebody is being sent from them",
    ["disk"],
    multiprocess_mode="mostrecent",
)
DISK_FAILED = Gauge("warmstart_disk_failed", "1 while a disk is out of service", ["disk"], multiprocess_mode="max")
SLOW_CALLBACKS = Counter(
    "warmstart_slow_callbacks", "Pieces of work that held an event loop for longer than `limits.slow_callback`"
)
WRITE_BACK_FAILURES = Counter(
    "warmstart_write_back_failures", "Segments given up because the disk could not store what it had taken", ["disk"]
)
WORKER_RESTARTS = Counter(
    "warmstart_worker_restarts",
    "Processes restarted by the supervisor, by role (worker, housekeeper, control)",
    ["role"],
)
RECORD_FAILURES = Counter(
    "warmstart_record_failures",
    "Key records that a disk could not keep or give, by reason (full, broken, other)",
    ["reason"],
)

FLEET_MEMBERS = Gauge(
    "warmstart_fleet_members",
    "Nodes of the fleet that this one knows, itself among them",
    multiprocess_mode="mostrecent",
)
FLEET_COORDINATED = Gauge(
    "warmstart_fleet_coordinated", "1 while Redis answers this node; 0 without one", multiprocess_mode="mostrecent"
)
FLEET_FAILED_BEATS = Counter("warmstart_fleet_failed_beats", "Heartbeats that Redis did not take")
FLEET_TWINS = Gauge(
    "warmstart_fleet_twins",
    "1 while another node has the id of this one: a copied disk",
    multiprocess_mode="mostrecent",
)
MISSING_REMEMBERED = Counter(
    "warmstart_missing_remembered", "Requests for keys of which the origin said lately that they do not exist"
)
PEER_REFUSED = Counter(
    "warmstart_peer_refused",
    "Requests for members of the fleet only that were refused, by reason (unsigned, secret, clock, protocol, replayed)",
    ["reason"],
)
WRITES_TOLD = Counter(
    "warmstart_writes_told",
    "Writes that the fleet was told of, by outcome (acknowledged: by every node; waited_out: some node was silent until"
    " it could serve nothing old; untold: Redis did not answer)",
    ["outcome"],
)
DROPPED_MESSAGES = Counter(
    "warmstart_fleet_dropped_messages",
    "Messages in Redis that were dropped, by kind (member, news, lease, limits) and reason (signature: not sealed with"
    " the fleet's secret; time: too old or too early; stamp: a number that Redis did not make; malformed)",
    ["kind", "reason"],
)
KEYS_HEARD = Counter("warmstart_keys_heard", "Keys forgotten because another node has written them")
PEER_RECEIVED_BYTES = Counter("warmstart_peer_received_bytes", "Bytes of blocks received from other nodes")
PEER_UPLOADS = Counter(
    "warmstart_peer_uploads",
    "Blocks, or parts of one, asked for by other nodes, by outcome (done, broken, busy, missing, unavailable)",
    ["outcome"],
)
PEER_FAILURES = Counter(
    "warmstart_peer_failures",
    "Requests that another node failed, by reason (gone, silent, busy, refused, foreign, wrong, missing, unavailable)",
    ["reason"],
)
RELAYED_FILLS = Counter(
    "warmstart_relayed_fills",
    "Blocks brought in within a fleet, by whose bytes they are (zone, region, former, lease, origin, mixed)",
    ["source"],
)
UNLEASED_FILLS = Counter(
    "warmstart_unleased_fills",
    "Blocks asked of an origin without the fleet's lease, by reason (redis: it does not answer, holder: who has the"
    " lease gives nothing)",
    ["reason"],
)
REREAD_BYTES = Counter(
    "warmstart_reread_bytes", "Bytes read again from an origin to check what a node gave before it was gone"
)

_WHY_EVICTED = ("space", "damage", "scrub", "write_back")

_SHED_FOR = ("connections", "address", "requests", "bodies", "pass_through", "uncached_reads")

OPEN_LABELS = ("origin", "operation", "status", "disk")
"""Labels without a list of values: names and paths from the settings, a surface's operations, HTTP's statuses."""

LABEL_VALUES: dict[Counter | Gauge, dict[str, tuple[str, ...]]] = {
    REQUESTS: {"lane": ("asgi", "express"), "cache": ("HIT", "PARTIAL", "MISS", "STALE", "BYPASS")},
    ORIGIN_REQUESTS: {"kind": ("head", "read", "list", "forward")},
    ORIGIN_BYTES: {},
    ORIGIN_ERRORS: {
        "reason": (
            *("connect", "reset", "short", "throttled", "server", "mismatch", "timeout"),
            *("refused", "credentials", "redirect", "loop", "missing", "disk"),
        )
    },
    ORIGIN_RETRIES: {},
    ORIGIN_HEDGES: {},
    ORIGIN_RATE: {},
    ORIGIN_CONCURRENCY: {},
    ORIGIN_UNDER_WAY: {},
    ORIGIN_WAITING: {},
    SENT_BYTES: {"source": ("disk", "memory", "forward", "peer")},
    FILLS: {"outcome": ("done", "taken_over", "put_off", "failed", "cancelled")},
    UNCACHED_READS: {"reason": ("store", "sum_mismatch", "uncacheable")},
    SHED_REQUESTS: {"reason": _SHED_FOR},
    LIMIT: {"reason": _SHED_FOR},
    LIMIT_USED: {"reason": _SHED_FOR},
    CHECKSUM_FAILURES: {"where": ("block", "object", "scrub", "peer")},
    EVICTED_SEGMENTS: {"reason": _WHY_EVICTED},
    EVICTED_BYTES: {"reason": _WHY_EVICTED},
    DISK_USED_BYTES: {},
    DISK_LEAVING_BYTES: {},
    DISK_FAILED: {},
    WRITE_BACK_FAILURES: {},
    WORKER_RESTARTS: {"role": ("worker", "housekeeper", "control")},
    RECORD_FAILURES: {"reason": ("full", "broken", "other")},
    WRITES_TOLD: {"outcome": ("acknowledged", "waited_out", "untold")},
    PEER_UPLOADS: {"outcome": ("done", "broken", "busy", "missing", "unavailable")},
    PEER_FAILURES: {
        "reason": ("gone", "silent", "busy", "refused", "foreign", "wrong", "missing", "unavailable"),
    },
    PEER_REFUSED: {"reason": ("unsigned", "secret", "clock", "protocol", "replayed")},
    DROPPED_MESSAGES: {
        "kind": ("member", "news", "lease", "limits"),
        "reason": ("signature", "time", "stamp", "malformed"),
    },
    RELAYED_FILLS: {"source": ("zone", "region", "former", "lease", "origin", "mixed")},
    UNLEASED_FILLS: {"reason": ("redis", "holder")},
}
"""Every metric with labels, and every value of those that are not open. docs/operations.md says the same."""

_SHOWN_ELSEWHERE = (WORKER_RESTARTS,)  # by the supervisor, for the processes that this node has


def show_zeros(origins: Sequence[str]) -> None:
    """Make every row that can ever count exist, at 0: what appears with its first event has no increase to be seen."""
    for metric, values in LABEL_VALUES.items():
        known = {"origin": tuple(origins), **values}
        if not isinstance(metric, Counter) or metric in _SHOWN_ELSEWHERE or not known.keys() >= set(metric._labelnames):
            continue
        for row in product(*(known[name] for name in metric._labelnames)):
            metric.labels(*row)


class Tally:
    """The answers of one kind that the hot lane has given and the counters don't know yet: two plain integers."""

    __slots__ = ("_bytes", "_requests", "cache", "requests", "sent_bytes")

    def __init__(self, operation: str, status: int, lane: str, cache: str, source: str = "disk") -> None:
        self.cache = cache
        self.requests = 0
        self.sent_bytes = 0
        self._requests = REQUESTS.labels(operation, str(status), lane, cache)
        self._bytes = SENT_BYTES.labels(source)

    def flush(self) -> None:
        """Move what was counted into the counters."""
        if self.requests:
            self._requests.inc(self.requests)
            self.requests = 0
        if self.sent_bytes:
            self._bytes.inc(self.sent_bytes)
            self.sent_bytes = 0


_tallies: dict[tuple[str, int, str, str], Tally] = {}


def tally(operation: str, status: int, lane: str, cache: str) -> Tally:
    """The one tally of these labels, for the event loop's thread; `flush_tallies` empties it."""
    labels = (operation, status, lane, cache)
    found = _tallies.get(labels)
    if found is None:
        found = _tallies[labels] = Tally(*labels)
    return found


def flush_tallies() -> None:
    """Bring the counters up to date: soon after each hot answer, before they are read, and at the end."""
    for found in _tallies.values():
        found.flush()
