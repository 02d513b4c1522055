"""Real gateways that find each other: by Redis, by a name, by a list; and what their control ports say to whom."""

from __future__ import annotations

import re
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.fleet.fill_ids import REGION
from proxy.fleet.protocol import Ask
from proxy.fleet.signing import sign
from tests.fakes.certificates import make_certificates
from tests.fleet.asking import SECRET, ask_signed, control_pid, control_url, members, states, wait_for_states
from tests.fleet.redis_servers import RedisServer, start_redis
from tests.gateways import GatewayProcess, alive, log_lines, send_signal, start_gateway
from tests.servers import free_port
from tests.waiting import wait_until

LOST = re.compile("a node (has left|is gone)")


def start(
    tmp_path: Path, name: str, cluster: dict[str, Any], environment: Mapping[str, str] | None = None, **config: Any
) -> GatewayProcess:
    folder, shelf = tmp_path / name, tmp_path / "shelf"
    for each in (folder, shelf):
        each.mkdir(exist_ok=True)
    everything = {"cluster": {"secret": SECRET, **cluster}, **config}
    return start_gateway(folder, origin=f"file://{shelf}", config=everything, environment=environment)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with start_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, redis: RedisServer) -> Iterator[list[GatewayProcess]]:
    """Two nodes, for tests that harm neither."""
    folder = tmp_path_factory.mktemp("fleet")
    cluster = {"redis": redis.url, "zone": "here", "prefix": "lasting"}
    with start(folder, "a", cluster) as a, start(folder, "b", cluster) as b:
        wait_for_states(a, {a.url: "up", b.url: "up"})
        wait_for_states(b, {a.url: "up", b.url: "up"})
        yield [a, b]


def test_nodes_find_each_other_by_redis_and_tell_how_they_do(fleet: list[GatewayProcess]) -> None:
    a, b = fleet
    assert httpx.get(f"{b.url}/models/nothing.bin", trust_env=False).status_code == 404
    seen = {member["url"]: member for member in members(a)}
    assert {member["zone"] for member in seen.values()} == {"here"}
    assert {member["capacity_bytes"] for member in seen.values()} == {1 << 30}
    assert seen[b.url]["control_url"] == control_url(b)
    assert seen[b.url]["stats"]["size_bytes"] == 1 << 30
    wait_until(lambda: a.metric("warmstart_fleet_members") == 2, "the gauge does not say so")
    assert a.metric("warmstart_fleet_coordinated") == 1
    assert a.metric("warmstart_fleet_twins") == 0


def test_every_key_in_redis_lies_under_the_prefix_and_expires(fleet: list[GatewayProcess], redis: RedisServer) -> None:
    client = redis.client()
    try:
        keys = list(client.scan_iter("lasting*"))
        assert "lasting:members" in keys
        assert len([key for key in keys if key.startswith("lasting:member:")]) == len(fleet)
        assert all(int(client.pttl(key)) != -1 for key in keys)
        prefixes = ("lasting", "replaced", "leaving", "twins")  # of this module's fleets
        assert not [key for key in client.scan_iter("*") if not str(key).startswith(prefixes)]
    finally:
        client.close()


def test_hits_and_misses_of_the_workers_reach_the_other_nodes(fleet: list[GatewayProcess], tmp_path: Path) -> None:
    a, b = fleet
    shelf = Path(a.config).parent.parent / "shelf" / "models"
    shelf.mkdir(exist_ok=True)
    (shelf / "a.bin").write_bytes(b"weights")
    for _ in range(3):
        assert httpx.get(f"{b.url}/models/a.bin", trust_env=False).content == b"weights"

    def seen_by_a() -> dict[str, float]:
        [stats] = [member["stats"] for member in members(a) if member["url"] == b.url] or [{}]
        return dict(stats)

    expected = {"hits": 2, "misses": 1, "origin_bytes": 7}
    wait_until(lambda: expected.items() <= seen_by_a().items(), "the stats do not arrive")


def test_who_has_no_secret_learns_nothing_at_the_control_port(fleet: list[GatewayProcess]) -> None:
    url = control_url(fleet[0])
    for path in ("/-/peer/members", "/-/peer/hello", "/-/peer/ask", "/-/peer/else", "/"):
        assert httpx.get(url + path, trust_env=False).status_code == 401
        assert ask_signed(url, path, secret="another secret, as long").status_code == 401
        answer = httpx.get(url + path, headers={"authorization": "Warmstart nonsense"}, trust_env=False)
        assert (answer.status_code, answer.content) == (401, b"")
    assert httpx.get(f"{url}/-/health", trust_env=False).text == "healthy\n"
    assert fleet[0].metric("warmstart_peer_refused_total") > 0


