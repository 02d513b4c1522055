"""Every limit of the gateway, with its unit and its reason.

A time-out that is as long as the deadline above it means that nothing is ever tried again: `SHORTER` lists which limits
must be shorter than which. Among them, a default gives way to what is written above it; what is written must fit.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from proxy.config.quantities import GIB, KIB, MIB, Duration, Size, render_duration
from proxy.config.section import KeyProblem, Section

# A limit, the one above it, and how much of that it may take: half of a deadline leaves time for a second try.
SHORTER = (
    ("connect_timeout", "retry_deadline", 0.5),
    ("stall_timeout_max", "retry_deadline", 0.5),
    ("stall_timeout_max", "read_timeout", 1.0),
    ("stall_timeout", "stall_timeout_max", 1.0),
    ("stall_timeout_min", "stall_timeout", 1.0),
)


class LimitSettings(Section):
    """Limits hold for each worker unless they say otherwise."""

    fill_bytes: Annotated[Size, Field(ge=MIB)] = 256 * MIB
    """Bytes of blocks being brought in at once; it bounds memory and what a crash throws away."""
    room_wait: Annotated[Duration, Field(ge=0, le=10)] = 0.5
    """How long a fill waits for eviction on a full disk before its read passes by the cache; it takes about 0.1 s."""
    fills: Annotated[int, Field(ge=1, le=1024)] = 64
    """Blocks being brought in at once; each is a connection to an origin."""
    origin_requests: Annotated[int, Field(ge=4, le=4096)] = 128
    """Requests under way at one origin, all workers of this node together; fewer while it refuses some (429, 503)."""
    connections: Annotated[int, Field(ge=16, le=1_000_000)] | None = None
    """Client connections of a worker; given by its open files where this is not: each takes two, and half of them are
    for segments (`cache.open_files_share`). 64 more are answered on `/-/` alone, so that probes get through."""
    connections_per_address: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Those from one address; three quarters of all where this is not given: a node's pods often share one address, and
    eight loaders open hundreds each, but nobody else should be locked out by them."""
    requests: Annotated[int, Field(ge=16, le=100_000)] = 4096
    """Requests that are being answered, plain hits aside; each costs some 50 KiB of memory."""
    body_bytes: Annotated[Size, Field(ge=16 * MIB)] = 64 * MIB
    """Bytes of request bodies held whole (batches, deletions, lists of parts, small inserts), all together."""
    pass_through: Annotated[int, Field(ge=1, le=4096)] = 128
    """Requests passed through to origins, uploads among them; each holds up to half a megabyte and a connection."""
    uncached_reads: Annotated[int, Field(ge=1, le=4096)] = 128
    """Reads past the cache; each holds up to 1.5 MiB of memory."""
    receive_timeout: Annotated[Duration, Field(gt=0)] = 60.0
    """Longest wait for a client that sends a body; it holds a connection to the origin, and keeps its key uncached."""
    upload_pace: Annotated[Size, Field(le=GIB)] = 4 * KIB
    """Bytes a second that a client must send of a body, over half of `receive_timeout`; 0: any. A drip of single bytes
    would hold what an upload holds for ever."""
    reader_pace: Annotated[Size, Field(le=GIB)] = 256 * KIB
    """Bytes a second that a client must take of a body past the cache to keep its place at the origin; slower ones are
    served from a buffer, filled anew each time they have emptied it. 0: any pace keeps it."""
    read_ahead_blocks: Annotated[int, Field(ge=1, le=256)] = 16
    """Most blocks fetched side by side for one reader; clouds limit each connection, so a fast reader needs many."""
    retry_deadline: Duration = 30.0
    """How long an origin read goes on being tried without a byte of progress, before the client gets an error."""
    connect_timeout: Annotated[Duration, Field(gt=0)] = 5.0
    """Reaching an origin, TLS included; a dead address should cost seconds, not minutes."""
    stall_timeout: Annotated[Duration, Field(gt=0)] = 5.0
    """Silence of an origin connection after which it is given up and its range asked again from where it stopped, until
    the origin's own answers have shown what is usual: then four times that."""
    stall_timeout_min: Annotated[Duration, Field(gt=0)] = 2.0
    """No connection is given up sooner, however fast the origin usually is: jitter and lost packets cost no request."""
    stall_timeout_max: Annotated[Duration, Field(gt=0)] = 15.0
    """Longest silence of an origin that is slow as a rule, or goes silent again and again; slow tiers want more."""
    read_timeout: Annotated[Duration, Field(gt=0)] = 30.0
    """Longest silence in an answer that is passed through and never asked again; a slow one that moves is never cut."""
    forward_timeout: Annotated[Duration, Field(gt=0)] = 300.0
    """Longest wait for the answer to a write; completing a large upload takes stores minutes."""
    idle_connections: Annotated[int, Field(ge=0, le=1024)] = 64
    """Idle connections kept for each origin; a new one costs round trips, each kept one a descriptor."""
    idle_timeout: Annotated[Duration, Field(gt=0)] = 10.0
    """How long an idle origin connection is kept; AWS closes them after some 20 s."""
    send_timeout: Annotated[Duration, Field(gt=0)] = 60.0
    """Longest wait for a client that takes no byte; frees what a vanished reader holds."""
    keep_alive_timeout: Annotated[Duration, Field(ge=1)] = 75.0
    """How long an idle client connection is kept; longer than clients keep theirs: they never meet a closed one."""
    request_head_timeout: Annotated[Duration, Field(gt=0)] = 60.0
    """How long a client may take to send a request's head; frees what a stalled client holds."""
    request_head: Annotated[Size, Field(ge=8 * KIB, le=MIB)] = 64 * KIB
    """Bytes of a request's line and headers, or of its trailers; S3 allows 8 KiB, presigned queries and proxies add."""
    pipelined_requests: Annotated[int, Field(ge=1, le=1024)] = 16
    """Requests that may wait on a connection behind the one being answered; each waits in memory, few pipeline."""
    slow_callback: Annotated[Duration, Field(ge=0)] = 0.2
    """A piece of work that holds an event loop for so long is logged: all others wait for it, hits too; 0: never."""
    drain_timeout: Annotated[Duration, Field(ge=0)] = 30.0
    """How long bodies in flight may go on after SIGTERM, before they are cut."""
    metadata_entries: Annotated[int, Field(ge=1)] = 100_000
    """Object records kept in memory, about 2 KiB each; the others are read from disk."""
    writer_threads: Annotated[int, Field(ge=1, le=64)] = 4
    """Threads that write to a disk that is slow at the moment."""
    disk_read_ahead: Annotated[Size, Field(le=GIB)] = 8 * MIB
    """Bytes asked of a disk ahead of a sequential reader, fewer if many read; far or striped ones want more; 0: no."""
    record_wait: Annotated[Duration, Field(gt=0, le=60)] = 5.0
    """How long a thread waits for a key's record that another process changes; that takes a disk's sync at most."""
    disk_threads: Annotated[int, Field(ge=1, le=256)] = 16
    """Threads that wait for disks otherwise: opening, checking, reading what is not in memory."""

    @model_validator(mode="after")
    def _leaves_time_to_try_again(self) -> Self:
        for key, above, share in SHORTER:
            limit_s, above_s = getattr(self, key), getattr(self, above)
            most_s = above_s * share
            if not above_s or limit_s <= most_s:
                continue
            if key in self.model_fields_set:
                fix = f"is too long for {above} ({render_duration(above_s)}), which would leave no time to try again"
                raise KeyProblem(
                    key,
                    render_duration(limit_s),
                    f"{fix}; write at most {render_duration(most_s)}, or a longer {above}",
                )
            self.__dict__[key] = most_s  # a default, of a section that nobody has seen yet
        return self
