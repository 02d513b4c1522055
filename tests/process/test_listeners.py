"""The listening sockets."""

from __future__ import annotations

import socket

import pytest

from proxy.config.quantities import Address
from proxy.errors import ConfigInvalid
from proxy.process.listeners import listener_url, open_listeners


def test_port_0_takes_a_free_one_and_the_url_tells_which() -> None:
    [listener] = open_listeners([Address("127.0.0.1", 0)])
    port = listener.getsockname()[1]
    assert port > 0
    assert listener_url(listener, tls=False) == f"http://127.0.0.1:{port}"
    assert listener_url(listener, tls=True) == f"https://127.0.0.1:{port}"
    listener.close()


def test_ipv4_and_ipv6_of_one_port_can_be_listened_on_together() -> None:
    [first] = open_listeners([Address("0.0.0.0", 0)])
    port = first.getsockname()[1]
    [second] = open_listeners([Address("::", port)])
    assert listener_url(first, tls=False) == f"http://127.0.0.1:{port}"
    assert listener_url(second, tls=False) == f"http://[::1]:{port}"
    first.close()
    second.close()


def test_the_name_localhost_is_ipv4() -> None:
    [listener] = open_listeners([Address("localhost", 0)])
    assert listener.family == socket.AF_INET
    listener.close()


def test_a_port_in_use_is_refused_and_the_others_are_given_back() -> None:
    [taken] = open_listeners([Address("127.0.0.1", 0)])
    port = taken.getsockname()[1]
    [probe] = open_listeners([Address("127.0.0.1", 0)])
    other = probe.getsockname()[1]
    probe.close()
    with pytest.raises(
        ConfigInvalid, match=rf"listen: '127.0.0.1:{port}' can't be listened on \(Address already in use"
    ):
        open_listeners([Address("127.0.0.1", other), Address("127.0.0.1", port)])
    [again] = open_listeners([Address("127.0.0.1", other)])
    again.close()
    taken.close()


def test_a_name_that_leads_nowhere_is_refused() -> None:
    with pytest.raises(ConfigInvalid, match="names no address of this machine"):
        open_listeners([Address("nowhere.invalid", 1)])


def test_connections_of_this_machine_are_not_paced() -> None:
    [listener] = open_listeners([Address("127.0.0.1", 0)])
    with socket.create_connection(listener.getsockname()):
        listener.setblocking(True)
        accepted, _ = listener.accept()
    name = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    assert name.rstrip(b"\0") == b"reno"
    accepted.close()
    listener.close()


def test_connections_from_elsewhere_keep_the_system_s_congestion_control() -> None:
    [listener] = open_listeners([Address("0.0.0.0", 0)])
    with socket.socket() as plain:
        of_the_system = plain.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16) == of_the_system
    listener.close()