def test_the_data_port_refuses_strangers_and_counts_them(fleet: list[GatewayProcess]) -> None:
    before = fleet[1].metric("warmstart_peer_refused_total")
    for path in ("/-/peer/hello", "/-/peer/block", "/-/peer/record"):
        assert httpx.get(fleet[1].url + path, trust_env=False).status_code == 401
        assert ask_signed(fleet[1].url, path, secret="another secret, as long").status_code == 401
    assert fleet[1].metric("warmstart_peer_refused_total") == before + 6
    assert ask_signed(fleet[1].url, "/-/peer/hello").json()["self"]["url"] == fleet[1].url


def test_only_gets_are_answered(fleet: list[GatewayProcess]) -> None:
    assert httpx.post(f"{control_url(fleet[0])}/-/peer/hello", trust_env=False).status_code == 405


def test_a_signed_request_counts_once_and_for_one_receiver(fleet: list[GatewayProcess]) -> None:
    url = control_url(fleet[0])
    target = b"/-/peer/members"
    signed = sign([SECRET.encode()], sender="1", receiver="", method="GET", target=target, now_s=time.time())
    headers = {"authorization": signed.authorization}
    first = httpx.get(url + target.decode(), headers=headers, trust_env=False)
    assert first.status_code == 200
    assert signed.proves_answer(first.headers["x-warmstart-proof"], 200, first.content)
    assert httpx.get(url + target.decode(), headers=headers, trust_env=False).status_code == 401
    assert ask_signed(url, target.decode(), receiver="abc").status_code == 401


def test_an_ask_is_answered_by_the_node_that_it_names_and_by_no_other(fleet: list[GatewayProcess]) -> None:
    url = control_url(fleet[0])
    ids = {member["url"]: member["node_id"] for member in members(fleet[0])}
    target = Ask(bytes(32), 0, REGION).target().decode()
    answer = ask_signed(url, target, receiver=ids[fleet[0].url], sender=ids[fleet[1].url])
    assert answer.status_code == 200
    assert answer.json()["source"] == ids[fleet[0].url]
    assert ask_signed(url, target, receiver=ids[fleet[1].url]).status_code == 401
    assert ask_signed(url, target, receiver="").status_code == 401
    assert ask_signed(url, "/-/peer/ask?index=1", receiver=ids[fleet[0].url]).status_code == 400


def test_a_killed_control_process_is_replaced_and_the_members_stay(tmp_path: Path, redis: RedisServer) -> None:
    cluster = {"redis": redis.url, "prefix": "replaced"}
    with start(tmp_path, "a", cluster) as a, start(tmp_path, "b", cluster) as b:
        everybody = {a.url: "up", b.url: "up"}
        wait_for_states(a, everybody)
        before = control_pid(a)
        send_signal(before, signal.SIGKILL)
        wait_until(lambda: a.logs().count("is reached at") == 2, "no new control process")
        wait_for_states(a, everybody)
        assert control_pid(a) != before
        assert not LOST.search(a.logs() + b.logs())
        assert a.metric("warmstart_worker_restarts_total", role="control") == 1


def test_a_killed_node_leaves_and_one_that_drains_says_so_first(tmp_path: Path, redis: RedisServer) -> None:
    cluster = {"redis": redis.url, "prefix": "leaving"}
    with start(tmp_path, "a", cluster) as a, start(tmp_path, "b", cluster) as b, start(tmp_path, "c", cluster) as c:
        (tmp_path / "shelf" / "models").mkdir()
        (tmp_path / "shelf" / "models" / "big.bin").write_bytes(bytes(48 << 20))
        wait_for_states(a, {a.url: "up", b.url: "up", c.url: "up"})
        wait_for_states(b, {a.url: "up", b.url: "up", c.url: "up"})
        c.kill()
        wait_for_states(a, {a.url: "up", b.url: "up", c.url: "gone"})
        with socket.create_connection(("127.0.0.1", int(b.url.rsplit(":", 1)[1])), timeout=30) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
            connection.sendall(b"GET /models/big.bin HTTP/1.1\r\nHost: gateway\r\n\r\n")
            assert connection.recv(1024).startswith(b"HTTP/1.1 200")
            send_signal(b.pid, signal.SIGTERM)
            wait_for_states(a, {a.url: "up", b.url: "draining", c.url: "gone"})
            assert states(b)[b.url] == "draining"  # its control port answers for the body that is under way
            while connection.recv(1 << 20):
                pass
        wait_until(lambda: not alive(b.pid), "the body has ended, and the node is still there")
        wait_for_states(a, {a.url: "up", b.url: "gone", c.url: "gone"})
        said = {line["message"]: line["level"] for line in log_lines(a.logs())}
        assert said[f"a node is gone without leaving: {c.url}"] == "warning"
        assert said[f"a node has left: {b.url}"] == "info"
        with redis.client() as client:
            wait_until(lambda: len(list(client.scan_iter("leaving:member:*"))) == 1, "what they wrote stays")


