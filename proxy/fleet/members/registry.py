"""The members as the control process knows them, this node among them, and the roster that follows from it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, replace
from typing import Any

from proxy.fleet.members.slowness import Slowness
from proxy.fleet.members.status import NodeStatus
from proxy.fleet.roster import Member, Roster, parse_roster, render_roster, with_own
from proxy.fleet.state import FleetState
from proxy.metrics import FLEET_MEMBERS, FLEET_TWINS

GONE_SHOWN_S = 300.0
TWIN_SAID_EVERY_S = 60.0

log = logging.getLogger("warmstart.fleet")


class MemberRegistry:
    """`own` has no URL until `locate` gives it one: until then there is no roster, and the node works alone.

    `read_stats` gives this node's; `clock` counts seconds, from whenever.
    """

    def __init__(
        self,
        fleet_state: FleetState,
        own: Member,
        read_stats: Callable[[], Mapping[str, float]] = dict,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.own = own
        self.surely_located = False
        self._fleet_state = fleet_state
        self._read_stats = read_stats
        self._clock = clock
        self._stats: Mapping[str, float] = {}
        self._others = _last_members(fleet_state, own.node_id)
        self._gone: dict[str, tuple[NodeStatus, float]] = {}
        self._roster = Roster()
        self._slowness = Slowness()
        self._twin_said_s: float | None = None

    @property
    def roster(self) -> Roster:
        """Empty until this node knows its own address."""
        return self._roster

    @property
    def others(self) -> Mapping[str, NodeStatus]:
        """At first those that this process's predecessor knew, where there was one: it has died, they have not."""
        return self._others

    @property
    def located(self) -> bool:
        return bool(self.own.url)

    def locate(self, url: str, control_url: str, *, sure: bool = True) -> None:
        """Where this node is reached; not `sure`: it may turn out to be elsewhere."""
        self.surely_located = sure
        if (url, control_url) == (self.own.url, self.own.control_url):
            return
        self.own = replace(self.own, url=url, control_url=control_url)
        self._publish()
        log.info(
            "this node is reached at %s", url, extra={"fields": {"node": self.own.node_id, "control": control_url}}
        )

    def drain(self) -> None:
        """This node is about to leave."""
        self.own = replace(self.own, draining=True)
        self._publish()

    def note_status(self) -> NodeStatus:
        """This node, with fresh stats: call it once a round."""
        self._stats = self._read_stats()
        rates = [rate for other in self._others.values() if (rate := other.stats.get("receive_rate")) is not None]
        slow = self._slowness.judge(self._stats.get("receive_rate"), rates)
        if slow != self.own.slow:
            log.warning("this node's link is slow" if slow else "this node's link is well again")
            self.own = replace(self.own, slow=slow)
            self._publish()
        return NodeStatus(self.own, self._stats)

    def last_status(self) -> NodeStatus:
        """This node with the stats of the last round."""
        return NodeStatus(self.own, self._stats)

    def see(self, others: Mapping[str, NodeStatus], left: Collection[str] = ()) -> None:
        """These are all the other members, by their ids; those that `left` have said so."""
        now_s = self._clock()
        lost = {name: (seen, now_s) for name, seen in self._others.items() if name not in others}
        self._gone |= lost
        self._gone = {
            name: (seen, since_s)
            for name, (seen, since_s) in self._gone.items()
            if name not in others and now_s - since_s < GONE_SHOWN_S
        }
        for name in others.keys() - self._others.keys():
            log.info("a node has joined: %s", others[name].member.url, extra={"fields": {"node": name}})
        for name, (seen, _) in lost.items():
            if seen.member.draining or name in left:
                log.info("a node has left: %s", seen.member.url, extra={"fields": {"node": name}})
            else:
                log.warning("a node is gone without leaving: %s", seen.member.url, extra={"fields": {"node": name}})
        self._others = dict(others)
        self._publish()

    def note_twin(self, url: str | None) -> None:
        """Another node says that it has this node's id, at this URL; None: nobody does (any more)."""
        FLEET_TWINS.set(0 if url is None else 1)
        if url is None:
            self._twin_said_s = None
            return
        if self._twin_said_s is not None and self._clock() - self._twin_said_s < TWIN_SAID_EVERY_S:
            return
        self._twin_said_s = self._clock()
        log.error(
            "two nodes have one id: %s and %s; a cache disk of one is a copy of the other's: stop one of them, and"
            " remove the folder v1 on its disks",
            self.own.url,
            url,
            extra={"fields": {"node": self.own.node_id}},
        )

    def describe(self) -> list[dict[str, Any]]:
        """All members for people: with stats, state (up, draining, slow, gone), and for how long one has been gone."""
        now_s = self._clock()
        statuses = [self.last_status(), *self._others.values()] if self.located else list(self._others.values())
        alive = [_describe(seen, _state(seen.member)) for seen in statuses]
        gone = [
            _describe(seen, "gone") | {"gone_s": round(now_s - since_s, 1)} for seen, since_s in self._gone.values()
        ]
        return sorted([*alive, *gone], key=lambda member: (str(member["url"]), str(member["node_id"])))

    def _publish(self) -> None:
        FLEET_MEMBERS.set(len(self._others) + 1)
        if not self.located:
            return
        roster = with_own((seen.member for seen in self._others.values()), self.own)
        if roster == self._roster:
            return
        try:
            self._fleet_state.publish_roster(render_roster(roster))
        except ValueError as error:  # more members than the fleet state holds: the last roster stays
            log.error("the fleet is too large: %s", error)
            return
        self._roster = roster


def _last_members(fleet_state: FleetState, own_id: str) -> dict[str, NodeStatus]:
    found = fleet_state.read_roster()
    try:
        members = parse_roster(found[1]).members if found is not None else ()
    except ValueError:
        members = ()
    return {member.node_id: NodeStatus(member) for member in members if member.node_id != own_id}


def _describe(seen: NodeStatus, state: str) -> dict[str, Any]:
    return asdict(seen.member) | {"state": state, "stats": dict(seen.stats)}


def _state(member: Member) -> str:
    if member.draining:
        return "draining"
    return "slow" if member.slow else "up"
