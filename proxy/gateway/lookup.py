"""A look-up of a key's record: what it asks, what it finds, and whom it takes its answers from."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from proxy.cache.missing import Missing
from proxy.gateway.key_owner import OwnerAnswer
from proxy.objects import ObjectKey, ObjectRecord


class Tokens(Protocol):
    def peek(self, key: ObjectKey) -> int: ...

    def watch(self, key: ObjectKey) -> Callable[[], int]: ...


class Records(Protocol):
    def read(self, key: ObjectKey) -> ObjectRecord | None: ...

    def install(self, key: ObjectKey, record: ObjectRecord, token: int) -> bool: ...

    def fenced(self, key: ObjectKey) -> bool: ...

    def remove(self, key: ObjectKey) -> int | None: ...

    def note_missing(self, key: ObjectKey, token: int, missing: Missing, *, keep: bool) -> None: ...

    def missing(self, key: ObjectKey) -> Missing | None: ...

    def try_look_up(self, key: ObjectKey) -> bool: ...

    def end_look_up(self, key: ObjectKey) -> None: ...


class SpeculativeAnswer(Protocol):
    """The answer to a read that was sent before its object was known."""

    async def tell(self) -> ObjectRecord | None:
        """What it says of the object; None: too little. Raises as an origin does."""
        ...

    def tells_all(self, record: ObjectRecord) -> bool: ...


OnUnknown = Callable[[], SpeculativeAnswer | None]


@dataclass(slots=True)
class Resolved:
    """A key's record; `stale` when the origin could not be asked, `asked` when it was, for this very request.

    `later`: the same version's checksums are on their way.
    """

    record: ObjectRecord
    stale: bool = False
    asked: bool = False
    later: asyncio.Task[Resolved] | None = None


class KeyOwner(Protocol):
    """`proxy.gateway.key_owner.KeyOwners`: another node that asks the origin in place of this one."""

    def is_here(self, key: ObjectKey) -> bool:
        """Whether this node is the key's owner."""
        ...

    async def tell(
        self, key: ObjectKey, ttl_s: float | None, *, anew: bool, negative_ttl_s: float = 0.0
    ) -> OwnerAnswer | None: ...


@dataclass(frozen=True, slots=True)
class Wish:
    """How a look-up is to be made. `as_owner`: by the origin, never by another node; for those of the fleet, too."""

    after_arrival: bool
    on_unknown: OnUnknown | None
    as_owner: bool


@dataclass(slots=True)
class LookUp:
    """`found` is done as soon as the answer is known; `task` ends when the record is kept, too."""

    token: int
    began: int
    began_at_s: float
    found: asyncio.Future[Resolved]
    task: asyncio.Task[Resolved]
