"""Membership by hello: nodes of this process with real ports, which stop, drain, lie and come back."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import uvicorn

from proxy.fleet.directory import BlockDirectory
from proxy.fleet.members.advertise import AddressFinder
from proxy.fleet.members.discovery import LISTED_S, SILENCE_S, Addresses, HelloDiscovery, look_up
from proxy.fleet.members.registry import MemberRegistry
from proxy.fleet.roster import Member
from proxy.fleet.state import FleetState
from proxy.peering.control_app import ControlApp
from proxy.process.server import Server
from proxy.wire import Endpoint, WireClient
from tests.waiting import until

SECRET = b"the secret of this fleet"


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Port:
    """A port of 127.0.0.1 on which an application answers, or nobody does."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.number = self.listener.getsockname()[1]
        self.endpoint = Endpoint("127.0.0.1", self.number)
        self.open()

    def open(self) -> None:
        config = uvicorn.Config(
            self.app, lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=1
        )
        self._server = Server(config, lambda: None)
        self._task = asyncio.create_task(self._server.serve([self.listener]))

    async def close(self) -> None:
        self._server.should_exit = True
        await self._task
        self.listener.close()

    async def reopen(self) -> None:
        await self.close()
        self.listener = socket.create_server(("127.0.0.1", self.number))
        self.open()


class Node:
    """A data port, a control port, and hellos by hand."""

    def __init__(self, name: str, clock: Clock, secrets: Sequence[bytes] = (SECRET,)) -> None:
        self.fleet_state = FleetState.create()
        self.registry = MemberRegistry(
            self.fleet_state, Member(name, "", "", capacity_bytes=1), lambda: {"hits": 1}, clock
        )
        control_app = ControlApp(self.registry, BlockDirectory(name, self.fleet_state), secrets)
        self.data, self.control = Port(control_app), Port(control_app)
        self.registry.locate(str(self.data.endpoint), str(self.control.endpoint))
        self.found: list[Endpoint] = []
        self.client = WireClient(head_timeout_s=5, connect_timeout_s=5)
        self.addresses = Addresses(lambda: self.found, clock)
        self.discovery = HelloDiscovery(
            self.registry, self.addresses, secrets, self.client, AddressFinder(("", 0), ("", 0), ()), clock=clock
        )

    @property
    def known(self) -> list[str]:
        return [member.node_id for member in self.registry.roster.members]

    async def greet(self) -> list[str]:
        await self.addresses.refresh()
        await self.discovery.greet()
        return self.known

    async def aclose(self) -> None:
        await self.client.aclose()
        await asyncio.gather(self.data.close(), self.control.close())
        self.fleet_state.close()


class HelloNodes:
    def __init__(self) -> None:
        self.clock = Clock()
        self.nodes: list[Node] = []

    def node(self, name: str, *secrets: bytes) -> Node:
        self.nodes.append(Node(name, self.clock, secrets or (SECRET,)))
        return self.nodes[-1]

    async def two(self) -> tuple[Node, Node]:
        """Which know each other by a list of both."""
        a, b = self.node("aa"), self.node("bb")
        a.found = b.found = [a.data.endpoint, b.data.endpoint]
        assert await a.greet() == await b.greet() == ["aa", "bb"]
        return a, b


@pytest.fixture
async def hello_nodes(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HelloNodes]:
    monkeypatch.setattr("proxy.fleet.members.discovery.HELLO_TIMEOUT_S", 30.0)  # a busy machine is not a dead node
    hello_nodes = HelloNodes()
    yield hello_nodes
    await asyncio.gather(*(node.aclose() for node in hello_nodes.nodes))


async def test_nodes_of_a_list_know_each_other_and_a_node_meets_itself_without_a_word(
    hello_nodes: HelloNodes, caplog: pytest.LogCaptureFixture
) -> None:
    a, _ = await hello_nodes.two()
    assert a.registry.roster.by_id["bb"].control_url == str(hello_nodes.nodes[1].control.endpoint)
    assert "one id" not in caplog.text


async def test_stats_come_with_the_hello(hello_nodes: HelloNodes) -> None:
    a, b = await hello_nodes.two()
    await b.greet()
    await a.greet()
    assert a.registry.others["bb"].stats == {"hits": 1}


async def test_who_does_not_answer_for_a_while_is_gone_and_may_come_back(hello_nodes: HelloNodes) -> None:
    a, b = await hello_nodes.two()
    await b.data.close()
    await b.control.close()
    hello_nodes.clock.now_s += SILENCE_S - 0.1
    assert await a.greet() == ["aa", "bb"]
    hello_nodes.clock.now_s += 0.2
    assert await a.greet() == ["aa"]
    await b.data.reopen()
    await b.control.reopen()
    assert await a.greet() == ["aa", "bb"]


async def test_a_node_that_drains_is_heard_by_its_control_port_after_its_data_port_has_closed(
    hello_nodes: HelloNodes,
) -> None:
    a, b = await hello_nodes.two()
    await b.data.close()
    b.registry.drain()
    hello_nodes.clock.now_s += 10 * SILENCE_S
    assert await a.greet() == ["aa", "bb"]
    assert a.registry.roster.by_id["bb"].draining


