"""A node finds its own address by the way that leads to the others."""

from __future__ import annotations

import socket
import threading

import pytest

from proxy.fleet.members import address
from proxy.fleet.members.address import FoundHost, find_address
from proxy.fleet.members.advertise import AddressFinder, AdvertisedAddress, locate
from proxy.fleet.members.registry import MemberRegistry
from proxy.fleet.roster import Member
from proxy.fleet.state import FleetState


def ways(monkeypatch: pytest.MonkeyPatch, table: dict[str, str]) -> None:
    """The local address on the way to each host; hosts that are not there can't be reached."""
    monkeypatch.setattr(address, "_local_addresses", lambda host, port: [table[host]] if host in table else [])


def test_a_listener_of_one_address_is_reached_there() -> None:
    assert find_address("10.0.0.7", [("nowhere.invalid", 1)]) == FoundHost("10.0.0.7")


def test_the_way_to_the_others_tells_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    ways(monkeypatch, {"redis": "10.0.0.7", "192.0.2.1": "192.168.0.7"})
    assert find_address("0.0.0.0", [("redis", 6379)]) == FoundHost("10.0.0.7")


def test_the_first_member_that_a_way_leads_to_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    ways(monkeypatch, {"there": "10.0.0.7"})
    assert find_address("0.0.0.0", [("gone", 1), ("there", 1)]) == FoundHost("10.0.0.7")


def test_while_no_way_leads_to_anybody_the_default_routes_address_is_a_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    ways(monkeypatch, {"192.0.2.1": "192.168.0.7"})
    assert find_address("0.0.0.0", [("redis", 6379)]) == FoundHost("192.168.0.7", sure=False)
    ways(monkeypatch, {})
    assert find_address("0.0.0.0", [("redis", 6379)]) == FoundHost("127.0.0.1", sure=False)
    assert find_address("::", [("redis", 6379)]) == FoundHost("::1", sure=False)


def test_with_redis_on_this_machine_the_default_route_tells_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    ways(monkeypatch, {"localhost": "127.0.0.1", "192.0.2.1": "192.168.0.7"})
    assert find_address("0.0.0.0", [("localhost", 6379)]) == FoundHost("192.168.0.7")
    assert find_address("0.0.0.0", []) == FoundHost("192.168.0.7")  # a unix socket


def test_a_machine_without_a_network_is_reached_by_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    ways(monkeypatch, {"localhost": "127.0.0.1"})
    assert find_address("0.0.0.0", [("localhost", 6379)]) == FoundHost("127.0.0.1")


def test_the_address_is_of_the_listeners_family_where_there_is_a_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    ways(monkeypatch, {"four": "10.0.0.7", "six": "fd00::7"})
    assert find_address("::", [("four", 1), ("six", 1)]) == FoundHost("fd00::7")
    assert find_address("0.0.0.0", [("six", 1), ("four", 1)]) == FoundHost("10.0.0.7")


def test_the_kernel_is_really_asked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert address._local_addresses("127.0.0.1", listener.getsockname()[1]) == ["127.0.0.1"]
    assert address._local_addresses("nowhere.invalid", 1) == []


PLACES: list[tuple[AddressFinder, str, str]] = [
    (AddressFinder(("10.0.0.7", 9000), ("10.0.0.7", 9001), ()), "http://10.0.0.7:9000", "http://10.0.0.7:9001"),
    (AddressFinder(("fd00::7", 9000), ("::", 9001), (), tls=True), "https://[fd00::7]:9000", "https://[fd00::7]:9001"),
    (AddressFinder(("10.0.0.7", 9000), ("10.1.0.7", 9001), ()), "http://10.0.0.7:9000", "http://10.1.0.7:9001"),
    (
        AddressFinder(("10.0.0.7", 9000), ("10.0.0.7", 9001), (), advertise="https://seven.fleet"),
        "https://seven.fleet",
        "http://seven.fleet:9001",
    ),
]


@pytest.mark.parametrize(("finder", "url", "control_url"), PLACES)
async def test_urls_are_made_of_listeners_and_what_is_advertised(
    finder: AddressFinder, url: str, control_url: str
) -> None:
    assert await finder.find() == AdvertisedAddress(url, control_url)


async def test_a_guess_is_taken_and_put_right_when_a_way_leads_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    finder = AddressFinder(("0.0.0.0", 9000), ("0.0.0.0", 9001), (("redis", 6379),))
    fleet_state = FleetState.create()
    registry = MemberRegistry(fleet_state, Member("aa", "", ""))
    ways(monkeypatch, {"192.0.2.1": "192.168.0.7"})
    await locate(registry, finder)
    assert registry.own.url == "http://192.168.0.7:9000"
    ways(monkeypatch, {"192.0.2.1": "192.168.0.7", "redis": "10.0.0.7"})
    await locate(registry, finder)
    assert registry.roster.by_id["aa"].control_url == "http://10.0.0.7:9001"
    ways(monkeypatch, {})
    await locate(registry, finder)
    assert registry.own.url == "http://10.0.0.7:9000"
    fleet_state.close()


async def test_a_look_up_that_hangs_is_a_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()

    def look(host: str, port: int) -> list[str]:
        assert host != "redis" or go_on.wait(60)
        return []

    monkeypatch.setattr(address, "_local_addresses", look)
    monkeypatch.setattr("proxy.fleet.members.advertise.FIND_TIMEOUT_S", 0.01)
    try:
        found = await AddressFinder(("0.0.0.0", 9000), ("0.0.0.0", 9001), (("redis", 6379),)).find()
    finally:
        go_on.set()
    assert found == AdvertisedAddress("http://127.0.0.1:9000", "http://127.0.0.1:9001", sure=False)