@pytest.mark.parametrize("found_by", ["redis", "peers"])
def test_nodes_whose_secrets_differ_say_so_both_of_them(tmp_path: Path, redis: RedisServer, found_by: str) -> None:
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    urls = [f"http://{address}" for address in addresses]
    cluster: dict[str, Any] = {"redis": redis.url, "prefix": "differing"} if found_by == "redis" else {"peers": urls}
    secrets = ["the secret of the one node", "the secret of the other"]
    with (
        start(tmp_path, "a", _differing(cluster, secrets[0]), listen=addresses[0]) as a,
        start(tmp_path, "b", _differing(cluster, secrets[1]), listen=addresses[1]) as b,
    ):
        for node, other in ((a, addresses[1]), (b, addresses[0])):
            wait_until(lambda: _warns(node, "cluster.secret", other), f"no word of {other}:\n{node.logs()}")  # noqa: B023
            assert node.metric("warmstart_fleet_members") == 1
            assert not any(secret in node.logs() for secret in secrets)


def _differing(cluster: dict[str, Any], secret: str) -> dict[str, Any]:
    return {**cluster, "secret": secret, "control": f"127.0.0.1:{free_port()}"}


def _warns(node: GatewayProcess, *words: str) -> bool:
    lines = [line["message"] for line in log_lines(node.logs()) if line["level"] == "warning"]
    return any(all(word in line for word in words) for line in lines)


def test_without_redis_the_last_members_stay_and_with_it_again_all_goes_on(tmp_path: Path) -> None:
    with start_redis(tmp_path) as redis:
        cluster = {"redis": redis.url}
        with start(tmp_path, "a", cluster) as a, start(tmp_path, "b", cluster) as b:
            everybody = {a.url: "up", b.url: "up"}
            wait_for_states(a, everybody)
            wait_for_states(b, everybody)
            redis.kill()
            wait_until(lambda: a.metric("warmstart_fleet_coordinated") == 0, "nobody notices")
            wait_until(lambda: a.metric("warmstart_fleet_failed_beats_total") >= 2, "it does not try again")
            assert states(a) == everybody
            assert httpx.get(f"{a.url}/-/ready", trust_env=False).status_code == 200
            redis.restart()
            wait_until(lambda: a.metric("warmstart_fleet_coordinated") == 1, "it does not go on")
            wait_for_states(a, everybody)
            assert not LOST.search(a.logs() + b.logs())
        assert [line for line in log_lines(a.logs()) if "Redis does not answer" in line["message"]]


@pytest.mark.long
def test_a_node_that_starts_without_redis_serves_alone_and_joins_when_it_comes(tmp_path: Path) -> None:
    with start_redis(tmp_path) as redis:
        redis.kill()
        with start(tmp_path, "a", {"redis": redis.url}) as a:
            wait_for_states(a, {a.url: "up"})
            assert httpx.get(f"{a.url}/-/ready", trust_env=False).status_code == 200
            redis.restart()
            with start(tmp_path, "b", {"redis": redis.url}) as b:
                wait_for_states(a, {a.url: "up", b.url: "up"})


@pytest.mark.long
def test_nodes_find_each_other_by_a_name_with_several_addresses(tmp_path: Path) -> None:
    """The name is known to the gateways alone: every Python process of theirs is born with this."""
    hosts = ["127.0.0.2", "127.0.0.3"]
    (tmp_path / "names").mkdir()
    (tmp_path / "names" / "sitecustomize.py").write_text(NAMES.format(hosts=hosts))
    environment = {"PYTHONPATH": str(tmp_path / "names")}
    port = free_port()
    nodes = [start(tmp_path, host, {"dns": f"{NAME}:{port}"}, environment, listen=f"{host}:{port}") for host in hosts]
    with nodes[0] as a:
        with nodes[1] as b:
            everybody = {a.url: "up", b.url: "up"}
            wait_for_states(a, everybody)
            wait_for_states(b, everybody)
            assert a.metric("warmstart_fleet_members") == 2
        wait_for_states(a, {a.url: "up", b.url: "gone"})


NAME = "peers.fleet.invalid"
NAMES = f"""
import socket

asked = socket.getaddrinfo


def getaddrinfo(host, *rest, **options):
    if host != {NAME!r}:
        return asked(host, *rest, **options)
    return [info for each in {{hosts}} for info in asked(each, *rest, **options)]


socket.getaddrinfo = getaddrinfo
"""


