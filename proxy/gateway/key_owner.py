"""Records of keys within a fleet: the key's owner asks the origin, and tells all others.

How it works. A key has one owner in the region, named as blocks' owners are. Whoever misses a record asks that node,
which answers from what it knows, if that is fresh by the asker's own rules, or asks the origin, once for all who ask at
the same time. So one gang load sees one version, and costs the origin one request for each key. An owner that does not
answer, or can't reach the origin itself, is passed by: the asker goes to the origin. Ages travel, not moments: clocks
differ. An owner that was asked never asks on, whoever it thinks the owner is.

Writes: a node drops what it knows when it hears of one. An owner that has not heard of it yet must not give back to the
asker what that one has dropped; so the asker says what it has heard (`proxy.fleet.freshness`), and an owner that knows
less asks the origin.
"""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from proxy.cache.missing import KINDS
from proxy.cache.records import parse_record, record_fields
from proxy.errors import AccessDenied, NotFound, OriginRefused, WarmstartError
from proxy.fleet.freshness import Freshness
from proxy.fleet.owners import hash_key
from proxy.fleet.protocol import WantedRecord
from proxy.fleet.roster import Member
from proxy.fleet.view import FleetView
from proxy.objects import ObjectKey, ObjectRecord
from proxy.relay.errors import PeerFailed


class RecordPeers(Protocol):
    """`proxy.relay.client.PeerClient`."""

    async def read_record(self, owner: Member, wanted: WantedRecord) -> Any: ...


@dataclass(frozen=True, slots=True)
class OwnerAnswer:
    """`asked`: the origin was asked for this very request."""

    record: ObjectRecord
    asked: bool


class KeyOwners:
    """`clock` is Unix time. `private`: origins of which other nodes know nothing."""

    def __init__(
        self,
        view: FleetView,
        peers: RecordPeers,
        private: frozenset[str],
        freshness: Freshness | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._freshness = freshness
        self._view = view
        self._peers = peers
        self._private = private
        self._clock = clock

    def is_here(self, key: ObjectKey) -> bool:
        """Whether this node is the key's owner, or the fleet has no part in it."""
        return self._owner(key) is None

    async def tell(
        self, key: ObjectKey, ttl_s: float | None, *, anew: bool, negative_ttl_s: float = 0.0
    ) -> OwnerAnswer | None:
        """What the key's owner says; None: ask the origin. Raises NotFound, AccessDenied, OriginRefused.

        `ttl_s`: how old its record may be, None: as old as it likes; `negative_ttl_s` the same of its "not found";
        `anew`: it must ask the origin now.
        """
        owner = self._owner(key)
        if owner is None:
            return None
        asked_at_s = self._clock()
        try:
            heard = self._freshness.heard if self._freshness is not None else None
            wanted = WantedRecord(key, ttl_s, anew, heard, negative_ttl_s)
            values = await self._peers.read_record(owner, wanted)
            return self._parse(key, values, asked_at_s)
        except PeerFailed as error:
            if error.faulty:
                self._view.avoid(error.node_id)
            return None

    def _owner(self, key: ObjectKey) -> Member | None:
        """Another node; None: this one."""
        if key.origin in self._private or self._view.alone:
            return None
        order = self._view.order(hash_key(key.digest))
        return order[0] if order and order[0].node_id != self._view.node_id else None

    def _parse(self, key: ObjectKey, values: Any, asked_at_s: float) -> OwnerAnswer | None:
        try:
            if "error" in values:
                raise parse_error(values["error"], asked_at_s)
            record = parse_record(key, values["record"])
            age_s, asked = _age(values), values["asked"] is True
        except (KeyError, TypeError, ValueError, OverflowError):
            return None
        return OwnerAnswer(replace(record, checked_at_s=asked_at_s - age_s), asked)


def render_answer(record: ObjectRecord, now_s: float, *, asked: bool) -> dict[str, Any]:
    """The owner's answer, as JSON."""
    return {"record": record_fields(record), "age_s": now_s - record.checked_at_s, "asked": asked}


def render_error(error: WarmstartError, now_s: float) -> dict[str, Any] | None:
    """The origin's final answers travel; None for what the asker had better find out for itself."""
    if isinstance(error, NotFound):
        values = {"kind": "not_found", "what": error.what, "name": error.name, "certain": error.certain}
        age_s = 0.0 if error.checked_at_s is None else max(0.0, now_s - error.checked_at_s)
        return {"error": values | {"age_s": age_s}}
    if isinstance(error, OriginRefused):
        body = base64.b64encode(error.body).decode()
        headers = [list(pair) for pair in error.headers]
        return {"error": {"kind": "refused", "status": error.status, "headers": headers, "body": body}}
    if isinstance(error, AccessDenied):
        return {"error": {"kind": "denied", "said": str(error)}}
    return None


def parse_error(values: Any, asked_at_s: float) -> WarmstartError:
    """Raises KeyError, TypeError, ValueError or OverflowError for anything that `render_error` does not make."""
    match values["kind"]:
        case "not_found":
            what, certain = str(values["what"]), values["certain"] is not False
            if what not in KINDS:
                raise ValueError("not what can be missing")
            return NotFound(what, str(values["name"]), certain=certain, checked_at_s=asked_at_s - _age(values))
        case "denied":
            return AccessDenied(str(values["said"]))
        case "refused":
            headers = tuple((str(name), str(value)) for name, value in values["headers"])
            return OriginRefused(int(values["status"]), headers, base64.b64decode(values["body"]))
    raise ValueError("not an error")


def _age(values: Any) -> float:
    """Raises KeyError, TypeError, ValueError or OverflowError for what is no age."""
    age_s = float(values["age_s"])
    if not math.isfinite(age_s):
        raise ValueError("an age has an end")
    return max(0.0, age_s)