async def test_a_node_that_restarted_with_another_control_port_is_met_at_its_address_again(
    hello_nodes: HelloNodes,
) -> None:
    a, b = await hello_nodes.two()
    await b.control.close()
    moved = Port(b.control.app)
    b.registry.locate(str(b.data.endpoint), str(moved.endpoint))
    assert await a.greet() == ["aa", "bb"]
    assert a.registry.roster.by_id["bb"].control_url == str(moved.endpoint)
    await moved.close()


async def test_another_node_behind_an_old_address_takes_the_place_of_the_one_before(hello_nodes: HelloNodes) -> None:
    a, b = await hello_nodes.two()
    b.registry.own = Member("cc", b.registry.own.url, b.registry.own.control_url)
    assert await a.greet() == ["aa", "cc"]


async def test_a_node_with_another_secret_is_none_to_either_side(hello_nodes: HelloNodes) -> None:
    a, b = hello_nodes.node("aa"), hello_nodes.node("bb", b"another fleet's secret")
    a.found = b.found = [a.data.endpoint, b.data.endpoint]
    assert await a.greet() == ["aa"]
    assert await b.greet() == ["bb"]


async def test_while_secrets_change_nodes_with_the_new_and_the_old_one_know_each_other(hello_nodes: HelloNodes) -> None:
    a, b = (
        hello_nodes.node("aa", SECRET, b"the new one of them"),
        hello_nodes.node("bb", b"the new one of them", SECRET),
    )
    a.found = b.found = [a.data.endpoint, b.data.endpoint]
    assert await a.greet() == await b.greet() == ["aa", "bb"]


@pytest.mark.parametrize(
    "body", [b'{"member": {"node_id": "cc", "url": "u", "control_url": "c"}}', b"{", b"x" * 100_000]
)
async def test_who_has_no_proof_is_no_member_whatever_it_says(hello_nodes: HelloNodes, body: bytes) -> None:
    async def lie(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-warmstart-proof", b"00")]})
        await send({"type": "http.response.body", "body": body})

    liar, a = Port(lie), hello_nodes.node("aa")
    a.found = [liar.endpoint]
    assert await a.greet() == ["aa"]
    await liar.close()


async def test_two_addresses_of_one_node_are_one_member(hello_nodes: HelloNodes) -> None:
    a, b = await hello_nodes.two()
    a.found = [b.data.endpoint, b.control.endpoint, Endpoint("localhost", b.data.number)]
    assert await a.greet() == ["aa", "bb"]


async def test_this_nodes_own_id_at_another_url_is_a_twin(
    hello_nodes: HelloNodes, caplog: pytest.LogCaptureFixture
) -> None:
    a, twin = hello_nodes.node("aa"), hello_nodes.node("aa")
    a.found = [a.data.endpoint, twin.data.endpoint]
    assert await a.greet() == ["aa"]
    assert f"two nodes have one id: {a.registry.own.url} and {twin.registry.own.url}" in caplog.text


async def test_an_address_that_one_answer_leaves_out_stays_and_one_that_all_do_goes(hello_nodes: HelloNodes) -> None:
    a, b = await hello_nodes.two()
    a.found = [a.data.endpoint]
    hello_nodes.clock.now_s += LISTED_S - 0.1
    assert await a.greet() == ["aa", "bb"]
    hello_nodes.clock.now_s += 0.2
    assert await a.greet() == ["aa"]
    a.found = [b.data.endpoint]
    assert await a.greet() == ["aa", "bb"]


async def test_a_name_that_can_not_be_looked_up_leaves_the_last_addresses(
    hello_nodes: HelloNodes, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = await hello_nodes.two()
    a.addresses._lookup = lambda: look_up("peers.fleet.invalid", 9000, tls=False)
    for _ in range(3):
        hello_nodes.clock.now_s += 60
        await b.greet()
        assert await a.greet() == ["aa", "bb"]
    assert caplog.text.count("can't be looked up") == 1


async def test_a_look_up_that_hangs_is_not_started_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.fleet.members.discovery.LOOKUP_TIMEOUT_S", 0.01)
    answer, calls = threading.Event(), []

    def hang() -> list[Endpoint]:
        calls.append(1)
        assert answer.wait(60)
        return [Endpoint("127.0.0.1", 1)]

    addresses = Addresses(hang)
    for _ in range(3):
        await addresses.refresh()
    assert (len(calls), list(addresses.listed)) == (1, [])
    answer.set()
    while not addresses.listed:
        await addresses.refresh()
    assert len(calls) == 1


async def test_rounds_go_on_until_cancelled(hello_nodes: HelloNodes) -> None:
    a, b = hello_nodes.node("aa"), hello_nodes.node("bb")
    a.found = [b.data.endpoint]
    running = asyncio.create_task(a.discovery.run())
    await until(lambda: a.known == ["aa", "bb"])
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


def test_a_name_is_every_one_of_its_addresses() -> None:
    assert Endpoint("127.0.0.1", 9000, tls=True) in look_up("localhost", 9000, tls=True)


async def test_a_new_fleets_name_may_have_no_addresses_for_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now_s = 1000.0
    addresses = Addresses(lambda: look_up("peers.fleet.invalid", 9000, tls=False), lambda: now_s)
    for now_s in (1000.0, 1059.0):  # noqa: B007
        await addresses.refresh()
    assert "can't be looked up" not in caplog.text
    now_s = 1061.0
    await addresses.refresh()
    assert "can't be looked up" in caplog.text