@pytest.mark.long
def test_nodes_find_each_other_by_a_list_and_strangers_are_none(tmp_path: Path) -> None:
    ports = [free_port() for _ in range(3)]
    urls = [f"http://127.0.0.1:{port}" for port in ports]

    def join(index: int, **cluster: Any) -> GatewayProcess:
        listen = f"127.0.0.1:{ports[index]}"
        return start(tmp_path, f"node-{index}", {"peers": urls, "control": "127.0.0.1:0", **cluster}, listen=listen)

    with join(0) as a, join(1) as b, join(2, secret="the secret of others") as stranger:
        everybody = {a.url: "up", b.url: "up"}
        wait_for_states(a, everybody)
        wait_for_states(b, everybody)
        assert stranger.metric("warmstart_fleet_members") == 1
        b.kill()
        wait_for_states(a, {a.url: "up", b.url: "gone"})


@pytest.mark.long
@pytest.mark.parametrize("event_loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("name", [None, "fleet.example.com"])
def test_nodes_with_certificates_find_each_other_over_tls(tmp_path: Path, event_loop: str, name: str | None) -> None:
    certificates = make_certificates(tmp_path) if name is None else make_certificates(tmp_path, name)
    urls = [f"https://127.0.0.1:{free_port()}" for _ in range(2)]

    def join(index: int) -> GatewayProcess:
        config = {
            "tls": {"certificate": str(certificates.server_file), "key": str(certificates.key_file)},
            "listen": urls[index].removeprefix("https://"),
            "event_loop": event_loop,
        }
        cluster = {"peers": urls, "control": "127.0.0.1:0", "ca_file": str(certificates.ca_file)}
        if name is not None:
            cluster["tls_name"] = name
        return start(tmp_path, f"node-{index}", cluster, {"PYTHONASYNCIODEBUG": "1"}, **config)

    with join(0) as a, join(1) as b:
        everybody = {a.url: "up", b.url: "up"}
        wait_for_states(a, everybody)
        wait_for_states(b, everybody)
        assert control_url(a).startswith("https://127.0.0.1:")
        assert not [line for line in log_lines(a.logs()) if line["level"] == "error"]


@pytest.mark.long
def test_a_redis_that_hangs_is_one_that_does_not_answer(tmp_path: Path) -> None:
    with (
        start_redis(tmp_path) as redis,
        start(tmp_path, "a", {"redis": redis.url}) as a,
        start(tmp_path, "b", {"redis": redis.url}) as b,
    ):
        everybody = {a.url: "up", b.url: "up"}
        wait_for_states(a, everybody)
        send_signal(redis.pid, signal.SIGSTOP)
        wait_until(lambda: a.metric("warmstart_fleet_coordinated") == 0, "nobody notices")
        assert states(a) == everybody
        assert httpx.get(f"{a.url}/models/nothing.bin", trust_env=False, timeout=30).status_code == 404
        send_signal(redis.pid, signal.SIGCONT)
        wait_until(lambda: a.metric("warmstart_fleet_coordinated") == 1, "it does not go on")
        wait_for_states(a, everybody)
        assert not LOST.search(a.logs() + b.logs())


@pytest.mark.long
def test_two_nodes_with_one_id_are_said_loudly(tmp_path: Path, redis: RedisServer) -> None:
    cluster = {"redis": redis.url, "prefix": "twins"}
    with start(tmp_path, "a", cluster):
        pass
    layout = Path("cache", "v1", "layout")
    (tmp_path / "b" / layout).parent.mkdir(parents=True)
    (tmp_path / "b" / layout).write_bytes((tmp_path / "a" / layout).read_bytes())
    with start(tmp_path, "a", cluster) as a, start(tmp_path, "b", cluster) as b:
        wait_until(lambda: "two nodes have one id" in a.logs(), "nobody says so")
        wait_until(lambda: a.metric("warmstart_fleet_twins") == 1, "nor does the gauge")
        [line] = [line for line in log_lines(a.logs()) if "two nodes have one id" in line["message"]]
        assert line["level"] == "error"
        assert b.url in line["message"]


def test_a_control_port_that_is_taken_is_one_line_that_names_the_setting(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RuntimeError) as caught:
            start(tmp_path, "a", {"peers": "http://127.0.0.1:9", "control": f"127.0.0.1:{port}"})
    assert f"cluster.control: '127.0.0.1:{port}' can't be listened on" in str(caught.value)


def test_a_redis_url_with_an_option_that_nobody_knows_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        start(tmp_path, "a", {"redis": "redis://:hush@127.0.0.1:1/0?db=none"})
    assert "cluster.redis: 'redis://127.0.0.1:1/0' can't be used" in str(caught.value)
    assert "hush" not in str(caught.value)
