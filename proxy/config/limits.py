"""Every limit of the gateway, with its unit and its reason.

A time-out as long as the deadline above it leaves no time for a retry, so `SHORTER` lists which limits must be shorter
than which. A default shrinks to fit a configured deadline; a configured value must fit.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from proxy.config.quantities import GIB, KIB, MIB, Duration, Size, render_duration
from proxy.config.section import KeyProblem, Section

# A limit, the one above it, and the share of it that is allowed: half of a deadline leaves time for a second try.
SHORTER = (
    ("connect_timeout", "retry_deadline", 0.5),
    ("stall_timeout_max", "retry_deadline", 0.5),
    ("stall_timeout_max", "read_timeout", 1.0),
    ("stall_timeout", "stall_timeout_max", 1.0),
    ("stall_timeout_min", "stall_timeout", 1.0),
)


class LimitSettings(Section):
    """Limits apply to each worker unless they say otherwise."""

    fill_bytes: Annotated[Size, Field(ge=MIB)] = 256 * MIB
    """Bytes of blocks being filled at once. Bounds memory, and what a crash throws away."""
    room_wait: Annotated[Duration, Field(ge=0, le=10)] = 0.5
    """How long a fill waits for eviction on a full disk (about 0.1 s) before its read bypasses the cache."""
    fills: Annotated[int, Field(ge=1, le=1024)] = 64
    """Blocks being filled at once; each uses a connection to an origin."""
    origin_requests: Annotated[int, Field(ge=4, le=4096)] = 128
    """Concurrent requests to one origin, for all workers of this node; fewer while it refuses some (429, 503)."""
    connections: Annotated[int, Field(ge=16, le=1_000_000)] | None = None
    """Client connections of a worker. Default: derived from its open files; each connection takes two, and half of them
    are for segments (`cache.open_files_share`). 64 more connections are served on `/-/` only, for probes."""
    connections_per_address: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Connections from one address. Default: three quarters of all. A node's pods often share one address, and eight
    loaders open hundreds each, but they should not lock out everybody else."""
    requests: Annotated[int, Field(ge=16, le=100_000)] = 4096
    """Requests being answered, not counting plain hits; each costs about 50 KiB of memory."""
    body_bytes: Annotated[Size, Field(ge=16 * MIB)] = 64 * MIB
    """Total bytes of request bodies held in memory (batches, deletions, lists of parts, small inserts)."""
    pass_through: Annotated[int, Field(ge=1, le=4096)] = 128
    """Requests passed through to origins, including uploads; each holds up to half a megabyte and a connection."""
    uncached_reads: Annotated[int, Field(ge=1, le=4096)] = 128
    """Reads that bypass the cache; each holds up to 1.5 MiB of memory."""
    receive_timeout: Annotated[Duration, Field(gt=0)] = 60.0
    """Longest wait for a client sending a body, which holds an origin connection and keeps its key uncached."""
    upload_pace: Annotated[Size, Field(le=GIB)] = 4 * KIB
    """Bytes per second that a client must send of a body, over half of `receive_timeout`; 0: any. Otherwise a drip of
    single bytes could hold an upload's resources forever."""
    reader_pace: Annotated[Size, Field(le=GIB)] = 256 * KIB
    """Bytes per second that a client must read of an uncached body to keep its origin request. Slower ones are served
    from a buffer, which is refilled each time they empty it. 0: any pace will do."""
    read_ahead_blocks: Annotated[int, Field(ge=1, le=256)] = 16
    """Most blocks fetched in parallel for one reader. Clouds limit each connection, so a fast reader needs many."""
    retry_deadline: Duration = 30.0
    """How long an origin read is retried without a byte of progress before the client gets an error."""
    connect_timeout: Annotated[Duration, Field(gt=0)] = 5.0
    """Time to connect to an origin, TLS included. A dead address should cost seconds, not minutes."""
    stall_timeout: Annotated[Duration, Field(gt=0)] = 5.0
    """Silence after which an origin connection is dropped and its range requested again from where it stopped. Applies
    until the origin's usual latency is known; then four times that is used."""
    stall_timeout_min: Annotated[Duration, Field(gt=0)] = 2.0
    """Lower bound on that silence, however fast the origin: jitter and lost packets must not cost a request."""
    stall_timeout_max: Annotated[Duration, Field(gt=0)] = 15.0
    """Upper bound on that silence, for an origin that is slow or often silent. Slow storage tiers need more."""
    read_timeout: Annotated[Duration, Field(gt=0)] = 30.0
    """Longest silence in a response passed through without retries. A slow one that keeps moving is not cut."""
    forward_timeout: Annotated[Duration, Field(gt=0)] = 300.0
    """Longest wait for the response to a write; completing a large upload can take a store minutes."""
    idle_connections: Annotated[int, Field(ge=0, le=1024)] = 64
    """Idle connections kept per origin. A new one costs round trips; each kept one costs a descriptor."""
    idle_timeout: Annotated[Duration, Field(gt=0)] = 10.0
    """How long an idle origin connection is kept; AWS closes them after about 20 s."""
    send_timeout: Annotated[Duration, Field(gt=0)] = 60.0
    """Longest wait for a client that reads nothing; frees what a vanished reader holds."""
    keep_alive_timeout: Annotated[Duration, Field(ge=1)] = 75.0
    """How long an idle client connection is kept: longer than clients keep theirs, so they never reuse a closed one."""
    request_head_timeout: Annotated[Duration, Field(gt=0)] = 60.0
    """How long a client may take to send a request's headers; frees what a stalled client holds."""
    request_head: Annotated[Size, Field(ge=8 * KIB, le=MIB)] = 64 * KIB
    """Bytes of a request line and headers, or of trailers. S3 allows 8 KiB; presigned queries, proxies add more."""
    pipelined_requests: Annotated[int, Field(ge=1, le=1024)] = 16
    """Pipelined requests that may wait on a connection. Each waits in memory; few clients pipeline."""
    slow_callback: Annotated[Duration, Field(ge=0)] = 0.2
    """Work that blocks an event loop for this long is logged, since every other request waits for it; 0: never."""
    drain_timeout: Annotated[Duration, Field(ge=0)] = 30.0
    """How long bodies in flight may continue after SIGTERM before they are cut."""
    metadata_entries: Annotated[int, Field(ge=1)] = 100_000
    """Object records kept in memory, about 2 KiB each; the rest are read from disk."""
    writer_threads: Annotated[int, Field(ge=1, le=64)] = 4
    """Threads that write to a disk while it is slow."""
    disk_read_ahead: Annotated[Size, Field(le=GIB)] = 8 * MIB
    """Bytes read ahead of a sequential reader, fewer if there are many. Remote or striped disks need more. 0: none."""
    record_wait: Annotated[Duration, Field(gt=0, le=60)] = 5.0
    """How long a thread waits for a key's record that another process is changing: one disk sync at most."""
    disk_threads: Annotated[int, Field(ge=1, le=256)] = 16
    """Threads for other disk work: opening, checking, reading what is not in memory."""

    @model_validator(mode="after")
    def _leaves_time_to_try_again(self) -> Self:
        for key, above, share in SHORTER:
            limit_s, above_s = getattr(self, key), getattr(self, above)
            most_s = above_s * share
            if not above_s or limit_s <= most_s:
                continue
            if key in self.model_fields_set:
                fix = f"is too long for {above} ({render_duration(above_s)}): no time would be left for a retry"
                raise KeyProblem(
                    key,
                    render_duration(limit_s),
                    f"{fix}; write at most {render_duration(most_s)}, or raise {above}",
                )
            self.__dict__[key] = most_s  # a default, in a section that nobody has seen yet
        return self
